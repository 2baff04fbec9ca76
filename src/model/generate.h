// Text generation, token by token, from an engine and its KV caches.
//
// Sampling draws from the counter RNG: the same prompt, options and logits give the same tokens.
// The order is that of transformers: repetition penalty, temperature, top k, top p.
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
  int64_t top_k = 0;   // sample from the likeliest k (and those as likely as the k-th); 0: all
  double top_p = 1.0;  // sample from the fewest likeliest tokens that reach this probability
  double repetition_penalty = 1.0;     // what is in the prompt or the answer: logit / or * this
  uint64_t seed = 0;                   // for temperature > 0
  std::vector<int32_t> stop_ids = {};  // any of them ends the answer and is not part of it
  int64_t vocab_limit = 0;  // ids at or above are never chosen (padded vocabularies); 0: none
};

Status CheckGenerateOptions(const GenerateOptions& options);

// Chooses tokens, and keeps the scratch that it needs. Not thread-safe.
class TokenChooser {
 public:
  explicit TokenChooser(const GenerateOptions& options) : options_(options) {}

  // A token by `logits`, which are penalised in place; `seen` is the sequence so far and `index`
  // the token's place in the answer. kInvalidArgument if a logit is NaN or no finite one is left.
  Result<int32_t> Choose(std::span<float> logits, std::span<const int32_t> seen, uint64_t index);

 private:
  struct Candidate {
    double probability;
    int32_t id;
  };
  static bool LessLikely(const Candidate& a, const Candidate& b);

  void Penalize(std::span<float> logits, std::span<const int32_t> seen);
  float LeastOfTopK(std::span<const float> logits);
  void KeepNucleus();
  int32_t Sample(std::span<const float> logits, float best, uint64_t index);

  GenerateOptions options_;
  std::vector<uint8_t> penalized_;  // by id
  std::vector<float> heap_;
  std::vector<Candidate> candidates_;
};

enum class StopReason : uint8_t { kStopId, kMaxNewTokens, kMaxPositions, kCallback };

struct Generation {
  std::vector<int32_t> ids;  // without the prompt and the stop id
  StopReason reason = StopReason::kMaxNewTokens;
  int64_t cached_tokens = 0;  // tokens of the prompt that the cache had already
};

// Called with each token as it is chosen; false ends the generation after it.
using TokenCallback = std::function<bool(int32_t id)>;

// Continues `prompt`. What the cache holds of its beginning is not computed again, the rest of the
// cache is dropped: a conversation goes on where it was. `on_token` may be empty. Options out of
// range, an empty prompt and one longer than the model's positions are refused; after a prompt of
// all positions one token is chosen.
Result<Generation> Generate(Engine& engine, KvCache& cache, std::span<const int32_t> prompt,
                            const GenerateOptions& options, const TokenCallback& on_token);

struct BatchCallbacks {
  // A token of the answer to prompts[index]; false ends that answer after it. May be empty.
  std::function<bool(size_t index, int32_t id)> on_token;
  // The answer to prompts[index] is whole; false ends the batch. In the order in which they end.
  std::function<bool(size_t index, const Generation& generation)> on_answer;
};

// Answers to many prompts, `batch_size` (1 to kMaxStepSequences) of which advance together; the
// next one begins when one ends. Each answer is what Generate gives for its prompt alone, bit for
// bit. Errors that are of one prompt name it, from 1.
Status GenerateBatch(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                     const GenerateOptions& options, int64_t batch_size,
                     const BatchCallbacks& callbacks);

}  // namespace tidegate::model
