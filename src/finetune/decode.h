// Token by token decoding of one sequence. Greedy decoding is a pure function of base, adapter and
// prompt; sampling is one of those and the seed. Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/status.h"
#include "model/transformer.h"

namespace tidegate::finetune {

struct DecodeOptions {
  int64_t max_new_tokens = 256;
  double temperature = 0;  // 0: greedy, the lowest id on ties
  double top_p = 1.0;      // of sampling: the smallest set of tokens with this probability
  uint64_t seed = 0;
  int64_t vocab_size = 0;  // ids from here on are padding of the model and never chosen; 0: none
};

Status CheckDecode(const DecodeOptions& options);

struct Decoded {
  std::vector<int32_t> ids;  // without the stop token
  bool stopped = false;      // by a stop token, not by a limit
};

// Continues `prompt` (at least one id) until a stop token, max_new_tokens or the model's positions.
// `on_token` may be empty, and ends the decoding by returning false. kFailedPrecondition when a
// logit is not finite.
Result<Decoded> Decode(model::Engine& engine, std::span<const int32_t> prompt,
                       std::span<const int32_t> stop_ids, int64_t max_positions,
                       const DecodeOptions& options,
                       const std::function<bool(int32_t)>& on_token = {});

// The id that `options` choose from `logits` at the `position`-th new token.
Result<int32_t> ChooseToken(std::span<const float> logits, const DecodeOptions& options,
                            int64_t position);

}  // namespace tidegate::finetune
