// Question answering by exact match: the answer is decoded greedily and compared, byte for byte,
// with the record's. Not thread-safe.
#pragma once

#include <functional>
#include <vector>

#include "base/status.h"
#include "finetune/dataset.h"
#include "finetune/loaded_base.h"
#include "model/transformer.h"

namespace tidegate::finetune {

inline constexpr int64_t kMaxNewTokens = 1 << 20;

struct ExactMatch {
  int64_t questions = 0;
  int64_t correct = 0;
  int64_t cut = 0;  // answers that max_new_tokens or the positions ended; never correct
  double share() const {
    return questions > 0 ? static_cast<double>(correct) / static_cast<double>(questions) : 0.0;
  }
};

// Uses the parameters that are in the engine. kCancelled when `should_stop` said so.
Result<ExactMatch> MeasureExactMatch(model::Engine& engine, const LoadedBase& base,
                                     const std::vector<Question>& questions, int64_t max_new_tokens,
                                     const std::function<bool()>& should_stop);

}  // namespace tidegate::finetune
