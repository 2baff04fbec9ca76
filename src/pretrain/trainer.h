// One step of pretraining over all ranks (ZeRO stage 1): every rank runs its micro-batches, the
// gradients are summed into the pieces that each rank keeps (reduce-scatter), AdamW runs on those,
// and the new weights are gathered. Not thread-safe.
//
// A step is a pure function of the state: which sequences it reads does not depend on the number of
// ranks. Sums of gradients begin as the pass that makes them goes on, and weights travel as the
// next are updated, on a device by its events. With `ordered` sums and a power of two of
// micro-batches a rank, weights, losses and norms are the same bits for any number of ranks;
// without, sums differ in their last bits.
#pragma once

#include <memory>
#include <vector>

#include "base/status.h"
#include "cluster/collective_stream.h"
#include "cluster/collectives.h"
#include "model/full_model.h"
#include "pretrain/gradient_tree.h"
#include "pretrain/partition.h"
#include "pretrain/samples.h"
#include "pretrain/shard.h"
#include "train/loop.h"

namespace tidegate::pretrain {

struct StepConfig {
  train::ScheduleConfig schedule;
  train::AdamWConfig adamw;
  int64_t global_batch_size = 8;  // sequences a step
  int64_t micro_batch_size = 1;   // sequences a pass; the batch is a multiple of it times ranks
  bool ordered = true;
};
// Names the option that is out of range or does not fit the number of ranks.
Status CheckStep(const StepConfig& config, int ranks);

// What a rank tells the others with a step.
struct Notice {
  bool stop = false;   // asked to end
  bool saved = false;  // its part of the last checkpoint is durable
};
struct StepOutcome {
  train::StepResult result;
  bool stop = false;   // some rank was asked to end
  bool saved = false;  // every rank's part is durable
};

class Trainer {
 public:
  // Reads of the ranks' small numbers go over `control`, gradients and weights over `data`, which
  // may be the same; both null for a rank alone. All must outlive the trainer.
  static Result<std::unique_ptr<Trainer>> Create(model::FullModel& model, SampleSource& source,
                                                 const Partition& partition, Shard& shard,
                                                 cluster::Collectives* control,
                                                 cluster::Collectives* data,
                                                 const StepConfig& config);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;
  // After the masters were set: every rank's weights are made of them.
  Status SpreadWeights();
  // kFailedPrecondition, with nothing changed, where the loss or the norm is not finite. After any
  // other error the group is over.
  Result<StepOutcome> Step(const Notice& notice);
  // Whether every rank says so; whether all say the same.
  Result<bool> AllTrue(bool mine);
  Result<bool> SameOnAll(double mine);
  // All masters in the flat layout, on rank 0; empty on the others.
  Result<std::vector<float>> GatherMasters();
  // Mean loss of the first `sequences` (a multiple of the batch) of another source, whose order is
  // that of its data.
  Result<double> Evaluate(SampleSource& source, int64_t sequences);

 private:
  Trainer(model::FullModel& model, SampleSource& source, const Partition& partition, Shard& shard,
          cluster::Collectives* control, cluster::Collectives* data, const StepConfig& config);
  int ranks() const { return control_ == nullptr ? 1 : control_->size(); }
  int rank() const { return control_ == nullptr ? 0 : control_->rank(); }
  int64_t leaves() const { return config_.global_batch_size / config_.micro_batch_size / ranks(); }
  float* gradients() const { return static_cast<float*>(model_.gradients()); }

  Result<std::vector<double>> Passes(int64_t step);
  // Of micro-batch `leaf`, when nothing more is added to [begin, …).
  void OnFinal(int64_t leaf, int64_t begin);
  // On a device without a stream for its sums a pass must end before they begin.
  bool Overlaps() const { return model_.table().device == nullptr || !events_.empty(); }
  void Reduce(const Bucket& bucket);
  // Hands the call over, for when what the model's stream was asked for by now has been done.
  void SubmitAfter(const Bucket& bucket, cluster::CollectiveStream::Work call);
  size_t IndexOf(const Bucket& bucket) const;
  Status Chunks(std::vector<double>* sums);
  Result<std::vector<double>> Gather(const std::vector<double>& mine);
  Status OnControl(const cluster::CollectiveStream::Work& call);
  Status Update(double grad_scale, double learning_rate);
  void Apply(const Bucket& bucket, double grad_scale, double learning_rate);
  void SpreadBucket(const Bucket& bucket);

  model::FullModel& model_;
  SampleSource& source_;
  const Partition& partition_;
  Shard& shard_;
  cluster::Collectives* control_;
  cluster::Collectives* data_;
  StepConfig config_;
  std::unique_ptr<cluster::CollectiveStream> stream_;  // of data_; null for a rank alone
  std::unique_ptr<GradientTree> tree_;                 // with ordered sums
  std::vector<std::vector<Stretch>> stretches_;        // of each bucket
  std::vector<void*> events_;                          // of each bucket, on a device with a stream
  size_t reduced_ = 0;                                 // buckets of this step, from the first
};

}  // namespace tidegate::pretrain
