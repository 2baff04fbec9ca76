#include "train/best_eval.h"

#include <cmath>

namespace tidegate::train {

bool NoteEvaluation(int64_t step, double nll, double threshold, BestEval* best) {
  const bool first = best->step == 0;
  const bool better = first ? !std::isnan(nll) : nll < best->nll;
  const bool counts = better && (first || best->nll - nll > threshold);
  best->evaluations_since = counts ? 0 : best->evaluations_since + 1;
  best->last_step = step;
  if (better) {
    best->step = step;
    best->nll = nll;
  }
  return better;
}

}  // namespace tidegate::train
