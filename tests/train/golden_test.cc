// Ten optimizer steps against transformers and PEFT: tests/golden/README.md says how the numbers
// were made.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "golden_steps.h"

namespace tidegate::train {
namespace {

namespace fs = std::filesystem;
using tensor::SafetensorsFile;

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
  const std::vector<float> trained =
      ExpectSteps(*engine, c.dtype, trace, c.prefix, adapter, {c.loss, c.norm, 1e-2});
  if (c.final_distance == 0) return;  // the trace has the final adapter of the f32 run alone
  for (const model::AdapterTensor& tensor : adapter.tensors()) {
    const auto expected = Floats(trace, "final." + tensor.name);
    double difference = 0, size = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double want = static_cast<double>(expected[i]);
      const size_t at = static_cast<size_t>(tensor.offset) + i;
      difference += std::pow(static_cast<double>(trained[at]) - want, 2);
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
