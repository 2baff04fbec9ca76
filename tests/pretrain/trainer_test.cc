// Steps over ranks: the same losses, norms and weights for any number of them.
#include "pretrain/trainer.h"

#include "ranks.h"

namespace tidegate::pretrain {
namespace {

struct Curve {
  std::vector<double> losses, norms;
  std::vector<float> masters;
  bool operator==(const Curve&) const = default;
};

Curve Train(int ranks, int steps, const StepConfig& config,
            const model::ComputeOptions& compute = {}, int64_t bucket_elements = 1) {
  Curve curve;
  OnRanks(ranks, [&](cluster::Collectives* group) {
    Rank rank(TinyConfig(), config, group, compute, bucket_elements);
    InitialiseMasters(*rank.model, rank.partition, 5, &rank.shard);
    if (const Status s = rank.trainer->SpreadWeights(); !s.ok()) throw std::runtime_error("spread");
    Curve mine;
    for (int i = 0; i < steps; ++i) {
      const StepOutcome outcome = Must(rank.trainer->Step({}));
      mine.losses.push_back(outcome.result.loss);
      mine.norms.push_back(outcome.result.grad_norm);
    }
    mine.masters = Must(rank.trainer->GatherMasters());
    if (rank.rank != 0) return;
    mine.masters.resize(static_cast<size_t>(rank.model->layout().tensors.back().offset));
    curve = std::move(mine);
  });
  return curve;
}

TEST(Trainer, RanksChangeNoBit) {
  const Curve one = Train(1, 6, TinyStep());
  ASSERT_EQ(one.losses.size(), 6u);
  EXPECT_LT(one.losses.back(), one.losses.front());
  EXPECT_EQ(one, Train(2, 6, TinyStep()));
  EXPECT_EQ(one, Train(4, 6, TinyStep()));
  EXPECT_EQ(one, Train(8, 6, TinyStep()));
}

TEST(Trainer, NeitherBucketsNorThreadsChangeABit) {
  const Curve one = Train(1, 3, TinyStep());
  EXPECT_EQ(one, Train(2, 3, TinyStep(), {.threads = 2}, 1 << 30));
}

TEST(Trainer, RanksChangeNoBitInBf16) {
  if (kernels::TableFor(kernels::Backend::kCpu, kernels::DType::kBF16) == nullptr) {
    GTEST_SKIP() << "this CPU has no bf16 instructions (AVX512-bf16)";
  }
  const model::ComputeOptions compute{.dtype = kernels::DType::kBF16};
  const Curve one = Train(1, 4, TinyStep(), compute);
  EXPECT_EQ(one, Train(4, 4, TinyStep(), compute));
  const Curve exact = Train(1, 4, TinyStep());
  for (size_t i = 0; i < one.losses.size(); ++i) {
    EXPECT_NEAR(one.losses[i], exact.losses[i], 0.01) << i;
  }
}

// Micro-batches that are no power of two, and sums as they come, differ in their last bits alone.
TEST(Trainer, FastSumsAreWithinABoundOfOrderedOnes) {
  StepConfig config = TinyStep();
  const Curve ordered = Train(2, 6, config);
  config.ordered = false;
  const Curve fast = Train(2, 6, config);
  ASSERT_EQ(fast.losses.size(), ordered.losses.size());
  for (size_t i = 0; i < fast.losses.size(); ++i) {
    EXPECT_NEAR(fast.losses[i], ordered.losses[i], 1e-5 * ordered.losses[i]);
    EXPECT_NEAR(fast.norms[i], ordered.norms[i], 1e-4 * ordered.norms[i]);
  }
}

TEST(Trainer, ThreeRanksLearnTheSameToTheLastBits) {
  StepConfig config = TinyStep();
  config.global_batch_size = 12;
  const Curve one = Train(1, 4, config), three = Train(3, 4, config);
  for (size_t i = 0; i < one.losses.size(); ++i) {
    EXPECT_NEAR(one.losses[i], three.losses[i], 1e-6) << i;
  }
}

// The batch is what counts, however it is cut into passes.
TEST(Trainer, LossIsTheMeanOverTheBatch) {
  StepConfig config = TinyStep();
  const Curve ones = Train(1, 4, config);
  config.micro_batch_size = 4;
  const Curve fours = Train(2, 4, config);
  for (size_t i = 0; i < ones.losses.size(); ++i) {
    EXPECT_NEAR(ones.losses[i], fours.losses[i], 1e-5) << i;
  }
}

TEST(Trainer, EvaluationIsTheSameForAnyNumberOfRanks) {
  std::vector<double> losses;
  for (const int ranks : {1, 2, 4}) {
    OnRanks(ranks, [&](cluster::Collectives* group) {
      Rank rank(TinyConfig(), TinyStep(), group);
      InitialiseMasters(*rank.model, rank.partition, 5, &rank.shard);
      ASSERT_TRUE(rank.trainer->SpreadWeights().ok());
      Walks held_out(16);
      const double loss = Must(rank.trainer->Evaluate(held_out, 6));
      if (rank.rank == 0) losses.push_back(loss);
    });
  }
  ASSERT_EQ(losses.size(), 3u);
  EXPECT_EQ(losses[0], losses[1]);
  EXPECT_EQ(losses[0], losses[2]);
  EXPECT_NEAR(losses[0], std::log(300.0), 0.1);
}

TEST(Trainer, EveryRankHearsWhatOneWasAsked) {
  OnRanks(2, [&](cluster::Collectives* group) {
    Rank rank(TinyConfig(), TinyStep(), group);
    InitialiseMasters(*rank.model, rank.partition, 5, &rank.shard);
    ASSERT_TRUE(rank.trainer->SpreadWeights().ok());
    const bool first = rank.rank == 0;
    StepOutcome outcome = Must(rank.trainer->Step({.stop = !first, .saved = first}));
    EXPECT_TRUE(outcome.stop);
    EXPECT_FALSE(outcome.saved);
    outcome = Must(rank.trainer->Step({.saved = true}));
    EXPECT_FALSE(outcome.stop);
    EXPECT_TRUE(outcome.saved);
  });
}

TEST(Trainer, AWildLearningRateEndsTheRunAndChangesNothing) {
  StepConfig config = TinyStep();
  config.schedule = {.type = train::SchedulerType::kConstant, .learning_rate = 1e30};
  config.adamw.max_grad_norm = 0;
  OnRanks(2, [&](cluster::Collectives* group) {
    Rank rank(TinyConfig(), config, group);
    InitialiseMasters(*rank.model, rank.partition, 5, &rank.shard);
    ASSERT_TRUE(rank.trainer->SpreadWeights().ok());
    ASSERT_TRUE(rank.trainer->Step({}));
    const auto failed = rank.trainer->Step({});
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().code(), Code::kFailedPrecondition);
    EXPECT_NE(failed.error().message().find("learning rate"), std::string::npos);
    EXPECT_EQ(rank.shard.step, 1);
  });
}

TEST(Trainer, DamagedDataIsNamed) {
  Rank rank(TinyConfig(), TinyStep(), nullptr);
  rank.source.fail_at = 3;
  const auto failed = rank.trainer->Step({});
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().message(), "shard 3 is damaged");
}

TEST(Trainer, ABatchThatDoesNotFitTheRanksIsRefusedWithOneThatDoes) {
  StepConfig config = TinyStep();
  config.global_batch_size = 10;
  config.micro_batch_size = 2;
  EXPECT_TRUE(CheckStep(config, 5).ok());
  EXPECT_NE(CheckStep(config, 4).message().find("use 16"), std::string::npos);
  config.micro_batch_size = 0;
  EXPECT_EQ(CheckStep(config, 1).code(), Code::kInvalidArgument);
}

TEST(Trainer, DataThatDoesNotFitTheModelIsRefused) {
  model::ModelConfig config = TinyConfig();
  config.max_positions = 32;
  const auto model = Must(model::FullModel::Create(config, {}, {}, FlatMultiple(1)));
  const Partition partition(model->layout(), 1, 0, 1);
  Shard shard = Must(NewShard(*model, partition));
  const auto expect = [&](Walks source, const char* what) {
    const auto made =
        Trainer::Create(*model, source, partition, shard, nullptr, nullptr, TinyStep());
    ASSERT_FALSE(made);
    EXPECT_NE(made.error().message().find(what), std::string::npos) << made.error().message();
  };
  expect(Walks(33), "max_length 33");
  expect(Walks(32, 301), "has 301 ids");
}

}  // namespace
}  // namespace tidegate::pretrain
