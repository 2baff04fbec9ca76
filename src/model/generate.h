// Text generation, token by token, from an engine and its KV cache.
//
// Sampling draws from the counter RNG: the same prompt, options and logits give the same tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/status.h"
#include "model/transformer.h"

namespace tidegate::model {

struct GenerateOptions {
  int64_t max_new_tokens = 256;
  double temperature = 0.0;  // 0: the likeliest token (the lowest id on ties)
  double top_p = 1.0;        // sample from the fewest likeliest tokens that reach this probability
  uint64_t seed = 0;         // for temperature > 0
  std::vector<int32_t> stop_ids = {};  // any of them ends the answer and is not part of it
  int64_t vocab_limit = 0;  // ids at or above are never chosen (padded vocabularies); 0: none
};

enum class StopReason : uint8_t { kStopId, kMaxNewTokens, kMaxPositions, kCallback };

struct Generation {
  std::vector<int32_t> ids;  // without the prompt and the stop id
  StopReason reason = StopReason::kMaxNewTokens;
};

// Called with each token as it is chosen; false ends the generation after it.
using TokenCallback = std::function<bool(int32_t id)>;

// Chooses a token of `logits`; `index` is its place in the answer. kInvalidArgument if a logit is
// NaN or no finite one is left.
Result<int32_t> ChooseToken(std::span<const float> logits, const GenerateOptions& options,
                            uint64_t index);

// Resets the engine's sequence, feeds the prompt and continues it. `on_token` may be empty. Options
// out of range, an empty prompt and one longer than the model's positions are refused; after a
// prompt of all positions one token is chosen.
Result<Generation> Generate(Engine& engine, std::span<const int32_t> prompt,
                            const GenerateOptions& options, const TokenCallback& on_token);

}  // namespace tidegate::model
