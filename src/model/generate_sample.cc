// One token out of the logits.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "base/rng.h"
#include "model/generate.h"

namespace tidegate::model {

Status CheckGenerateOptions(const GenerateOptions& options) {
  if (options.max_new_tokens < 1) {
    return InvalidArgument("max_new_tokens is {}: ask for at least 1", options.max_new_tokens);
  }
  if (!std::isfinite(options.temperature) || options.temperature < 0) {
    return InvalidArgument("temperature is {}: choose 0 (greedy) or a number above it",
                           options.temperature);
  }
  if (options.top_k < 0) {
    return InvalidArgument("top_k is {}: choose 0 (all tokens) or above", options.top_k);
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return InvalidArgument("top_p is {}: choose above 0 and at most 1", options.top_p);
  }
  if (!(options.repetition_penalty > 0 && std::isfinite(options.repetition_penalty))) {
    return InvalidArgument("repetition_penalty is {}: choose a number above 0, 1 for none",
                           options.repetition_penalty);
  }
  if (options.vocab_limit < 0) {
    return InvalidArgument("vocab_limit is {}: choose 0 (none) or above", options.vocab_limit);
  }
  return OkStatus();
}

// Of equals the lowest id is the likeliest: a total order.
bool TokenChooser::LessLikely(const Candidate& a, const Candidate& b) {
  return a.probability != b.probability ? a.probability < b.probability : a.id > b.id;
}

// Once an id, however often it was seen.
void TokenChooser::Penalize(std::span<float> logits, std::span<const int32_t> seen) {
  penalized_.assign(logits.size(), 0);
  const float penalty = static_cast<float>(options_.repetition_penalty);
  for (const int32_t id : seen) {
    const size_t i = static_cast<size_t>(id);
    if (i >= logits.size() || penalized_[i] != 0) continue;
    penalized_[i] = 1;
    logits[i] = logits[i] < 0 ? logits[i] * penalty : logits[i] / penalty;
  }
}

float TokenChooser::LeastOfTopK(std::span<const float> logits) {
  const size_t k = std::min(static_cast<size_t>(options_.top_k), logits.size());
  heap_.assign(logits.begin(), logits.begin() + static_cast<std::ptrdiff_t>(k));
  std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
  for (const float logit : logits.subspan(k)) {
    if (logit <= heap_.front()) continue;
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    heap_.back() = logit;
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }
  return heap_.front();
}

// Leaves the fewest likeliest candidates that hold `top_p` of the probability.
void TokenChooser::KeepNucleus() {
  double total = 0;
  for (const Candidate& c : candidates_) total += c.probability;
  std::make_heap(candidates_.begin(), candidates_.end(), LessLikely);
  auto rest = candidates_.end();  // behind it lie those taken, the likeliest last
  double sum = 0;
  while (rest != candidates_.begin() && sum < options_.top_p * total) {
    sum += candidates_.front().probability;
    std::pop_heap(candidates_.begin(), rest, LessLikely);
    --rest;
  }
  candidates_.erase(candidates_.begin(), rest);
}

int32_t TokenChooser::Sample(std::span<const float> logits, float best, uint64_t index) {
  const float least =
      options_.top_k > 0 ? LeastOfTopK(logits) : -std::numeric_limits<float>::infinity();
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] < least) continue;
    const double p = std::exp((static_cast<double>(logits[i]) - best) / options_.temperature);
    if (p > 0) candidates_.push_back({p, static_cast<int32_t>(i)});
  }
  if (options_.top_p < 1) KeepNucleus();
  double total = 0;
  for (const Candidate& c : candidates_) total += c.probability;
  const auto words = RandomWords(options_.seed, RngPurpose::kSampling, 0, index);
  const double uniform = (static_cast<double>(words[0]) * 0x1p32 + words[1]) * 0x1p-64;
  double left = uniform * total;
  for (const Candidate& c : candidates_) {
    if (left < c.probability) return c.id;
    left -= c.probability;
  }
  return candidates_.back().id;
}

Result<int32_t> TokenChooser::Choose(std::span<float> logits, std::span<const int32_t> seen,
                                     uint64_t index) {
  if (options_.vocab_limit > 0) {
    logits = logits.first(std::min(logits.size(), static_cast<size_t>(options_.vocab_limit)));
  }
  if (options_.repetition_penalty != 1) Penalize(logits, seen);
  float best = -std::numeric_limits<float>::infinity();
  int32_t best_id = -1;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) {
      return InvalidArgument("the model's logit for id {} is NaN: the adapter is damaged", i);
    }
    if (logits[i] > best) {
      best = logits[i];
      best_id = static_cast<int32_t>(i);
    }
  }
  if (best_id < 0 || !std::isfinite(best)) {
    return InvalidArgument("the model's logits are not finite: the adapter is damaged");
  }
  if (options_.temperature == 0) return best_id;
  return Sample(logits, best, index);
}

}  // namespace tidegate::model
