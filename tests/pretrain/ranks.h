// A small model trained by ranks that are threads, for the tests of src/pretrain.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/rng.h"
#include "cluster/thread_group.h"
#include "pretrain/trainer.h"

namespace tidegate::pretrain {

template <typename T>
T Must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().ToString());
  return std::move(result).value();
}

// Sequences with something to learn: each token follows from the one before, most of the time.
class Walks final : public SampleSource {
 public:
  explicit Walks(int64_t length, int32_t vocab = 300) : length_(length), vocab_(vocab) {}
  int64_t length() const override { return length_; }
  uint64_t samples_per_epoch() const override { return 1000; }
  uint64_t fingerprint() const override { return 7; }
  int64_t vocab_size() const override { return vocab_; }
  Status Read(uint64_t index, std::span<int32_t> out) override {
    if (index == fail_at) return Status(Code::kDataLoss, "shard 3 is damaged");
    for (size_t i = 0; i < out.size(); ++i) {
      const auto words = RandomWords(1, RngPurpose::kTest, static_cast<uint32_t>(index), i);
      const bool jumps = i == 0 || words[0] % 8 == 0;
      out[i] = jumps ? static_cast<int32_t>(words[1] % static_cast<uint32_t>(vocab_))
                     : (out[i - 1] * 5 + 3) % vocab_;
    }
    return OkStatus();
  }
  uint64_t fail_at = UINT64_MAX;

 private:
  int64_t length_;
  int32_t vocab_;
};

inline model::ModelConfig TinyConfig() {
  model::ModelConfig config;
  config.hidden_size = 48;
  config.intermediate_size = 96;
  config.num_layers = 3;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 12;
  config.vocab_size = 300;
  config.max_positions = 64;
  config.tied = true;
  return config;
}

inline StepConfig TinyStep() {
  StepConfig config;
  config.schedule = {.type = train::SchedulerType::kCosine,
                     .learning_rate = 1e-2,
                     .warmup_steps = 2,
                     .total_steps = 20};
  config.adamw.beta2 = 0.95;
  config.adamw.weight_decay = 0.1;
  config.global_batch_size = 8;
  config.micro_batch_size = 1;
  return config;
}

// One rank: its model, shard and trainer. `group` is null for a rank alone; gradients and weights
// go over `data` where there is one.
struct Rank {
  Rank(const model::ModelConfig& config, const StepConfig& step, cluster::Collectives* group,
       const model::ComputeOptions& compute = {}, int64_t bucket_elements = 1,
       cluster::Collectives* data = nullptr)
      : ranks(group == nullptr ? 1 : group->size()),
        rank(group == nullptr ? 0 : group->rank()),
        model(Must(model::FullModel::Create(config, compute, {}, FlatMultiple(ranks)))),
        partition(model->layout(), ranks, rank, bucket_elements),
        shard(Must(NewShard(*model, partition))),
        source(32),
        trainer(Must(Trainer::Create(*model, source, partition, shard, group,
                                     data == nullptr ? group : data, step))) {}

  int ranks, rank;
  std::unique_ptr<model::FullModel> model;
  Partition partition;
  Shard shard;
  Walks source;
  std::unique_ptr<Trainer> trainer;
};

// Runs `body` on each of `ranks` threads; null groups for one.
inline void OnRanks(int ranks, const std::function<void(cluster::Collectives*)>& body) {
  if (ranks == 1) return body(nullptr);
  auto groups =
      Must(cluster::MakeThreadGroup(ranks, {.deadline = std::chrono::milliseconds(20000)}));
  std::vector<std::thread> threads;
  for (auto& group : groups) {
    threads.emplace_back([&body, &group] {
      try {
        body(group.get());
      } catch (const std::exception& error) {
        group->Abort(error.what());
        ADD_FAILURE() << "rank " << group->rank() << ": " << error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace tidegate::pretrain
