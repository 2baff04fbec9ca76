// The durable note of the round that a trainer is in: SITE/trainer/JOB/round.json.
//
// It is written before the state that it speaks of, so that after a crash the newest training state
// tells by its step how far the round's training is: `end_step` reached, at the step where it was
// paused, or not begun. Whatever it is, training goes on from a state that is on disk, with the
// same bits. The state of `begin_step` is kept until the next round begins: a round that the
// coordinator abandoned leaves no trace in moments, schedule and data cursor, nor in what error
// feedback carries: the note names the residuals that the round begins with (residual_file.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace tidegate::trainer {

struct RoundNote {
  uint32_t round = 0;
  uint32_t adapter_version = 0;  // what it starts from
  int64_t begin_step = 0;        // of the state before it
  int64_t first_step =
      0;                 // its place in the schedule: begin_step, or later if versions were missed
  int64_t end_step = 0;  // the state's step once it is trained
  // Where it goes on: first_step, or the step of the state that was saved when it was paused; and
  // what its steps up to there add up to.
  int64_t at_step = 0;
  double loss_sum = 0;
  int64_t targets = 0;
  // Filled in before the state of end_step is saved:
  bool trained = false;
  uint32_t weight = 1;
  uint32_t train_loss_milli = 0;
  uint32_t heldout_loss_milli = 0;
  // The residual file of each phase; "": there is none yet. Empty without error feedback.
  std::vector<std::string> residuals;
};

Status SaveRoundNote(const std::filesystem::path& job_dir, const RoundNote& note);
// Nothing when there is none; kDataLoss when it does not parse.
Result<std::optional<RoundNote>> LoadRoundNote(const std::filesystem::path& job_dir);

}  // namespace tidegate::trainer
