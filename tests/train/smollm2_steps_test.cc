// Twenty steps of SmolLM2-135M-Instruct against transformers and PEFT, where the model is at hand.
#include <gtest/gtest.h>

#include "golden_steps.h"
#include "model/base_import.h"
#include "tests/model/smollm2_golden.h"
#include "tests/model/temp_model.h"

namespace tidegate::train {
namespace {

namespace fs = std::filesystem;
using kernels::DType;

class SmolLm2Steps : public testing::TestWithParam<DType> {};

TEST_P(SmolLm2Steps, TwentyLossesAndNormsEqualPeft) {
  const DType dtype = GetParam();
  if (kernels::TableFor(kernels::Backend::kCpu, dtype) == nullptr) {
    GTEST_SKIP() << "this CPU has no bf16 instructions (AVX512-bf16)";
  }
  const fs::path gguf = model::SmolLm2File();
  if (!fs::exists(gguf)) GTEST_SKIP() << "no " << gguf << "; scripts/fetch_smollm2.sh fetches it";
  const model::TempDir folder;
  const fs::path dir = folder.path() / "model";
  (void)Must(model::ImportGguf(gguf, dir, {.dtype = tensor::DType::kF32}));
  const SafetensorsFile trace = Must(SafetensorsFile::Open(
      fs::path(TIDEGATE_SOURCE_DIR) / "tests/golden/smollm2/trace.safetensors"));
  const auto base = Must(model::Base::Load(dir, {.dtype = dtype}));
  const model::Adapter adapter = model::SmolLm2Adapter(base->config());
  const auto engine = Must(model::Engine::Create(base, adapter.lora()));
  const bool f32 = dtype == DType::kF32;
  // What transformers' own bf16 run is off by is in the trace's metadata.
  const StepBounds bounds = f32 ? StepBounds{1e-4, 1e-3, 2e-4} : StepBounds{2e-2, 5e-2, 2e-4};
  ExpectSteps(*engine, dtype, trace, f32 ? "f64." : "bf16.", adapter, bounds,
              {.steps = 20, .skipped_segments = 1});
}

INSTANTIATE_TEST_SUITE_P(Types, SmolLm2Steps, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& param) {
                           return std::string(param.param == DType::kF32 ? "f32" : "bf16");
                         });

}  // namespace
}  // namespace tidegate::train
