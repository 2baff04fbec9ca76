// The engine on a device does what it does on the CPU: losses, gradients, and the logits of
// generation, of every family of layers that it knows.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <numeric>

#include "base/rng.h"
#include "model/transformer.h"
#include "tests/kernels/tested.h"
#include "tokens/packing.h"

namespace tidegate::model {
namespace {

using kernels::Backend;
using kernels::DType;

template <typename T>
T Must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().ToString());
  return std::move(result).value();
}

struct Run {
  double loss = 0, evaluated = 0;
  std::vector<float> gradients, logits;
};

tokens::PackedBatch Batch() {
  const std::vector<tokens::TokenSequence> sequences = {
      {{5, 77, 301, 9, 18, 200, 3}, {0, 1, 1, 0, 0, 1, 1}}, {{40, 41, 42, 300}, {0, 0, 1, 1}}};
  std::vector<uint32_t> order(sequences.size());
  std::iota(order.begin(), order.end(), 0u);
  return tokens::LayOut(sequences, order);
}

// Forward, backward, evaluation, and a sequence fed in two parts.
Run RunOn(Backend backend, DType dtype, const std::string& model, const LoraConfig& lora,
          Quantization quantization, bool checkpointing) {
  const auto base = Must(
      Base::Load(std::filesystem::path(TIDEGATE_SOURCE_DIR) / "tests/golden" / model,
                 {.backend = backend, .dtype = dtype, .threads = 1, .quantization = quantization}));
  const auto engine = Must(Engine::Create(base, lora, {.gradient_checkpointing = checkpointing}));
  Adapter adapter = Adapter::Create(base->config(), lora, 7);
  for (const AdapterTensor& tensor : adapter.tensors()) {
    if (!tensor.is_b) continue;
    for (int64_t i = 0; i < tensor.count(); ++i) {
      const uint64_t at = static_cast<uint64_t>(tensor.offset + i);
      adapter.parameters()[at] =
          (UniformFloat(RandomWords(3, RngPurpose::kTest, 0, at)[0]) - 0.5f) * 0.25f;
    }
  }
  engine->SetParameters(adapter.parameters());
  const tokens::PackedBatch batch = Batch();
  Run run;
  run.loss = Must(engine->ForwardBackward(batch, 11, 5)).loss;
  run.gradients.resize(adapter.parameters().size());
  engine->TakeGradients(0.5, run.gradients);
  // The accumulators begin anew.
  std::vector<float> again(run.gradients.size());
  (void)Must(engine->ForwardBackward(batch, 11, 5));
  engine->TakeGradients(0.5, again);
  EXPECT_EQ(again, run.gradients);
  run.evaluated = Must(engine->Evaluate(batch)).loss;
  KvCache cache = engine->NewCache();
  const std::vector<int32_t> prompt = {5, 77, 301, 9}, more = {18, 200};
  (void)Must(engine->Append(cache, prompt));
  (void)Must(engine->Append(cache, more));
  KvCache other = engine->NewCache();
  (void)Must(engine->Append(other, more));
  KvCache* const caches[] = {&cache, &other};
  const std::vector<int32_t> next = {3, 40};
  const auto logits = Must(engine->Step(caches, next));
  run.logits.assign(logits.begin(), logits.end());
  return run;
}

double Distance(const std::vector<float>& value, const std::vector<float>& reference) {
  EXPECT_EQ(value.size(), reference.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double want = static_cast<double>(reference[i]);
    difference += std::pow(static_cast<double>(value[i]) - want, 2);
    size += want * want;
  }
  EXPECT_GT(size, 0);
  return std::sqrt(difference / size);
}

struct Case {
  std::string model;
  double dropout = 0;
  Quantization quantization = Quantization::kNone;
  bool checkpointing = false;
};

void ExpectSame(const Case& c, DType dtype, double loss, double rest) {
  SCOPED_TRACE(c.model + (dtype == DType::kF32 ? " f32" : " bf16"));
  LoraConfig lora;
  lora.r = 4;
  lora.alpha = 8;
  lora.dropout = c.dropout;
  lora.targets = Must(ParseTargets("all-linear"));
  const Run want = RunOn(Backend::kCpu, DType::kF32, c.model, lora, c.quantization, false);
  const Run got = RunOn(Backend::kCuda, dtype, c.model, lora, c.quantization, c.checkpointing);
  EXPECT_NEAR(got.loss, want.loss, loss * want.loss);
  EXPECT_NEAR(got.evaluated, want.evaluated, loss * want.evaluated);
  EXPECT_LT(Distance(got.gradients, want.gradients), rest);
  EXPECT_LT(Distance(got.logits, want.logits), rest);
}

TEST(EngineOnADevice, AgreesWithTheCpu) {
  for (const Case& c : {Case{"tiny_llama"}, Case{"tiny_llama_untied", 0.25},
                        Case{"tiny_qwen2", 0, Quantization::kNf4Double},
                        Case{"tiny_qwen3", 0, Quantization::kNone, true}}) {
    ExpectSame(c, DType::kF32, 1e-5, 1e-4);
    ExpectSame(c, DType::kBF16, 1e-2, 4e-2);
  }
}

TEST(EngineOnADevice, IsAskedForByName) {
  EXPECT_EQ(Must(ParseDevice("cpu")), Backend::kCpu);
  EXPECT_EQ(Must(ParseDevice("cuda")), Backend::kCuda);
  EXPECT_EQ(Must(ParseDType("auto", Backend::kCuda)), DType::kBF16);
  EXPECT_FALSE(ParseDevice("gpu").has_value());
}

}  // namespace
}  // namespace tidegate::model
