#include "train/loop.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <cmath>

#include "fake_engine.h"
#include "tests/model/golden_model.h"
#include "train/checkpoint.h"

namespace tidegate::train {
namespace {

using tokens::TokenSequence;

constexpr size_t kParameters = 24;

LoopConfig Config(int accumulation, int64_t total = 100) {
  LoopConfig config;
  config.schedule = {.type = SchedulerType::kCosine,
                     .learning_rate = 1e-2,
                     .warmup_steps = 2,
                     .total_steps = total};
  config.gradient_accumulation_steps = accumulation;
  return config;
}

// A run over real batches with the fake engine.
struct Training {
  Training(std::vector<TokenSequence> data, int rows, const LoopConfig& config, double dropout = 0,
           bool shuffle = true)
      : engine(kParameters, dropout) {
    source = tokens::MakeBatchSource(std::move(data), {.seed = 9,
                                                       .shuffle = shuffle,
                                                       .packed = false,
                                                       .max_length = 64,
                                                       .rows_per_batch = rows})
                 .value();
    state = TrainState::Start(SomeParameters(kParameters), 9);
    Continue(config);
  }
  void Continue(const LoopConfig& config) {
    loop.emplace(TrainLoop::Create(engine, *source,
                                   kernels::TableFor(kernels::Backend::kCpu, kernels::DType::kF32),
                                   1, config, state)
                     .value());
  }
  std::vector<StepResult> Steps(int64_t n) {
    std::vector<StepResult> out;
    const Status status = loop->RunSteps(n, [&](const StepResult& r) {
      out.push_back(r);
      return true;
    });
    EXPECT_TRUE(status.ok()) << status.ToString();
    return out;
  }

  FakeEngine engine;
  std::unique_ptr<tokens::BatchSource> source;
  TrainState state;
  std::optional<TrainLoop> loop;
};

// A source that hands out prepared windows for ever.
class ScriptedSource final : public tokens::BatchSource {
 public:
  explicit ScriptedSource(std::vector<tokens::PackedBatch> batches)
      : batches_(std::move(batches)) {}
  Result<std::vector<tokens::PackedBatch>> NextWindow(int steps) override {
    std::vector<tokens::PackedBatch> out;
    for (int i = 0; i < steps && cursor_.index < batches_.size(); ++i) {
      out.push_back(batches_[cursor_.index++]);
    }
    if (cursor_.index == batches_.size()) cursor_ = {cursor_.epoch + 1, 0};
    return out;
  }
  uint64_t MicroBatchesPerEpoch() const override { return batches_.size(); }
  tokens::Cursor cursor() const override { return cursor_; }
  Status Seek(const tokens::Cursor& cursor) override {
    cursor_ = cursor;
    return OkStatus();
  }
  uint64_t fingerprint() const override { return 1; }

 private:
  std::vector<tokens::PackedBatch> batches_;
  tokens::Cursor cursor_;
};

double RelativeDistance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / size);
}

TEST(TrainLoop, AccumulatedRaggedSequencesEqualOneBigBatch) {
  const auto data = RaggedSequences(4);
  Training big(data, 4, Config(1));
  Training split(data, 1, Config(4));
  Training halves(data, 2, Config(2));
  for (int i = 0; i < 6; ++i) {
    const StepResult a = big.Steps(1)[0];
    const StepResult b = split.Steps(1)[0];
    const StepResult c = halves.Steps(1)[0];
    EXPECT_NEAR(a.loss, b.loss, 1e-6 * a.loss) << i;
    EXPECT_NEAR(a.loss, c.loss, 1e-6 * a.loss) << i;
    EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-6 * a.grad_norm) << i;
    EXPECT_EQ(a.targets, b.targets);
  }
  EXPECT_LT(RelativeDistance(big.state.parameters, split.state.parameters), 1e-6);
  EXPECT_LT(RelativeDistance(big.state.parameters, halves.state.parameters), 1e-6);
}

// Loss and gradient of `count` sequences as one window, computed by the engine directly.
model::LossSum Direct(const std::vector<TokenSequence>& data, std::vector<uint32_t> indices,
                      std::vector<float>* gradients) {
  FakeEngine engine(kParameters);
  engine.SetParameters(SomeParameters(kParameters));
  const auto sum = engine.ForwardBackward(tokens::LayOut(data, indices), 9, 0).value();
  gradients->resize(kParameters);
  engine.TakeGradients(1.0 / static_cast<double>(sum.targets), *gradients);
  return sum;
}

TEST(TrainLoop, LastPartialWindowIsDividedByItsOwnTargets) {
  const auto data = RaggedSequences(10);
  Training run(data, 1, Config(4), 0, /*shuffle=*/false);

  // Rate 0 in the first step; windows of 4, 4 and 2 sequences.
  LoopConfig still = Config(4);
  still.schedule.learning_rate = 0;
  run.Continue(still);
  const auto steps = run.Steps(3);
  std::vector<float> gradients;
  const auto direct = Direct(data, {8, 9}, &gradients);
  double norm = 0;
  for (const float g : gradients) norm += static_cast<double>(g) * static_cast<double>(g);
  EXPECT_EQ(steps[2].targets, direct.targets);
  EXPECT_NEAR(steps[2].loss, direct.loss / static_cast<double>(direct.targets), 1e-12);
  EXPECT_NEAR(steps[2].grad_norm, std::sqrt(norm), 1e-6);
  EXPECT_EQ(run.state.cursor, (tokens::Cursor{1, 0}));
}

TEST(TrainLoop, FewTargetsAreNotOverWeighted) {
  // 3 targets in one micro-batch and 300 in the other: the mean over 303, not the mean of means.
  std::vector<TokenSequence> data(2);
  for (int i = 0; i < 301; ++i) {
    data[1].ids.push_back(i % 50);
    data[1].loss_mask.push_back(1);
    if (i < 4) {
      data[0].ids.push_back(49 - i);
      data[0].loss_mask.push_back(1);
    }
  }
  std::vector<float> gradients;
  const auto direct = Direct(data, {0, 1}, &gradients);
  ASSERT_EQ(direct.targets, 303);
  ScriptedSource source({tokens::LayOut(data, std::vector<uint32_t>{0}),
                         tokens::LayOut(data, std::vector<uint32_t>{1})});
  FakeEngine engine(kParameters);
  TrainState state = TrainState::Start(SomeParameters(kParameters), 9);
  auto loop = TrainLoop::Create(engine, source,
                                kernels::TableFor(kernels::Backend::kCpu, kernels::DType::kF32), 1,
                                Config(2), state)
                  .value();
  const StepResult step = loop.Step().value();
  EXPECT_NEAR(step.loss, direct.loss / 303, 1e-12);
  double squares = 0;
  for (const float g : gradients) squares += static_cast<double>(g) * static_cast<double>(g);
  EXPECT_NEAR(step.grad_norm, std::sqrt(squares), 1e-6 * step.grad_norm);
  EXPECT_EQ(step.targets, 303);
}

TEST(TrainLoop, WindowWithoutTargetChangesNothing) {
  const auto data = RaggedSequences(2);
  tokens::PackedBatch masked = tokens::LayOut(data, std::vector<uint32_t>{0});
  std::fill(masked.targets.begin(), masked.targets.end(), -1);
  masked.num_targets = 0;
  ScriptedSource source({tokens::LayOut(data, std::vector<uint32_t>{1}), masked});
  FakeEngine engine(kParameters);
  TrainState state = TrainState::Start(SomeParameters(kParameters), 9);
  LoopConfig config = Config(1);
  config.schedule.warmup_steps = 0;
  config.adamw.weight_decay = 0.1;
  auto loop = TrainLoop::Create(engine, source,
                                kernels::TableFor(kernels::Backend::kCpu, kernels::DType::kF32), 1,
                                config, state)
                  .value();
  ASSERT_FALSE(loop.Step().value().skipped);
  const TrainState before = state;
  const StepResult step = loop.Step().value();
  EXPECT_TRUE(step.skipped);
  EXPECT_EQ(step.loss, 0.0);
  EXPECT_TRUE(state.parameters == before.parameters);
  EXPECT_TRUE(state.moments.m == before.moments.m);
  EXPECT_TRUE(state.moments.v == before.moments.v);
  EXPECT_EQ(state.moments.updates, before.moments.updates);
  EXPECT_EQ(state.skipped_windows, 1);
  EXPECT_EQ(state.step, 2);
  EXPECT_EQ(engine.forward_backward_calls, 1);
}

TEST(TrainLoop, LossThatIsNotFiniteStopsWithoutChangingTheState) {
  Training run(RaggedSequences(6), 2, Config(1));
  run.Steps(3);
  const TrainState before = run.state;
  run.engine.poison = true;
  const auto failed = run.loop->Step();
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(failed.error().message().find("step 4"), std::string::npos);
  EXPECT_TRUE(run.state.parameters == before.parameters);
  EXPECT_TRUE(run.state.moments.v == before.moments.v);
  EXPECT_EQ(run.state.cursor, before.cursor);
  // The step can be done again: the window was given back.
  run.engine.poison = false;
  Training other(RaggedSequences(6), 2, Config(1));
  other.Steps(4);
  run.Steps(1);
  EXPECT_TRUE(run.state.parameters == other.state.parameters);
}

TEST(TrainLoop, EpochsHaveDifferentOrdersAndEverySequenceOnce) {
  Training run(RaggedSequences(16), 1, Config(4));
  run.Steps(8);
  ASSERT_EQ(run.engine.seen.size(), 32u);
  std::vector<uint32_t> first(run.engine.seen.begin(), run.engine.seen.begin() + 16);
  std::vector<uint32_t> second(run.engine.seen.begin() + 16, run.engine.seen.end());
  EXPECT_NE(first, second);
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  EXPECT_EQ(first, second);
  for (uint32_t i = 0; i < 16; ++i) EXPECT_EQ(first[i], i);
}

// 10 sequences, accumulation 3: windows of 3, 3, 3, 1; so 4 steps an epoch.
class ResumeAt : public testing::TestWithParam<int> {};

TEST_P(ResumeAt, GivesTheBitsOfAnUninterruptedRun) {
  const auto data = RaggedSequences(10);
  const LoopConfig config = Config(3, 12);
  Training whole(data, 1, config, 0.25);
  const auto expected = whole.Steps(12);

  Training first(data, 1, config, 0.25);
  first.Steps(GetParam());
  const Bytes saved = EncodeState(first.state, {{"base", "b"}});
  Training second(data, 1, config, 0.25);
  second.engine.seen.clear();
  second.state = DecodeState(saved, "saved").value().state;
  second.Continue(config);
  const auto rest = second.Steps(12 - GetParam());

  for (size_t i = 0; i < rest.size(); ++i) {
    const StepResult& want = expected[static_cast<size_t>(GetParam()) + i];
    EXPECT_EQ(rest[i].step, want.step);
    EXPECT_EQ(rest[i].loss, want.loss);
    EXPECT_EQ(rest[i].grad_norm, want.grad_norm);
    EXPECT_EQ(rest[i].learning_rate, want.learning_rate);
  }
  std::vector<uint32_t> stream = first.engine.seen;
  stream.insert(stream.end(), second.engine.seen.begin(), second.engine.seen.end());
  EXPECT_EQ(stream, whole.engine.seen);
  EXPECT_EQ(EncodeState(second.state, {}), EncodeState(whole.state, {}));
}

INSTANTIATE_TEST_SUITE_P(Places, ResumeAt,
                         testing::Values(1, 2 /*mid-epoch*/, 3, 4 /*epoch edge*/, 5, 8, 11));

TEST(TrainLoop, RoundsWithTheSameParametersEqualOneRun) {
  const auto data = RaggedSequences(10);
  Training whole(data, 1, Config(3, 12));
  whole.Steps(12);
  Training rounds(data, 1, Config(3, 12));
  for (int round = 0; round < 4; ++round) {
    rounds.Steps(3);
    const std::vector<float> same = rounds.state.parameters;
    ASSERT_TRUE(rounds.loop->SetParameters(same).ok());
  }
  EXPECT_EQ(EncodeState(rounds.state, {}), EncodeState(whole.state, {}));
}

TEST(TrainLoop, ReplacedParametersReachTheEngine) {
  Training run(RaggedSequences(8), 8, Config(1), 0, false);
  const double before = run.Steps(1)[0].loss;
  ASSERT_TRUE(run.loop->SetParameters(std::vector<float>(kParameters, 2.0f)).ok());
  EXPECT_GT(std::abs(run.Steps(1)[0].loss - before), 1e-2);
  EXPECT_FALSE(run.loop->SetParameters(std::vector<float>(kParameters + 1)).ok());
}

TEST(TrainLoop, ProximalTermHoldsTheParametersNearTheAnchor) {
  auto distance = [](double mu) {
    LoopConfig config = Config(1, 60);
    config.adamw.max_grad_norm = 0;
    Training run(RaggedSequences(8), 8, config);
    const std::vector<float> start = run.state.parameters;
    EXPECT_TRUE(run.loop->SetProximal(mu, start, {{0, kParameters}}).ok());
    run.Steps(60);
    return RelativeDistance(run.state.parameters, start);
  };
  const double none = distance(0), weak = distance(1), strong = distance(100);
  EXPECT_LT(weak, none);
  EXPECT_LT(strong, 0.5 * weak);
}

// Two parts by turns: each is what the optimizer alone makes of its gradients, counting its own
// updates, and the other keeps every bit meanwhile.
TEST(TrainLoop, PartsThatAreFrozenKeepTheirBitsAndCountTheirOwnUpdates) {
  const Ranges even = {{0, 4}, {8, kParameters}}, odd = {{4, 8}};
  Training run(RaggedSequences(8), 8, Config(1), 0, false);
  const std::vector<float> start = run.state.parameters;
  ASSERT_TRUE(run.loop->SetParts({even, odd}, {1}).ok());
  run.Steps(3);
  for (size_t i = 0; i < start.size(); ++i) {
    const bool trained = i >= 4 && i < 8;
    EXPECT_EQ(run.state.parameters[i] != start[i], trained) << i;
    EXPECT_EQ(run.state.moments.v[i] != 0, trained) << i;
  }
  EXPECT_EQ(run.state.moments.updates, (std::vector<int64_t>{0, 3}));
  const std::vector<float> after = run.state.parameters;
  ASSERT_TRUE(run.loop->SetParts({even, odd}, {0}).ok());
  run.Steps(1);
  for (size_t i = 4; i < 8; ++i) EXPECT_EQ(run.state.parameters[i], after[i]) << i;
  EXPECT_EQ(run.state.moments.updates, (std::vector<int64_t>{1, 3}));
  // AdamW's first step has the size of the learning rate: a count of all steps would make it three
  // times as large.
  const double lr = LearningRate(run.loop->config().schedule, 3);
  for (const size_t i : {0u, 1u, 9u}) {
    EXPECT_NEAR(std::abs(run.state.parameters[i] - after[i]), lr, 0.02 * lr) << i;
  }
}

TEST(TrainLoop, PartsOutOfPlaceAreRefused) {
  Training run(RaggedSequences(8), 8, Config(1), 0, false);
  EXPECT_FALSE(run.loop->SetParts({{{4, 8}, {0, 4}}}, {0}).ok());
  EXPECT_FALSE(run.loop->SetParts({{{0, kParameters + 1}}}, {0}).ok());
  EXPECT_FALSE(run.loop->SetParts({{{0, 4}}}, {1}).ok());
  EXPECT_FALSE(run.loop->SetProximal(1, run.state.parameters, {{0, kParameters + 1}}).ok());
  EXPECT_FALSE(run.loop->SetProximal(1, {}, {{0, 4}}).ok());
  ASSERT_TRUE(run.loop->SetParts({{{0, 4}}, {{4, 8}}}, {0}).ok());
  run.Steps(1);
  EXPECT_FALSE(run.loop->SetParts({{{0, 8}}}, {0}).ok()) << "the state has counted two parts";
}

TEST(TrainLoop, EvaluationIsTokenWeightedWhateverTheBatchSize) {
  const auto data = RaggedSequences(9);
  FakeEngine engine(kParameters);
  engine.SetParameters(SomeParameters(kParameters));
  std::vector<double> losses;
  for (const int rows : {1, 2, 9}) {
    auto source =
        tokens::MakeBatchSource(
            data, {.shuffle = false, .packed = false, .max_length = 64, .rows_per_batch = rows})
            .value();
    const EvalResult result = EvaluateAll(engine, *source, {}).value();
    losses.push_back(result.nll);
    int64_t targets = 0;
    for (const auto& s : data) targets += tokens::CountTargets(s);
    EXPECT_EQ(result.targets, targets);
  }
  EXPECT_NEAR(losses[0], losses[1], 1e-12);
  EXPECT_NEAR(losses[0], losses[2], 1e-12);
}

// Notes what the heap holds each time that a batch is asked for.
class Watched final : public tokens::BatchSource {
 public:
  explicit Watched(tokens::PackedBatch batch) : batch_(std::move(batch)) {}
  Result<std::vector<tokens::PackedBatch>> NextWindow(int) override {
    const struct mallinfo2 heap = ::mallinfo2();
    held.push_back(heap.uordblks + heap.hblkhd);
    return std::vector<tokens::PackedBatch>{batch_};
  }
  uint64_t MicroBatchesPerEpoch() const override { return 400; }
  tokens::Cursor cursor() const override { return {}; }
  Status Seek(const tokens::Cursor&) override { return OkStatus(); }
  uint64_t fingerprint() const override { return 1; }

  std::vector<size_t> held;

 private:
  tokens::PackedBatch batch_;
};

TEST(TrainLoop, AnEvaluationKeepsNoLogits) {
  const auto base = model::Must(model::Base::Load(model::GoldenDir("tiny_llama"), {}));
  const auto engine = model::Must(model::Engine::Create(base, {}));
  std::vector<TokenSequence> data(1);
  for (int32_t i = 0; i < 64; ++i) {
    data[0].ids.push_back(i);
    data[0].loss_mask.push_back(1);
  }
  Watched source(tokens::LayOut(data, std::vector<uint32_t>{0}));
  EXPECT_EQ(EvaluateAll(*engine, source, {}).value().targets, 400 * 63);
  // Logits of one batch: 63 x 323 x 4 bytes, 31 MB in all.
  EXPECT_LT(source.held.back(), source.held.at(2) + (size_t{1} << 20));
}

}  // namespace
}  // namespace tidegate::train
