// Training all weights: gradients are the loss's derivatives, what a pass calls final is final, and
// neither threads, nor recomputing, nor the buffer change a bit.
#include "model/full_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "golden_model.h"

namespace tidegate::model {
namespace {

using kernels::Backend;
using kernels::DType;

// The golden model's weights, moved a little so that norms are not all ones.
std::vector<float> WeightsOfGolden(const std::string& name, const FlatLayout& layout) {
  const auto folder = Must(tensor::SafetensorsFolder::Open(GoldenDir(name)));
  std::vector<float> flat(static_cast<size_t>(layout.count), 0.0f);
  for (const FlatTensor& tensor : layout.tensors) {
    const std::span<float> out(flat.data() + tensor.offset, static_cast<size_t>(tensor.count));
    EXPECT_TRUE(tensor::ReadFloats(*Must(folder.Get(tensor.name)), out).ok());
  }
  return flat;
}

void Give(FullModel& model, std::span<const float> flat) {
  if (model.table().dtype == DType::kF32) {
    model.FromHost(model.weights(), flat.data(), flat.size_bytes());
    return;
  }
  if (model.table().dtype == DType::kF64) {
    const std::vector<double> wide(flat.begin(), flat.end());
    model.FromHost(model.weights(), wide.data(), wide.size() * sizeof(double));
    return;
  }
  model.table().convert(model.context(),
                        {static_cast<int64_t>(flat.size()), flat.data(), 1.0, model.weights()});
}

std::unique_ptr<FullModel> Golden(const std::string& name, const ComputeOptions& compute,
                                  const EngineOptions& options = {}, int64_t multiple = 1) {
  const ModelConfig config = Must(LoadHfConfig(GoldenDir(name) / "config.json"));
  auto model = Must(FullModel::Create(config, compute, options, multiple));
  Give(*model, WeightsOfGolden(name, model->layout()));
  return model;
}

tokens::PackedBatch Batch() {
  return Pack({{{5, 77, 301, 9, 18}, {0, 1, 1, 0, 1}}, {{40, 41, 42, 300}, {0, 0, 1, 1}}});
}

template <typename T>
std::vector<double> GradientsOf(FullModel& model) {
  const size_t count = static_cast<size_t>(model.layout().count);
  std::vector<T> out(count);
  model.ToHost(out.data(), model.gradients(), count * sizeof(T));
  return {out.begin(), out.end()};
}

void ExpectGradientsAreDerivatives(const std::string& name) {
  const auto model = Golden(name, {.backend = Backend::kRef, .dtype = DType::kF64});
  std::vector<float> flat = WeightsOfGolden(name, model->layout());
  Give(*model, flat);
  const auto batch = Batch();
  (void)Must(model->ForwardBackward(batch, {}));
  const std::vector<double> gradients = GradientsOf<double>(*model);
  const auto loss_with = [&](size_t at, float value) {
    const float before = std::exchange(flat[at], value);
    Give(*model, flat);
    flat[at] = before;
    return Must(model->Evaluate(batch)).loss;
  };
  for (const FlatTensor& tensor : model->layout().tensors) {
    // Of the embedding: rows of tokens that are there.
    const int64_t row = tensor.shape.size() == 2 ? tensor.shape[1] : 1;
    const bool table = tensor.name.find("embed") != std::string::npos;
    const int64_t first = table ? 77 * row + 1 : 1, last = table ? 41 * row : tensor.count - 2;
    for (const int64_t element : {first, last}) {
      const size_t at = static_cast<size_t>(tensor.offset + element);
      const float up = flat[at] + 0x1p-12f, down = flat[at] - 0x1p-12f;
      const double width = static_cast<double>(up) - static_cast<double>(down);
      const double slope = (loss_with(at, up) - loss_with(at, down)) / width;
      EXPECT_NEAR(gradients[at], slope, 1e-4 * std::fabs(slope) + 1e-6) << tensor.name << element;
    }
  }
}

TEST(FullModel, GradientsAreDerivatives) {
  for (const char* name : {"tiny_llama", "tiny_llama_untied", "tiny_qwen2", "tiny_qwen3"}) {
    SCOPED_TRACE(name);
    ExpectGradientsAreDerivatives(name);
  }
}

TEST(FullModel, EveryTensorHasAGradient) {
  const auto model = Golden("tiny_qwen3", {});
  (void)Must(model->ForwardBackward(Batch(), {}));
  const std::vector<double> gradients = GradientsOf<float>(*model);
  std::vector<bool> covered(gradients.size(), false);
  for (const FlatTensor& tensor : model->layout().tensors) {
    const auto begin = gradients.begin() + tensor.offset;
    EXPECT_TRUE(std::any_of(begin, begin + tensor.count, [](double g) { return g != 0; }))
        << tensor.name;
    EXPECT_EQ(tensor.offset % kFlatAlignment, 0);
    std::fill_n(covered.begin() + tensor.offset, tensor.count, true);
  }
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (!covered[i]) {
      ASSERT_EQ(gradients[i], 0) << i;
    }
  }
}

// Of the same weights and batch in double.
TEST(FullModel, FastKernelsGiveTheReferencesGradients) {
  const auto reference = Golden("tiny_qwen3", {.backend = Backend::kRef, .dtype = DType::kF64});
  (void)Must(reference->ForwardBackward(Batch(), {}));
  const std::vector<double> right = GradientsOf<double>(*reference);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    if (kernels::TableFor(Backend::kCpu, dtype) == nullptr) continue;
    const auto model = Golden("tiny_qwen3", {.dtype = dtype});
    (void)Must(model->ForwardBackward(Batch(), {}));
    const std::vector<double> got = GradientsOf<float>(*model);
    for (const FlatTensor& tensor : model->layout().tensors) {
      double error = 0, size = 0;
      for (int64_t i = tensor.offset; i < tensor.offset + tensor.count; ++i) {
        const size_t at = static_cast<size_t>(i);
        error += (got[at] - right[at]) * (got[at] - right[at]);
        size += right[at] * right[at];
      }
      EXPECT_LE(std::sqrt(error / size), dtype == DType::kF32 ? 1e-5 : 0.05) << tensor.name;
    }
  }
}

TEST(FullModel, NothingIsAddedToWhatWasCalledFinal) {
  const auto model = Golden("tiny_llama_untied", {}, {}, 1000);
  EXPECT_EQ(model->layout().count % 1000, 0);
  const size_t count = static_cast<size_t>(model->layout().count);
  std::vector<float> seen(count);
  std::vector<int64_t> begins;
  const auto on_final = [&](int64_t begin) {
    const size_t from = static_cast<size_t>(begin);
    const size_t until = begins.empty() ? count : static_cast<size_t>(begins.back());
    model->ToHost(seen.data() + from, static_cast<float*>(model->gradients()) + begin,
                  (until - from) * sizeof(float));
    begins.push_back(begin);
  };
  (void)Must(model->ForwardBackward(Batch(), on_final));
  EXPECT_EQ(begins.size(), static_cast<size_t>(model->config().num_layers) + 2);
  EXPECT_TRUE(std::is_sorted(begins.rbegin(), begins.rend()));
  EXPECT_EQ(begins.back(), 0);
  EXPECT_EQ(0, std::memcmp(seen.data(), model->gradients(), count * sizeof(float)));
}

TEST(FullModel, NeitherThreadsNorRecomputingChangeABit) {
  const auto once = Golden("tiny_qwen2", {});
  (void)Must(once->ForwardBackward(Batch(), {}));
  const auto again = Golden("tiny_qwen2", {.threads = 2}, {.gradient_checkpointing = true});
  (void)Must(again->ForwardBackward(Batch(), {}));
  EXPECT_EQ(GradientsOf<float>(*once), GradientsOf<float>(*again));
}

TEST(FullModel, LossIsThatOfTheLoadedModel) {
  const auto base = Must(Base::Load(GoldenDir("tiny_llama"), {}));
  const auto engine = Must(Engine::Create(base, LoraConfig{}));
  const auto model = Golden("tiny_llama", {});
  EXPECT_EQ(Must(engine->Evaluate(Batch())).loss, Must(model->Evaluate(Batch())).loss);
}

TEST(FullModel, QuantizedWeightsAreNotTrained) {
  const ModelConfig config = Must(LoadHfConfig(GoldenDir("tiny_llama") / "config.json"));
  const auto model = FullModel::Create(config, {.quantization = Quantization::kNf4}, {}, 1);
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().code(), Code::kUnsupported);
}

}  // namespace
}  // namespace tidegate::model
