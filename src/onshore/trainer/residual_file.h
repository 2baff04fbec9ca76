// What error feedback carries from round to round (protocols/update.md): SITE/trainer/JOB/residual.
//
// A round leaves two files before its update is given to the gate: "kept-ROUND", what the codec
// lost, for when the update is in the sum, and "carried-ROUND", all that it would have sent, for
// when it is not. Neither changes any more but to the same bytes. The note of the next round says
// which of them its phase begins with; only then the others go. So what a round begins with stays
// until the next one begins.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace tidegate::trainer {

std::string KeptName(uint32_t round);
std::string CarriedName(uint32_t round);
bool IsResidualName(const std::string& name);

// float32 values, their number before them and a SHA-256 over both after. Durable.
Status SaveResidual(const std::filesystem::path& job_dir, const std::string& name,
                    std::span<const float> values);
bool HasResidual(const std::filesystem::path& job_dir, const std::string& name);
// kNotFound when it is not there, kDataLoss when it is damaged or has not `count` values.
Result<std::vector<float>> LoadResidual(const std::filesystem::path& job_dir,
                                        const std::string& name, uint64_t count);
// Removes all but these.
Status KeepResiduals(const std::filesystem::path& job_dir, const std::vector<std::string>& names);

}  // namespace tidegate::trainer
