// Ten optimizer steps against transformers and PEFT: tests/golden/README.md says how the numbers
// were made.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "model/transformer.h"
#include "tensor/safetensors.h"
#include "train/loop.h"

namespace tidegate::train {
namespace {

namespace fs = std::filesystem;
using tensor::SafetensorsFile;

// The value, or a failure that says what was wrong.
template <typename T>
T Must(Result<T> result) {
  if (!result) ADD_FAILURE() << result.error().ToString();
  return std::move(result).value();
}

std::vector<float> Floats(const SafetensorsFile& file, const std::string& name) {
  const tensor::TensorView* view = Must(file.Get(name));
  std::vector<float> out(static_cast<size_t>(view->num_elements()));
  EXPECT_TRUE(tensor::ReadFloats(*view, out).ok()) << name;
  return out;
}

std::vector<int32_t> Ints(const SafetensorsFile& file, const std::string& name) {
  const tensor::TensorView* view = Must(file.Get(name));
  std::vector<int32_t> out;
  for (size_t i = 0; i < view->bytes.size(); i += 4) {
    out.push_back(static_cast<int32_t>(LoadLe32(view->bytes.data() + i)));
  }
  return out;
}

// A packed row of the trace, laid out as training lays it out.
tokens::PackedBatch Row(const SafetensorsFile& trace, int number) {
  const std::string prefix = fmt::format("batch{}.", number);
  const auto ids = Ints(trace, prefix + "input_ids");
  const auto starts = Ints(trace, prefix + "segment_starts");
  const auto mask = Ints(trace, prefix + "loss_mask");
  std::vector<tokens::TokenSequence> sequences;
  std::vector<uint32_t> order;
  for (size_t s = 0; s + 1 < starts.size(); ++s) {
    const auto begin = starts[s], end = starts[s + 1];
    sequences.push_back(
        {{ids.begin() + begin, ids.begin() + end}, {mask.begin() + begin, mask.begin() + end}});
    order.push_back(static_cast<uint32_t>(s));
  }
  return tokens::LayOut(sequences, order);
}

// Rows 0, 1, 0, 1, ...
class TwoRows final : public tokens::BatchSource {
 public:
  explicit TwoRows(const SafetensorsFile& trace) : rows_{Row(trace, 0), Row(trace, 1)} {}
  Result<std::vector<tokens::PackedBatch>> NextWindow(int) override {
    std::vector<tokens::PackedBatch> window = {rows_[cursor_.index]};
    cursor_ = cursor_.index == 0 ? tokens::Cursor{cursor_.epoch, 1}
                                 : tokens::Cursor{cursor_.epoch + 1, 0};
    return window;
  }
  uint64_t MicroBatchesPerEpoch() const override { return 2; }
  tokens::Cursor cursor() const override { return cursor_; }
  Status Seek(const tokens::Cursor& cursor) override {
    cursor_ = cursor;
    return OkStatus();
  }
  uint64_t fingerprint() const override { return 0; }

 private:
  std::vector<tokens::PackedBatch> rows_;
  tokens::Cursor cursor_;
};

struct Case {
  const char* folder;
  kernels::DType dtype;
  const char* prefix;     // of the trace's tensors
  double loss, norm;      // relative tolerances of the ten losses and norms
  double final_distance;  // relative L2 of each final matrix; 0: not in the trace
  const char* name;
};

class Golden : public testing::TestWithParam<Case> {};

TEST_P(Golden, TenStepsEqualPeft) {
  const Case& c = GetParam();
  if (kernels::TableFor(kernels::Backend::kCpu, c.dtype) == nullptr) {
    GTEST_SKIP() << "this CPU has no bf16 instructions (AVX512-bf16)";
  }
  const fs::path dir = fs::path(TIDEGATE_SOURCE_DIR) / "tests/golden" / c.folder;
  const SafetensorsFile trace = Must(SafetensorsFile::Open(dir / "trace.safetensors"));
  const auto base =
      Must(model::Base::Load(dir, {.backend = kernels::Backend::kCpu, .dtype = c.dtype}));
  const model::Adapter adapter = Must(model::LoadPeft(dir / "adapter_in", base->config()));
  const auto engine = Must(model::Engine::Create(base, adapter.lora()));
  TwoRows source(trace);
  TrainState state =
      TrainState::Start({adapter.parameters().begin(), adapter.parameters().end()}, 0);
  LoopConfig config;
  config.schedule = {
      .type = SchedulerType::kLinear, .learning_rate = 1e-2, .warmup_steps = 2, .total_steps = 10};
  auto loop = Must(TrainLoop::Create(
      *engine, source, kernels::TableFor(kernels::Backend::kCpu, c.dtype), 1, config, state));
  const std::string prefix = c.prefix;
  const auto losses = Floats(trace, prefix + "step.loss");
  const auto norms = Floats(trace, prefix + "step.grad_norm");
  const auto rates = Floats(trace, "step.learning_rate");
  ASSERT_EQ(losses.size(), 10u);
  for (size_t i = 0; i < losses.size(); ++i) {
    const auto step = loop.Step();
    ASSERT_TRUE(step) << step.error().ToString();
    const double loss = static_cast<double>(losses[i]), norm = static_cast<double>(norms[i]);
    EXPECT_NEAR(step->loss, loss, c.loss * loss) << "step " << i;
    EXPECT_NEAR(step->grad_norm, norm, c.norm * norm) << "step " << i;
    EXPECT_FLOAT_EQ(static_cast<float>(step->learning_rate), rates[i]) << "step " << i;
  }
  if (c.final_distance == 0) return;  // the trace has the final adapter of the f32 run alone
  for (const model::AdapterTensor& tensor : adapter.tensors()) {
    const auto expected = Floats(trace, "final." + tensor.name);
    double difference = 0, size = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double want = static_cast<double>(expected[i]);
      const size_t at = static_cast<size_t>(tensor.offset) + i;
      difference += std::pow(static_cast<double>(state.parameters[at]) - want, 2);
      size += want * want;
    }
    EXPECT_LT(std::sqrt(difference / size), c.final_distance) << tensor.name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, Golden,
    testing::Values(
        Case{"tiny_llama", kernels::DType::kF32, "", 1e-4, 1e-4, 1e-4, "tied_f32"},
        Case{"tiny_llama_untied", kernels::DType::kF32, "", 1e-4, 1e-4, 1e-4, "untied_f32"},
        Case{"tiny_mistral", kernels::DType::kF32, "", 1e-4, 1e-4, 1e-4, "mistral_f32"},
        Case{"tiny_qwen2", kernels::DType::kF32, "", 1e-4, 1e-4, 1e-4, "qwen2_f32"},
        Case{"tiny_qwen3", kernels::DType::kF32, "", 1e-4, 1e-4, 1e-4, "qwen3_f32"},
        Case{"tiny_llama", kernels::DType::kBF16, "bf16.", 6e-3, 6e-2, 0, "tied_bf16"},
        Case{"tiny_llama_untied", kernels::DType::kBF16, "bf16.", 9e-3, 6e-2, 0, "untied_bf16"},
        Case{"tiny_mistral", kernels::DType::kBF16, "bf16.", 6e-3, 6e-2, 0, "mistral_bf16"},
        Case{"tiny_qwen2", kernels::DType::kBF16, "bf16.", 6e-3, 6e-2, 0, "qwen2_bf16"},
        Case{"tiny_qwen3", kernels::DType::kBF16, "bf16.", 9e-3, 6e-2, 0, "qwen3_bf16"}),
    [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace tidegate::train
