// What the engine promises beyond numbers of one model: gradients are the loss's derivatives,
// sequences do not see each other, threads change nothing.
#include "model/transformer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "golden_model.h"

namespace tidegate::model {
namespace {

using kernels::Backend;
using kernels::DType;
using tensor::SafetensorsFile;

std::shared_ptr<const Base> TinyBase(const ComputeOptions& options,
                                     const std::string& name = "tiny_llama") {
  return Must(Base::Load(GoldenDir(name), options));
}

// A with PEFT's spread and B not zero, so that every gradient is alive.
Adapter LiveAdapter(const ModelConfig& config, const LoraConfig& lora) {
  Adapter adapter = Adapter::Create(config, lora, 7);
  for (const AdapterTensor& tensor : adapter.tensors()) {
    if (!tensor.is_b) continue;
    for (int64_t i = 0; i < tensor.count(); ++i) {
      const uint64_t at = static_cast<uint64_t>(tensor.offset + i);
      adapter.parameters()[at] =
          (UniformFloat(RandomWords(3, RngPurpose::kTest, 0, at)[0]) - 0.5f) * 0.25f;
    }
  }
  return adapter;
}

LoraConfig AllLinear(int64_t r = 4) {
  LoraConfig lora;
  lora.r = r;
  lora.alpha = 8;
  lora.targets = Must(ParseTargets("all-linear"));
  return lora;
}

std::vector<float> Gradients(Engine& engine, const tokens::PackedBatch& batch, size_t count,
                             uint64_t seed = 0) {
  std::vector<float> out(count);
  (void)Must(engine.ForwardBackward(batch, seed, 5));
  engine.TakeGradients(1.0, out);
  return out;
}

tokens::PackedBatch ShortBatch() {
  return Pack({{{5, 77, 301, 9, 18}, {0, 1, 1, 0, 1}}, {{40, 41, 42, 300}, {0, 0, 1, 1}}});
}

// Central differences of the whole model in f64 at two elements of every tensor.
void ExpectGradientsAreDerivatives(const std::string& model, const LoraConfig& lora) {
  const auto base = TinyBase({.backend = Backend::kRef, .dtype = DType::kF64}, model);
  const auto engine = Must(Engine::Create(base, lora));
  Adapter adapter = LiveAdapter(base->config(), lora);
  const auto batch = ShortBatch();
  const std::span<float> parameters = adapter.parameters();
  engine->SetParameters(parameters);
  const auto gradients = Gradients(*engine, batch, parameters.size(), 11);
  std::vector<float> ignored(parameters.size());
  const auto loss_with = [&](size_t at, float value) {
    const float before = parameters[at];
    parameters[at] = value;
    engine->SetParameters(parameters);
    parameters[at] = before;
    const double loss = Must(engine->ForwardBackward(batch, 11, 5)).loss;
    engine->TakeGradients(1.0, ignored);
    return loss;
  };
  for (const AdapterTensor& tensor : adapter.tensors()) {
    for (const int64_t element : {int64_t{1}, tensor.count() - 2}) {
      const size_t at = static_cast<size_t>(tensor.offset + element);
      const float up = parameters[at] + 0x1p-10f, down = parameters[at] - 0x1p-10f;
      const double width = static_cast<double>(up) - static_cast<double>(down);
      const double slope = (loss_with(at, up) - loss_with(at, down)) / width;
      const double gradient = static_cast<double>(gradients[at]);
      EXPECT_NEAR(gradient, slope, 1e-4 * std::fabs(slope) + 1e-7) << tensor.name << " " << element;
      if (lora.dropout == 0) {
        EXPECT_NE(gradient, 0) << tensor.name;
      }
    }
  }
}

TEST(Transformer, GradientsAreDerivatives) {
  for (const char* name : {"tiny_llama", "tiny_qwen2", "tiny_qwen3"}) {
    ExpectGradientsAreDerivatives(name, AllLinear());
  }
}

TEST(Transformer, GradientsAreDerivativesWithDropoutAndRankScaling) {
  LoraConfig lora = AllLinear();
  lora.dropout = 0.25;
  lora.rslora = true;
  ExpectGradientsAreDerivatives("tiny_llama_untied", lora);
}

// With one target each, since the lowest layer's backward pass ends at the lowest adapter.
TEST(Transformer, GradientsAreDerivativesForEachSingleTarget) {
  for (int i = 0; i < kModulesPerLayer; ++i) {
    SCOPED_TRACE(ModuleName(static_cast<Module>(i)));
    LoraConfig lora = AllLinear(2);
    lora.targets = {static_cast<Module>(i)};
    ExpectGradientsAreDerivatives("tiny_llama_untied", lora);
  }
}

class InEachType : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (GetParam() == DType::kBF16 && !HasBf16()) {
      GTEST_SKIP() << "this CPU has no bf16 instructions (AVX512-bf16)";
    }
  }
  std::unique_ptr<Engine> MakeEngine(int threads, const LoraConfig& lora) {
    base_ = TinyBase({.dtype = GetParam(), .threads = threads});
    auto engine = Must(Engine::Create(base_, lora));
    adapter_ = std::make_unique<Adapter>(LiveAdapter(base_->config(), lora));
    engine->SetParameters(adapter_->parameters());
    return engine;
  }
  double Tolerance() const { return GetParam() == DType::kF32 ? 2e-5 : 0.06; }

  const SafetensorsFile trace_ =
      Must(SafetensorsFile::Open(GoldenDir("tiny_llama") / "trace.safetensors"));
  std::shared_ptr<const Base> base_;
  std::unique_ptr<Adapter> adapter_;
};

TEST_P(InEachType, PackedEqualsOneByOne) {
  const auto engine = MakeEngine(1, AllLinear());
  const auto sequences = Sequences(trace_, 0);
  const size_t count = adapter_->parameters().size();
  const auto packed_losses = Must(engine->TokenLosses(Pack(sequences)));
  const auto packed = Gradients(*engine, Pack(sequences), count);
  std::vector<double> losses;
  for (const auto& sequence : sequences) {
    const auto own = Must(engine->TokenLosses(Pack({sequence})));
    losses.insert(losses.end(), own.begin(), own.end());
    (void)Must(engine->ForwardBackward(Pack({sequence}), 0, 0));  // the window adds up
  }
  std::vector<float> single(count);
  engine->TakeGradients(1.0, single);
  ASSERT_EQ(losses.size(), packed_losses.size());
  for (size_t i = 0; i < losses.size(); ++i) {
    EXPECT_NEAR(packed_losses[i], losses[i], Tolerance()) << "target " << i;
  }
  for (const AdapterTensor& tensor : adapter_->tensors()) {
    EXPECT_LT(RelativeL2(Part(packed, tensor), Part(single, tensor)), Tolerance()) << tensor.name;
  }
}

TEST_P(InEachType, ASequenceDoesNotSeeItsNeighbours) {
  const auto engine = MakeEngine(1, AllLinear());
  auto sequences = Sequences(trace_, 0);
  const auto before = Must(engine->TokenLosses(Pack(sequences)));
  for (int32_t& id : sequences[0].ids) id = (id + 17) % 323;
  const auto after = Must(engine->TokenLosses(Pack(sequences)));
  const size_t first = static_cast<size_t>(tokens::CountTargets(sequences[0]));
  ASSERT_GT(before.size(), first);
  for (size_t i = 0; i < before.size(); ++i) {
    if (i < first) {
      EXPECT_NE(before[i], after[i]) << "target " << i << " of the changed sequence";
    } else {
      EXPECT_EQ(before[i], after[i]) << "target " << i << " of an unchanged sequence";
    }
  }
}

TEST_P(InEachType, ThreadsChangeNoBit) {
  LoraConfig lora = AllLinear();
  lora.dropout = 0.1;
  const auto batch = Pack(Sequences(trace_, 1));
  const auto one = MakeEngine(1, lora);
  const auto with_one = Gradients(*one, batch, adapter_->parameters().size(), 3);
  const auto losses_with_one = Must(one->TokenLosses(batch));
  const auto two = MakeEngine(2, lora);
  EXPECT_EQ(Gradients(*two, batch, adapter_->parameters().size(), 3), with_one);
  EXPECT_EQ(Must(two->TokenLosses(batch)), losses_with_one);
}

// Of every family: q/k norms keep more than the others.
TEST_P(InEachType, GradientCheckpointingChangesNoBitAndHoldsLess) {
  LoraConfig lora = AllLinear();
  lora.dropout = 0.1;
  for (const char* name : {"tiny_llama", "tiny_qwen3"}) {
    SCOPED_TRACE(name);
    const auto base = Must(Base::Load(GoldenDir(name), {.dtype = GetParam(), .threads = 2}));
    const Adapter adapter = LiveAdapter(base->config(), lora);
    const auto batch = Pack(Sequences(trace_, 1));
    std::vector<std::vector<float>> gradients;
    std::vector<size_t> bytes;
    for (const bool checkpointing : {false, true}) {
      const auto engine =
          Must(Engine::Create(base, lora, {.gradient_checkpointing = checkpointing}));
      engine->SetParameters(adapter.parameters());
      gradients.push_back(Gradients(*engine, batch, adapter.parameters().size(), 3));
      bytes.push_back(engine->MemoryBytes());
    }
    EXPECT_EQ(gradients[0], gradients[1]);
    EXPECT_LT(bytes[1], bytes[0]);
  }
}

// Dropout is a pure function of (seed, micro step), and it is off when evaluating.
// Against an adapter of all layers whose others add exactly nothing.
TEST_P(InEachType, LayersWithoutAnAdapterChangeNoBitAndHoldLess) {
  const auto base = Must(Base::Load(GoldenDir("tiny_llama"), {.dtype = GetParam()}));
  const auto batch = Pack(Sequences(trace_, 1));
  const std::vector<std::vector<int64_t>> subsets = {{0}, {1}, {2}, {0, 2}, {1, 2}};
  for (const bool checkpointing : {false, true}) {
    for (const auto& layers : subsets) {
      LoraConfig lora = AllLinear();
      lora.dropout = 0.1;
      lora.targets = Must(ParseTargets("q_proj,v_proj,o_proj,up_proj,down_proj"));
      const EngineOptions options = {.gradient_checkpointing = checkpointing};
      const auto all = Must(Engine::Create(base, lora, options));
      Adapter whole = LiveAdapter(base->config(), lora);
      lora.layers = layers;
      const auto some = Must(Engine::Create(base, lora, options));
      Adapter part = Adapter::CreateZero(base->config(), lora);
      auto next = part.tensors().begin();
      for (const AdapterTensor& tensor : whole.tensors()) {
        const auto values = whole.parameters().subspan(static_cast<size_t>(tensor.offset),
                                                       static_cast<size_t>(tensor.count()));
        if (!lora.Adapts(tensor.layer)) {
          if (tensor.is_b) std::ranges::fill(values, 0.0f);
          continue;
        }
        ASSERT_EQ(next->name, tensor.name);
        std::ranges::copy(values, part.parameters().begin() + next->offset);
        ++next;
      }
      EXPECT_EQ(next, part.tensors().end());
      all->SetParameters(whole.parameters());
      some->SetParameters(part.parameters());
      const auto expected = Gradients(*all, batch, whole.parameters().size(), 3);
      const auto gradients = Gradients(*some, batch, part.parameters().size(), 3);
      next = part.tensors().begin();
      for (const AdapterTensor& tensor : whole.tensors()) {
        if (!lora.Adapts(tensor.layer)) continue;
        EXPECT_TRUE(std::ranges::equal(Part(gradients, *next), Part(expected, tensor)))
            << tensor.name << " of " << layers.size() << " layers";
        ++next;
      }
      EXPECT_EQ(Must(some->TokenLosses(batch)), Must(all->TokenLosses(batch)));
      EXPECT_LT(some->MemoryBytes(), all->MemoryBytes());
    }
  }
}

TEST_P(InEachType, DropoutFollowsItsKey) {
  LoraConfig lora = AllLinear();
  const auto batch = Pack(Sequences(trace_, 1));
  const double plain = Must(MakeEngine(1, lora)->Evaluate(batch)).loss;
  lora.dropout = 0.5;
  const auto engine = MakeEngine(1, lora);
  EXPECT_EQ(Must(engine->Evaluate(batch)).loss, plain);
  const double first = Must(engine->ForwardBackward(batch, 1, 2)).loss;
  EXPECT_NE(first, plain);
  EXPECT_EQ(Must(engine->ForwardBackward(batch, 1, 2)).loss, first);
  EXPECT_NE(Must(engine->ForwardBackward(batch, 1, 3)).loss, first);
  EXPECT_NE(Must(engine->ForwardBackward(batch, 2, 2)).loss, first);
}

// As PEFT initialises, B is zero: the first step moves every B and no A, the second every A.
TEST_P(InEachType, EveryMatrixOfAFreshAdapterLearns) {
  const LoraConfig lora = AllLinear();
  const auto engine = MakeEngine(1, lora);
  Adapter adapter = Adapter::Create(base_->config(), lora, 1);
  const Adapter start = adapter;
  const std::span<float> parameters = adapter.parameters();
  const auto batch = Pack(Sequences(trace_, 0));
  for (int step = 0; step < 2; ++step) {
    engine->SetParameters(parameters);
    const auto gradients = Gradients(*engine, batch, parameters.size());
    for (const AdapterTensor& tensor : adapter.tensors()) {
      const auto part = Part(gradients, tensor);
      const auto zeros = std::count(part.begin(), part.end(), 0.0f);
      if (tensor.is_b) {
        EXPECT_EQ(zeros, 0) << tensor.name;
      } else if (step == 0) {
        EXPECT_EQ(zeros, tensor.count()) << tensor.name;
      }
    }
    for (size_t i = 0; i < parameters.size(); ++i) parameters[i] -= 1e-3f * gradients[i];
  }
  for (const AdapterTensor& tensor : adapter.tensors()) {
    EXPECT_GT(RelativeL2(Part(parameters, tensor), Part(start.parameters(), tensor)), 1e-6)
        << tensor.name;
  }
}

// An accumulator of bf16 stands still after 256 equal addends.
TEST_P(InEachType, LongWindowsLoseNoMicroBatch) {
  const auto engine = MakeEngine(1, AllLinear());
  const size_t count = adapter_->parameters().size();
  const auto once = Gradients(*engine, ShortBatch(), count);
  constexpr int kTimes = 600;
  for (int i = 0; i < kTimes; ++i) (void)Must(engine->ForwardBackward(ShortBatch(), 0, 5));
  std::vector<float> mean(count);
  engine->TakeGradients(1.0 / kTimes, mean);
  for (const AdapterTensor& tensor : adapter_->tensors()) {
    EXPECT_LT(RelativeL2(Part(mean, tensor), Part(once, tensor)), 1e-4) << tensor.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Transformer, InEachType, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& param) {
                           return param.param == DType::kF32 ? "f32" : "bf16";
                         });

TEST(Transformer, TakingGradientsEmptiesTheWindow) {
  const auto base = TinyBase({});
  const auto engine = Must(Engine::Create(base, AllLinear()));
  const Adapter adapter = LiveAdapter(base->config(), AllLinear());
  engine->SetParameters(adapter.parameters());
  const auto once = Gradients(*engine, ShortBatch(), adapter.parameters().size());
  EXPECT_EQ(Gradients(*engine, ShortBatch(), adapter.parameters().size()), once);
  std::vector<float> scaled(once.size());
  (void)Must(engine->ForwardBackward(ShortBatch(), 0, 0));
  (void)Must(engine->Evaluate(ShortBatch()));  // does not touch the window
  engine->TakeGradients(0.25, scaled);
  for (size_t i = 0; i < once.size(); ++i) EXPECT_EQ(scaled[i], once[i] * 0.25f);
}

TEST(Transformer, ABatchWithoutTargetsCostsAndTeachesNothing) {
  const auto base = TinyBase({});
  const auto engine = Must(Engine::Create(base, AllLinear()));
  const Adapter adapter = LiveAdapter(base->config(), AllLinear());
  engine->SetParameters(adapter.parameters());
  const tokens::PackedBatch batch = Pack({{{1, 2, 3}, {0, 0, 0}}});
  const auto sum = Must(engine->ForwardBackward(batch, 0, 0));
  EXPECT_EQ(sum.targets, 0);
  EXPECT_EQ(sum.loss, 0);
  std::vector<float> gradients(adapter.parameters().size(), 1.0f);
  engine->TakeGradients(1.0, gradients);
  EXPECT_EQ(gradients, std::vector<float>(gradients.size(), 0.0f));
  EXPECT_TRUE(Must(engine->TokenLosses(batch)).empty());
  EXPECT_EQ(Must(engine->Evaluate(tokens::PackedBatch())).targets, 0);
}

TEST(Transformer, RefusesBatchesThatAreNotOfThisModel) {
  const auto base = TinyBase({});
  const auto engine = Must(Engine::Create(base, AllLinear()));
  const auto message = [&](const tokens::PackedBatch& batch) {
    const auto result = engine->ForwardBackward(batch, 0, 0);
    return result ? std::string("accepted") : result.error().ToString();
  };
  using testing::HasSubstr;
  auto batch = ShortBatch();
  batch.ids[3] = 323;
  EXPECT_THAT(message(batch), HasSubstr("token 3 has id 323, the model has ids 0 to 322"));
  batch = ShortBatch();
  batch.ids[0] = -1;
  EXPECT_THAT(message(batch), HasSubstr("token 0 has id -1"));
  batch = ShortBatch();
  batch.targets[1] = 323;
  EXPECT_THAT(message(batch), HasSubstr("row 1 has target 323"));
  batch = ShortBatch();
  batch.position_ids[8] = 256;
  EXPECT_THAT(message(batch), HasSubstr("row 8 has position 256, the model has 0 to 255"));
  batch = ShortBatch();
  batch.segment_start[6] = 4;
  EXPECT_THAT(message(batch), HasSubstr("row 6 is in a segment that starts at 4"));
  batch = ShortBatch();
  batch.segment_start[0] = -1;
  EXPECT_THAT(message(batch), HasSubstr("row 0 is in a segment that starts at -1"));
  batch = ShortBatch();
  batch.targets.pop_back();
  EXPECT_THAT(message(batch), HasSubstr("9 ids has 9 positions, 9 segment starts, 8 targets"));
}

TEST(Transformer, RefusesComputeTypesAndRanksByName) {
  using testing::HasSubstr;
  EXPECT_EQ(Must(ParseDType("f32")), DType::kF32);
  EXPECT_EQ(Must(ParseDType("auto")), HasBf16() ? DType::kBF16 : DType::kF32);
  EXPECT_THAT(ParseDType("fp8").error().message(), HasSubstr("'fp8'"));
  EXPECT_THAT(Base::Load(GoldenDir("tiny_llama"), {.threads = 0}).error().message(),
              HasSubstr("threads is 0"));
  EXPECT_EQ(Base::Load(GoldenDir("tiny_llama"), {.backend = Backend::kCpu, .dtype = DType::kF64})
                .error()
                .code(),
            Code::kUnsupported);
  LoraConfig lora = AllLinear();
  lora.r = 0;
  EXPECT_THAT(Engine::Create(TinyBase({}), lora).error().message(), HasSubstr("rank r is 0"));
  EXPECT_EQ(Engine::Create(nullptr, AllLinear()).error().code(), Code::kInvalidArgument);
}

TEST(Transformer, HoldsWhatItSaysAndGrowsToTheLargestBatch) {
  const auto base = TinyBase({});
  const auto engine = Must(Engine::Create(base, AllLinear()));
  const size_t empty = engine->MemoryBytes();
  (void)Must(engine->ForwardBackward(ShortBatch(), 0, 0));
  const size_t small = engine->MemoryBytes();
  (void)Must(engine->ForwardBackward(
      Pack(
          Sequences(Must(SafetensorsFile::Open(GoldenDir("tiny_llama") / "trace.safetensors")), 0)),
      0, 0));
  const size_t large = engine->MemoryBytes();
  (void)Must(engine->ForwardBackward(ShortBatch(), 0, 0));
  EXPECT_GT(small, empty);
  EXPECT_GT(large, small);
  EXPECT_EQ(engine->MemoryBytes(), large);
}

// An adapter in f32 that makes the activations behind it f32 too would take f32's memory.
TEST(Transformer, ActivationsKeepTheTypeOfTheBase) {
  if (!HasBf16()) GTEST_SKIP() << "this CPU has no bf16 instructions (AVX512-bf16)";
  tokens::TokenSequence sequence;
  for (int32_t i = 0; i < 256; ++i) {
    sequence.ids.push_back(i);
    sequence.loss_mask.push_back(1);
  }
  const auto growth = [&](DType dtype) {
    const auto engine = Must(Engine::Create(TinyBase({.dtype = dtype}), AllLinear()));
    (void)Must(engine->ForwardBackward(Pack({sequence}), 0, 0));
    const size_t one = engine->MemoryBytes();
    (void)Must(
        engine->ForwardBackward(Pack(std::vector<tokens::TokenSequence>(8, sequence)), 0, 0));
    return static_cast<double>(engine->MemoryBytes() - one);
  };
  EXPECT_LT(growth(DType::kBF16), 0.6 * growth(DType::kF32));
}

}  // namespace
}  // namespace tidegate::model
