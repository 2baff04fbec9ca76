// Merging: a base and an adapter become a base, W + s·B·A in each target module, as PEFT's
// merge_and_unload makes it. Thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "base/status.h"
#include "tensor/dtype.h"

namespace tidegate::model {

struct MergeOptions {
  std::optional<tensor::DType> dtype;  // of all weights written: F32, BF16 or F16; none: as stored
};

struct MergeReport {
  int64_t tensors = 0;
  int64_t merged = 0;   // of them changed by the adapter
  int64_t weights = 0;  // elements
};

// Writes `out_dir` whole, by a rename, or not at all; it must not exist, or be empty. The product
// is summed in double and each weight rounded once. config.json (with the new dtype), tokenizer and
// generation files are copied. Memory: one row of a matrix beside the mapped base. Errors:
// kInvalidArgument a weight that is not finite or too large for the dtype; those of LoadPeft and
// CheckWeights.
Result<MergeReport> MergeAdapter(const std::filesystem::path& base_dir,
                                 const std::filesystem::path& adapter_dir,
                                 const std::filesystem::path& out_dir, const MergeOptions& options);

}  // namespace tidegate::model
