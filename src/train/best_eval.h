// The best of a run's evaluations, and how many in a row were no improvement: what early stopping
// and "load the best at the end" need to know. Part of a training state. Values; not thread-safe.
#pragma once

#include <cstdint>
#include <string>

namespace tidegate::train {

struct BestEval {
  int64_t step = 0;  // 0: no evaluation was a number yet
  double nll = 0;
  int64_t evaluations_since = 0;    // in a row that were no improvement beyond the threshold
  std::string parameters_checksum;  // of the parameters at `step`; the caller's to fill in
  int64_t last_step = 0;            // of the last evaluation; 0 when there was none
};

// Takes an evaluation in; whether it is the best so far. As transformers' EarlyStoppingCallback and
// Trainer do it: any smaller loss is the new best, but only one that is smaller by more than
// `threshold` begins the count anew. NaN is never an improvement.
bool NoteEvaluation(int64_t step, double nll, double threshold, BestEval* best);

}  // namespace tidegate::train
