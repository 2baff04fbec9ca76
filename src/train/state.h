// Everything that a training run is between two optimizer steps. A run continued from a TrainState
// has the same bits as one that was never stopped, for any number of threads.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tokens/batch_source.h"
#include "train/best_eval.h"
#include "train/optimizer.h"

namespace tidegate::train {

// Part of every checkpoint: how random numbers and data order are derived from the seed. Raised
// when base/rng.h, the data order or the dropout key changes.
inline constexpr uint32_t kRngScheme = 1;

struct TrainState {
  std::vector<float> parameters;
  Moments moments;
  int64_t step = 0;          // windows done; the position in the schedule
  uint32_t micro_steps = 0;  // micro-batches done; the dropout key
  tokens::Cursor cursor;     // the next micro-batch
  uint64_t seed = 0;
  int64_t tokens_seen = 0;
  int64_t targets_seen = 0;
  int64_t skipped_windows = 0;  // windows without a target: nothing was changed
  BestEval best;

  static TrainState Start(std::vector<float> parameters, uint64_t seed) {
    TrainState state;
    state.moments.m.assign(parameters.size(), 0.0f);
    state.moments.v.assign(parameters.size(), 0.0f);
    state.parameters = std::move(parameters);
    state.seed = seed;
    return state;
  }
};

// What a checkpoint belongs to: names and values that must be equal when it is resumed, such as
// "base", "tokenizer", "data plan", "learning_rate". Sorted by name.
using Identity = std::map<std::string, std::string>;
// Entries whose name begins so are told when they differ, and no reason to refuse: another
// instruction set gives other last bits of the same training.
inline constexpr std::string_view kAboutPrefix = "about ";

}  // namespace tidegate::train
