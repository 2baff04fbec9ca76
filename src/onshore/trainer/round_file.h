// The durable note of the round that a trainer is in: SITE/trainer/JOB/round.json.
//
// It is written before the round is trained, so that after a crash the newest training state tells
// by its step whether the round's training is done: `end_step` reached, or not begun. (There is no
// state in between: a round is trained again from the state before it, with the same bits.)
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "base/status.h"

namespace tidegate::trainer {

struct RoundNote {
  uint32_t round = 0;
  uint32_t adapter_version = 0;  // what it starts from
  int64_t end_step = 0;          // the state's step once it is trained
  // Filled in before the state of end_step is saved:
  bool trained = false;
  uint32_t weight = 1;
  uint32_t train_loss_milli = 0;
  uint32_t heldout_loss_milli = 0;
};

Status SaveRoundNote(const std::filesystem::path& job_dir, const RoundNote& note);
// Nothing when there is none; kDataLoss when it does not parse.
Result<std::optional<RoundNote>> LoadRoundNote(const std::filesystem::path& job_dir);

}  // namespace tidegate::trainer
