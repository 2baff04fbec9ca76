#include "model/generate.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/rng.h"

namespace tidegate::model {
namespace {

Status CheckOptions(const GenerateOptions& options) {
  if (options.max_new_tokens < 1) {
    return InvalidArgument("max_new_tokens is {}: ask for at least 1", options.max_new_tokens);
  }
  if (!std::isfinite(options.temperature) || options.temperature < 0) {
    return InvalidArgument("temperature is {}: choose 0 (greedy) or a number above it",
                           options.temperature);
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return InvalidArgument("top_p is {}: choose above 0 and at most 1", options.top_p);
  }
  if (options.vocab_limit < 0) {
    return InvalidArgument("vocab_limit is {}: choose 0 (none) or above", options.vocab_limit);
  }
  return OkStatus();
}

struct Candidate {
  double probability;
  int32_t id;
};

// Most probable first, lowest id on ties: a total order.
bool Likelier(const Candidate& a, const Candidate& b) {
  return a.probability != b.probability ? a.probability > b.probability : a.id < b.id;
}

// The shortest prefix of the sorted candidates that holds `top_p` of the probability.
void KeepNucleus(double top_p, std::vector<Candidate>* candidates) {
  if (top_p >= 1) return;
  double total = 0;
  for (const Candidate& c : *candidates) total += c.probability;
  double sum = 0;
  for (size_t i = 0; i < candidates->size(); ++i) {
    sum += (*candidates)[i].probability;
    if (sum >= top_p * total) {
      candidates->resize(i + 1);
      return;
    }
  }
}

int32_t Sample(std::span<const float> logits, float best, const GenerateOptions& options,
               uint64_t index) {
  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const double p = std::exp((static_cast<double>(logits[i]) - best) / options.temperature);
    if (p > 0) candidates.push_back({p, static_cast<int32_t>(i)});
  }
  std::sort(candidates.begin(), candidates.end(), Likelier);
  KeepNucleus(options.top_p, &candidates);
  double total = 0;
  for (const Candidate& c : candidates) total += c.probability;
  const auto words = RandomWords(options.seed, RngPurpose::kSampling, 0, index);
  const double uniform = (static_cast<double>(words[0]) * 0x1p32 + words[1]) * 0x1p-64;
  double left = uniform * total;
  for (const Candidate& c : candidates) {
    if (left < c.probability) return c.id;
    left -= c.probability;
  }
  return candidates.back().id;
}

}  // namespace

Result<int32_t> ChooseToken(std::span<const float> logits, const GenerateOptions& options,
                            uint64_t index) {
  if (options.vocab_limit > 0) {
    logits = logits.first(std::min(logits.size(), static_cast<size_t>(options.vocab_limit)));
  }
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
  if (options.temperature == 0) return best_id;
  return Sample(logits, best, options, index);
}

Result<Generation> Generate(Engine& engine, std::span<const int32_t> prompt,
                            const GenerateOptions& options, const TokenCallback& on_token) {
  TG_RETURN_IF_ERROR(CheckOptions(options));
  engine.ResetSequence();
  TG_ASSIGN_OR_RETURN(std::vector<float> logits, engine.Append(prompt));
  Generation out;
  while (true) {
    TG_ASSIGN_OR_RETURN(const int32_t id, ChooseToken(logits, options, out.ids.size()));
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) {
      out.reason = StopReason::kStopId;
      return out;
    }
    out.ids.push_back(id);
    if (on_token && !on_token(id)) {
      out.reason = StopReason::kCallback;
      return out;
    }
    if (static_cast<int64_t>(out.ids.size()) == options.max_new_tokens) return out;
    Result<std::vector<float>> next = engine.Append({&id, 1});
    if (!next && next.error().code() == Code::kFailedPrecondition) {
      out.reason = StopReason::kMaxPositions;
      return out;
    }
    if (!next) return Unexpected(next.error());
    logits = std::move(*next);
  }
}

}  // namespace tidegate::model
