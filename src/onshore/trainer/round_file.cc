#include "onshore/trainer/round_file.h"

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "base/file.h"
#include "base/json.h"
#include "onshore/trainer/residual_file.h"

namespace tidegate::trainer {
namespace {

std::filesystem::path PathOf(const std::filesystem::path& job_dir) {
  return job_dir / "round.json";
}

// A whole number of T's range: get<T>() would convert whatever number is there.
template <typename T>
T Whole(const nlohmann::json& json, const char* key) {
  const nlohmann::json& value = json.at(key);
  const bool fits = value.is_number_unsigned()
                        ? std::in_range<T>(value.get<uint64_t>())
                        : value.is_number_integer() && std::in_range<T>(value.get<int64_t>());
  if (!fits) throw std::out_of_range(key);
  return value.get<T>();
}

}  // namespace

Status SaveRoundNote(const std::filesystem::path& job_dir, const RoundNote& note) {
  const nlohmann::ordered_json json = {{"round", note.round},
                                       {"adapter_version", note.adapter_version},
                                       {"begin_step", note.begin_step},
                                       {"first_step", note.first_step},
                                       {"end_step", note.end_step},
                                       {"at_step", note.at_step},
                                       {"loss_sum", note.loss_sum},
                                       {"targets", note.targets},
                                       {"trained", note.trained},
                                       {"weight", note.weight},
                                       {"train_loss_milli", note.train_loss_milli},
                                       {"heldout_loss_milli", note.heldout_loss_milli},
                                       {"residuals", note.residuals}};
  return WriteFileDurably(PathOf(job_dir), AsBytes(json.dump(2) + "\n"));
}

Result<std::optional<RoundNote>> LoadRoundNote(const std::filesystem::path& job_dir) {
  if (!std::filesystem::exists(PathOf(job_dir))) return std::nullopt;
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(PathOf(job_dir), 1 << 16));
  const auto parsed = ParseStrictJson(text, {}, PathOf(job_dir).native());
  if (!parsed) return DataLoss("{}", parsed.error().message());
  RoundNote note;
  try {
    const nlohmann::json& json = *parsed;
    note.round = Whole<uint32_t>(json, "round");
    note.adapter_version = Whole<uint32_t>(json, "adapter_version");
    note.begin_step = Whole<int64_t>(json, "begin_step");
    // Notes of before versions could be missed have none.
    note.first_step =
        json.contains("first_step") ? Whole<int64_t>(json, "first_step") : note.begin_step;
    note.end_step = Whole<int64_t>(json, "end_step");
    note.at_step = Whole<int64_t>(json, "at_step");
    note.loss_sum = json.at("loss_sum").get<double>();
    note.targets = Whole<int64_t>(json, "targets");
    note.trained = json.at("trained").get<bool>();
    note.weight = Whole<uint32_t>(json, "weight");
    note.train_loss_milli = Whole<uint32_t>(json, "train_loss_milli");
    note.heldout_loss_milli = Whole<uint32_t>(json, "heldout_loss_milli");
    note.residuals = json.at("residuals").get<std::vector<std::string>>();
  } catch (const nlohmann::json::exception& e) {
    return DataLoss("{} is damaged: {}", PathOf(job_dir).native(), e.what());
  } catch (const std::out_of_range& e) {
    return DataLoss("{} is damaged: {} is no number of its range", PathOf(job_dir).native(),
                    e.what());
  }
  for (const std::string& name : note.residuals) {
    if (name.empty() || IsResidualName(name)) continue;
    return DataLoss("{} is damaged: a residual's name", PathOf(job_dir).native());
  }
  return note;
}

}  // namespace tidegate::trainer
