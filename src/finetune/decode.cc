#include "finetune/decode.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/rng.h"

namespace tidegate::finetune {
namespace {

int32_t Sample(std::span<const float> logits, const DecodeOptions& options, int64_t position) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  const double top = static_cast<double>(logits[static_cast<size_t>(order[0])]);
  std::vector<double> weight(order.size());
  double total = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const double logit = static_cast<double>(logits[static_cast<size_t>(order[i])]);
    weight[i] = std::exp((logit - top) / options.temperature);
    total += weight[i];
  }
  size_t kept = 0;
  double mass = 0;
  while (kept < weight.size() && (kept == 0 || mass < options.top_p * total)) {
    mass += weight[kept++];
  }
  const auto words =
      RandomWords(options.seed, RngPurpose::kSampling, 0, static_cast<uint64_t>(position));
  double left = static_cast<double>(UniformFloat(words[0])) * mass;
  for (size_t i = 0; i + 1 < kept; ++i) {
    left -= weight[i];
    if (left < 0) return order[i];
  }
  return order[kept - 1];
}

}  // namespace

Status CheckDecode(const DecodeOptions& options) {
  if (options.max_new_tokens < 1 || options.max_new_tokens > 1 << 20) {
    return InvalidArgument("--max_new_tokens {} must be between 1 and {}", options.max_new_tokens,
                           1 << 20);
  }
  if (!(options.temperature >= 0 && options.temperature <= 100)) {
    return InvalidArgument("--temperature {} must be between 0 (greedy) and 100",
                           options.temperature);
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return InvalidArgument("--top_p {} must be above 0 and at most 1", options.top_p);
  }
  return OkStatus();
}

Result<int32_t> ChooseToken(std::span<const float> logits, const DecodeOptions& options,
                            int64_t position) {
  if (options.vocab_size > 0 && static_cast<size_t>(options.vocab_size) < logits.size()) {
    logits = logits.first(static_cast<size_t>(options.vocab_size));
  }
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isfinite(logits[i])) {
      return FailedPrecondition(
          "the logit of token {} is not finite: base and adapter do not fit, or training diverged",
          i);
    }
  }
  if (options.temperature > 0) return Sample(logits, options, position);
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

Result<Decoded> Decode(model::Engine& engine, std::span<const int32_t> prompt,
                       std::span<const int32_t> stop_ids, int64_t max_positions,
                       const DecodeOptions& options, const std::function<bool(int32_t)>& on_token) {
  TG_RETURN_IF_ERROR(CheckDecode(options));
  if (prompt.empty()) return InvalidArgument("the prompt is empty; give at least one token");
  const int64_t room = max_positions - static_cast<int64_t>(prompt.size());
  if (room < 1) {
    return ResourceExhausted("the prompt has {} tokens, the base has {} positions", prompt.size(),
                             max_positions);
  }
  Decoded out;
  engine.ResetSequence();
  TG_ASSIGN_OR_RETURN(std::vector<float> logits, engine.Append(prompt));
  const int64_t limit = std::min(room, options.max_new_tokens);
  for (int64_t i = 0; i < limit; ++i) {
    TG_ASSIGN_OR_RETURN(const int32_t id, ChooseToken(logits, options, i));
    if (std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end()) {
      out.stopped = true;
      break;
    }
    out.ids.push_back(id);
    if (on_token && !on_token(id)) break;
    if (i + 1 == limit) break;
    TG_ASSIGN_OR_RETURN(logits, engine.Append({&out.ids.back(), 1}));
  }
  return out;
}

}  // namespace tidegate::finetune
