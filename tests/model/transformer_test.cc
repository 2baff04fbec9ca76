// What the engine promises beyond numbers of one model: gradients are the loss's derivatives,
// sequences do not see each other, threads change nothing.
#include "model/transformer.h"

#include <gtest/gtest.h>

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
  ExpectGradientsAreDerivatives("tiny_llama", AllLinear());
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

}  // namespace
}  // namespace tidegate::model
