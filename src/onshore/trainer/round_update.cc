#include "onshore/trainer/round_update.h"

#include <algorithm>

#include "base/bytes.h"
#include "crypto/hash.h"
#include "protocols/codec.h"

namespace tidegate::trainer {

protocols::UpdateHeader HeaderOf(const protocols::JobManifest& job, const protocols::Id16& id,
                                 const std::string& site, const onshore::RoundStart& start,
                                 const TrainedWith& with) {
  protocols::UpdateHeader header;
  header.job = id;
  header.round = start.round;
  header.phase = start.phase;
  header.groups = job.phase_groups.items.at(start.phase);
  header.codec = job.codec;
  std::copy_n(site.begin(), std::min(site.size(), header.site.size()), header.site.begin());
  header.base_hash = job.base_hash;
  header.layout_digest = crypto::Sha256::Of(protocols::Encode(job.layout));
  header.weight = with.weight;
  if (start.train_loss) header.metrics.train_loss_milli = with.train_loss_milli;
  if (start.heldout_loss) header.metrics.heldout_loss_milli = with.heldout_loss_milli;
  return header;
}

uint64_t RoundingKey(const protocols::JobManifest& job, const protocols::Id16& id,
                     const std::string& site) {
  uint8_t seed[8];
  StoreLe64(seed, job.seed);
  const Digest digest = crypto::Sha256::Of(
      {AsBytes(std::string_view("tidegate/v1/rounding\0", 21)), seed, id, AsBytes(site)});
  return LoadLe64(digest.data());
}

}  // namespace tidegate::trainer
