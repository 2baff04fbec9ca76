#include <algorithm>

#include "federation/rounds/aggregate_threads.h"
#include "offshore/sealed_update.h"

namespace tidegate::offshore {
namespace {

using protocols::UpdateView;

// An update on its way from the disk to the sum, with memory for the next one.
struct Opened {
  Status status;
  Bytes plain;
  std::optional<UpdateView> view;
};

Status OpenStored(const federation::StoredUpdate& update, const JobFacts& job,
                  const crypto::AgreeSecretKey& recipient, const BlockReader& read, Opened* out) {
  const auto release = protocols::Decode<protocols::ReleaseManifest>(update.release.body.items);
  if (!release) return DataLoss("a stored release: {}", release.error().reason);
  TG_ASSIGN_OR_RETURN(out->view, ReopenUpdate(*release, job, recipient, read, &out->plain));
  return OkStatus();
}

// As many updates as are no larger than the sum, so that one walk over it adds them all; each
// thread opens as many.
size_t OpenAtOnce(const JobFacts& job, uint64_t update_bytes, unsigned threads) {
  constexpr uint64_t kMost = 8;
  const uint64_t fit = std::clamp<uint64_t>(sizeof(int64_t) * job.values / update_bytes, 1, kMost);
  return fit < threads ? fit : fit / threads * threads;
}

}  // namespace

Result<federation::WeightedSum> SumUpdates(std::span<const federation::StoredUpdate> updates,
                                           const JobFacts& job,
                                           const crypto::AgreeSecretKey& recipient,
                                           const BlockReader& read, unsigned threads) {
  federation::WeightedSum sum(job.values);
  if (updates.empty()) return sum;
  const uint64_t bytes = protocols::UpdateBytes(
      job.manifest.layout, GroupsOf(job.manifest, updates[0].key.round), job.manifest.codec);
  std::vector<Opened> open(std::min(updates.size(), OpenAtOnce(job, bytes, threads)));
  std::vector<federation::WeightedSum::Contribution> contributions;
  for (size_t first = 0; first < updates.size(); first += open.size()) {
    const auto batch = updates.subspan(first, std::min(open.size(), updates.size() - first));
    // A thread each: where the blocks are no longer in the page cache, most of them wait for the
    // disk.
    federation::OnThreads(static_cast<unsigned>(batch.size()), batch.size(), [&](size_t i) {
      open[i].status = OpenStored(batch[i], job, recipient, read, &open[i]);
    });
    contributions.clear();
    for (size_t i = 0; i < batch.size(); ++i) {
      TG_RETURN_IF_ERROR(open[i].status);
      contributions.push_back({&*open[i].view, batch[i].weight});
    }
    TG_RETURN_IF_ERROR(sum.Add(contributions, threads));
  }
  return sum;
}

}  // namespace tidegate::offshore
