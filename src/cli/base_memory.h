// What training on a base would take of this machine's memory, in the ways there are of holding it.
// Thread-safety: pure functions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "base/status.h"

namespace tidegate::cli {

// As finetune's flags of these names, with its defaults.
struct RunShape {
  int64_t max_length = 1024;
  int64_t per_device_train_batch_size = 1;
  int64_t lora_r = 16;
};

// {"parameters", "adapter_parameters", "tokens", "ways": [{"flags", "dtype", "weights_mib",
// "loading_mib", "adapter_mib", "activations_mib", "scratch_mib", "program_mib", "total_mib"}]},
// the fastest way first. Reads config.json alone.
Result<nlohmann::ordered_json> BaseMemory(const std::filesystem::path& base, const RunShape& shape);

// A line a way, each with whether it fits into `available_mib` (below 0: unknown).
std::string BaseMemoryText(const nlohmann::ordered_json& memory, double available_mib);

}  // namespace tidegate::cli
