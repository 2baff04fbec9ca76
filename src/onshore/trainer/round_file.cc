#include "onshore/trainer/round_file.h"

#include <nlohmann/json.hpp>

#include "base/file.h"

namespace tidegate::trainer {
namespace {

std::filesystem::path PathOf(const std::filesystem::path& job_dir) {
  return job_dir / "round.json";
}

}  // namespace

Status SaveRoundNote(const std::filesystem::path& job_dir, const RoundNote& note) {
  const nlohmann::ordered_json json = {{"round", note.round},
                                       {"adapter_version", note.adapter_version},
                                       {"begin_step", note.begin_step},
                                       {"end_step", note.end_step},
                                       {"at_step", note.at_step},
                                       {"loss_sum", note.loss_sum},
                                       {"targets", note.targets},
                                       {"trained", note.trained},
                                       {"weight", note.weight},
                                       {"train_loss_milli", note.train_loss_milli},
                                       {"heldout_loss_milli", note.heldout_loss_milli}};
  return WriteFileDurably(PathOf(job_dir), AsBytes(json.dump(2) + "\n"));
}

Result<std::optional<RoundNote>> LoadRoundNote(const std::filesystem::path& job_dir) {
  if (!std::filesystem::exists(PathOf(job_dir))) return std::nullopt;
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(PathOf(job_dir), 1 << 16));
  const auto json = nlohmann::json::parse(text, nullptr, false);
  RoundNote note;
  try {
    note.round = json.at("round").get<uint32_t>();
    note.adapter_version = json.at("adapter_version").get<uint32_t>();
    note.begin_step = json.at("begin_step").get<int64_t>();
    note.end_step = json.at("end_step").get<int64_t>();
    note.at_step = json.at("at_step").get<int64_t>();
    note.loss_sum = json.at("loss_sum").get<double>();
    note.targets = json.at("targets").get<int64_t>();
    note.trained = json.at("trained").get<bool>();
    note.weight = json.at("weight").get<uint32_t>();
    note.train_loss_milli = json.at("train_loss_milli").get<uint32_t>();
    note.heldout_loss_milli = json.at("heldout_loss_milli").get<uint32_t>();
  } catch (const nlohmann::json::exception& e) {
    return DataLoss("{} is damaged: {}", PathOf(job_dir).native(), e.what());
  }
  return note;
}

}  // namespace tidegate::trainer
