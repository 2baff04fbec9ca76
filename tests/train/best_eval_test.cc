#include "train/best_eval.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace tidegate::train {
namespace {

// The counts after each evaluation.
std::vector<int64_t> CountsOf(const std::vector<double>& losses, double threshold) {
  BestEval best;
  std::vector<int64_t> counts;
  for (const double loss : losses) {
    NoteEvaluation(static_cast<int64_t>(counts.size()) + 1, loss, threshold, &best);
    counts.push_back(best.evaluations_since);
  }
  return counts;
}

// The counts are those of transformers' EarlyStoppingCallback, run with these losses.
TEST(BestEval, CountsAsTransformersDoes) {
  const std::vector<double> losses = {2.0, 1.5, 1.5, 1.6, 1.45, 1.42, 1.30, 1.31, 1.29, 1.0};
  EXPECT_EQ(CountsOf(losses, 0.0), (std::vector<int64_t>{0, 0, 1, 2, 0, 0, 0, 1, 0, 0}));
  // Smaller by less than the threshold is a new best, which the next is held against, but no
  // improvement that counts.
  EXPECT_EQ(CountsOf(losses, 0.1), (std::vector<int64_t>{0, 0, 1, 2, 3, 4, 0, 1, 2, 0}));
  EXPECT_EQ(CountsOf({1.0, 0.9, 0.8, 0.7}, 0.5), (std::vector<int64_t>{0, 1, 2, 3}));
}

TEST(BestEval, KeepsTheStepOfTheSmallest) {
  BestEval best;
  EXPECT_TRUE(NoteEvaluation(10, 2.0, 0.5, &best));
  EXPECT_TRUE(NoteEvaluation(20, 1.9, 0.5, &best));
  EXPECT_FALSE(NoteEvaluation(30, 1.9, 0.5, &best));
  EXPECT_EQ(best.step, 20);
  EXPECT_EQ(best.nll, 1.9);
  EXPECT_EQ(best.evaluations_since, 2);
  EXPECT_EQ(best.last_step, 30);
}

TEST(BestEval, NaNIsNeverAnImprovement) {
  BestEval best;
  EXPECT_FALSE(NoteEvaluation(1, std::nan(""), 0, &best));
  EXPECT_EQ(best.step, 0);
  EXPECT_EQ(best.evaluations_since, 1);
  EXPECT_TRUE(NoteEvaluation(2, 3.0, 0, &best));
  EXPECT_EQ(best.evaluations_since, 0);
  EXPECT_FALSE(NoteEvaluation(3, std::nan(""), 0, &best));
  EXPECT_EQ(best.step, 2);
  EXPECT_EQ(best.evaluations_since, 1);
}

}  // namespace
}  // namespace tidegate::train
