// Sharded checkpoints of pretraining (docs/formats/pretrain-checkpoint.md):
//
//   DIR/blocks/0003/…              a block store a rank: only that rank writes it
//   DIR/step-00000100/part-0003.json  what rank 3 kept: slices of tensors, and their blocks
//   DIR/step-00000100/index.json      written last, by rank 0: the step counts from then on
//
// Slices name tensors and ranges of elements, not ranks, so that any number of ranks reads what
// another number wrote, bit for bit. Not thread-safe.
#pragma once

#include <filesystem>
#include <future>
#include <optional>
#include <vector>

#include "base/status.h"
#include "model/full_model.h"
#include "pretrain/partition.h"
#include "pretrain/shard.h"
#include "train/state.h"

namespace tidegate::pretrain {

// A rank's side of writing them. Save copies the shard and returns; a thread makes it durable
// meanwhile, and reads nothing of the model.
class CheckpointWriter {
 public:
  // `keep` (>= 1): whole checkpoints that stay.
  CheckpointWriter(std::filesystem::path dir, int rank, int ranks, int keep);
  // Waits for the thread.
  ~CheckpointWriter();

  // The one before must be committed, or given up, on every rank.
  Status Save(const model::FullModel& model, const Partition& partition, const Shard& shard);
  // Whether a Save is not committed yet.
  bool pending() const { return pending_.has_value(); }
  // Whether this rank's part of it is durable (true too when writing it failed, which Commit
  // tells).
  bool PartDone();
  // When every rank's part is done: rank 0 makes it count and removes the oldest ones; the others
  // only tell an error of their part.
  Status Commit(const model::FullModel& model, const train::Identity& identity);
  // PartDone, waited for.
  void Wait();

 private:
  struct Snapshot;
  Status WritePart(const Snapshot& snapshot) const;
  Status CollectGarbage() const;
  Status WriteIndex(int64_t step, const model::FullModel& model,
                    const train::Identity& identity) const;
  Status Prune() const;

  std::filesystem::path dir_;
  int rank_, ranks_, keep_;
  std::optional<int64_t> pending_;  // its step
  std::future<Status> part_;
};

// Steps that count, newest first. Nothing where there is no folder.
Result<std::vector<int64_t>> CheckpointSteps(const std::filesystem::path& dir);

// This rank's pieces of it. kDataLoss naming what is damaged or missing, kFailedPrecondition where
// it belongs to another run.
Status LoadCheckpoint(const std::filesystem::path& dir, int64_t step,
                      const train::Identity& identity, const model::FullModel& model,
                      const Partition& partition, Shard* shard);

}  // namespace tidegate::pretrain
