// Where SmolLM2 is, and the adapter that its golden trace was made with.
#pragma once

#include <cstdlib>
#include <filesystem>

#include "model/adapter.h"

namespace tidegate::model {

// The GGUF file that scripts/fetch_smollm2.sh fetches; it need not be there.
inline std::filesystem::path SmolLm2File() {
  const char* cache = std::getenv("TIDEGATE_CACHE");
  const char* home = std::getenv("HOME");
  const std::filesystem::path dir =
      cache != nullptr ? std::filesystem::path(cache)
                       : std::filesystem::path(home != nullptr ? home : "") / ".cache/tidegate";
  return dir / "smollm2-135m-instruct-q4_1.gguf";
}

// The counter hash of tests/golden/README.md.
inline float Hashed(uint64_t stream, uint64_t index) {
  uint64_t z = (stream << 32) + index + 1;
  z *= 0x9E3779B97F4A7C15u;
  z ^= z >> 30;
  z *= 0xBF58476D1CE4E5B9u;
  z ^= z >> 27;
  z *= 0x94D049BB133111EBu;
  z ^= z >> 31;
  return static_cast<float>(z >> 40) * 0x1p-23f - 1.0f;
}

// The adapter of tests/golden/make_smollm2_traces.py.
inline Adapter SmolLm2Adapter(const ModelConfig& config) {
  LoraConfig lora;
  lora.r = 16;
  lora.alpha = 32;
  lora.targets = *ParseTargets("all-linear");
  Adapter adapter = Adapter::CreateZero(config, lora);
  for (size_t t = 0; t < adapter.tensors().size(); ++t) {  // layout order is the streams' order
    const AdapterTensor& tensor = adapter.tensors()[t];
    for (int64_t i = 0; i < tensor.count(); ++i) {
      adapter.parameters()[static_cast<size_t>(tensor.offset + i)] =
          Hashed((1u << 20) + t, static_cast<uint64_t>(i)) * (tensor.is_b ? 0x1p-7f : 0x1p-5f);
    }
  }
  return adapter;
}

}  // namespace tidegate::model
