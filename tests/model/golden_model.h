// Golden models and traces as the tests of src/model read them (tests/golden/README.md).
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "model/transformer.h"
#include "tensor/safetensors.h"
#include "tokens/packing.h"

namespace tidegate::model {

inline std::filesystem::path GoldenDir(const std::string& name) {
  return std::filesystem::path(TIDEGATE_SOURCE_DIR) / "tests/golden" / name;
}

// The value; a test without it cannot go on.
template <typename T>
T Must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().ToString());
  return std::move(result).value();
}

inline std::vector<float> Floats(const tensor::SafetensorsFile& file, const std::string& name) {
  const tensor::TensorView* view = Must(file.Get(name));
  std::vector<float> out(static_cast<size_t>(view->num_elements()));
  EXPECT_TRUE(tensor::ReadFloats(*view, out).ok()) << name;
  return out;
}

inline std::vector<int32_t> Ints(const tensor::SafetensorsFile& file, const std::string& name) {
  std::vector<int32_t> out;
  const tensor::TensorView* view = Must(file.Get(name));
  for (size_t i = 0; i < view->bytes.size(); i += 4) {
    out.push_back(static_cast<int32_t>(LoadLe32(view->bytes.data() + i)));
  }
  return out;
}

// The sequences of packed row `number` of a trace; every token a target when `all_targets`.
inline std::vector<tokens::TokenSequence> Sequences(const tensor::SafetensorsFile& trace,
                                                    int number, bool all_targets = false) {
  const std::string prefix = fmt::format("batch{}.", number);
  const auto ids = Ints(trace, prefix + "input_ids");
  const auto starts = Ints(trace, prefix + "segment_starts");
  const auto mask = Ints(trace, prefix + "loss_mask");
  std::vector<tokens::TokenSequence> sequences;
  for (size_t s = 0; s + 1 < starts.size(); ++s) {
    tokens::TokenSequence sequence;
    for (auto i = static_cast<size_t>(starts[s]); i < static_cast<size_t>(starts[s + 1]); ++i) {
      sequence.ids.push_back(ids[i]);
      sequence.loss_mask.push_back(all_targets || mask[i] != 0 ? 1 : 0);
    }
    sequences.push_back(std::move(sequence));
  }
  return sequences;
}

// All of `sequences`, end to end.
inline tokens::PackedBatch Pack(const std::vector<tokens::TokenSequence>& sequences) {
  std::vector<uint32_t> order(sequences.size());
  std::iota(order.begin(), order.end(), 0u);
  return tokens::LayOut(sequences, order);
}

inline double RelativeL2(std::span<const float> value, std::span<const float> reference) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double want = static_cast<double>(reference[i]);
    difference += std::pow(static_cast<double>(value[i]) - want, 2);
    size += want * want;
  }
  return std::sqrt(difference / size);
}

inline std::span<const float> Part(std::span<const float> buffer, const AdapterTensor& tensor) {
  return buffer.subspan(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.count()));
}

inline bool HasBf16() {
  return kernels::TableFor(kernels::Backend::kCpu, kernels::DType::kBF16) != nullptr;
}

}  // namespace tidegate::model
