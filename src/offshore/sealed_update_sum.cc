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
constexpr uint64_t kMostOpen = 8;

uint64_t FitInSum(std::span<const federation::StoredUpdate> updates, const JobFacts& job) {
  const uint64_t bytes = protocols::UpdateBytes(
      job.manifest.layout, GroupsOf(job.manifest, updates[0].key.round), job.manifest.codec);
  return std::clamp<uint64_t>(sizeof(int64_t) * job.values / bytes, 1, kMostOpen);
}

size_t OpenAtOnce(uint64_t fit, unsigned threads) {
  return fit < threads ? fit : fit / threads * threads;
}

using Contributions = std::vector<federation::WeightedSum::Contribution>;

// A thread each: where the blocks are no longer in the page cache, most of them wait for the disk.
Result<Contributions> OpenBatch(std::span<const federation::StoredUpdate> batch,
                                const JobFacts& job, const crypto::AgreeSecretKey& recipient,
                                const BlockReader& read, std::span<Opened> open) {
  federation::OnThreads(static_cast<unsigned>(batch.size()), batch.size(), [&](size_t i) {
    open[i].status = OpenStored(batch[i], job, recipient, read, &open[i]);
  });
  Contributions contributions;
  for (size_t i = 0; i < batch.size(); ++i) {
    TG_RETURN_IF_ERROR(open[i].status);
    contributions.push_back({&*open[i].view, batch[i].weight});
  }
  return contributions;
}

}  // namespace

Result<std::vector<float>> StepOfUpdates(std::span<const federation::StoredUpdate> updates,
                                         const JobFacts& job,
                                         const crypto::AgreeSecretKey& recipient,
                                         const BlockReader& read, const StepInput& input,
                                         federation::ServerMoments* moments, unsigned threads) {
  const protocols::Layout& layout = job.manifest.layout;
  if (!updates.empty() && updates.size() <= FitInSum(updates, job)) {
    std::vector<Opened> open(updates.size());
    TG_ASSIGN_OR_RETURN(const Contributions contributions,
                        OpenBatch(updates, job, recipient, read, open));
    return federation::ServerStep(input.rule, input.parameters, contributions, layout, input.groups,
                                  moments, threads);
  }
  TG_ASSIGN_OR_RETURN(const federation::WeightedSum sum,
                      SumUpdates(updates, job, recipient, read, threads));
  return federation::ServerStep(input.rule, input.parameters, sum.sum(), sum.total_weight(), layout,
                                input.groups, moments, threads);
}

Result<federation::WeightedSum> SumUpdates(std::span<const federation::StoredUpdate> updates,
                                           const JobFacts& job,
                                           const crypto::AgreeSecretKey& recipient,
                                           const BlockReader& read, unsigned threads) {
  federation::WeightedSum sum(job.values);
  if (updates.empty()) return sum;
  std::vector<Opened> open(std::min(updates.size(), OpenAtOnce(FitInSum(updates, job), threads)));
  for (size_t first = 0; first < updates.size(); first += open.size()) {
    const auto batch = updates.subspan(first, std::min(open.size(), updates.size() - first));
    TG_ASSIGN_OR_RETURN(const Contributions contributions,
                        OpenBatch(batch, job, recipient, read, open));
    TG_RETURN_IF_ERROR(sum.Add(contributions, threads));
  }
  return sum;
}

}  // namespace tidegate::offshore
