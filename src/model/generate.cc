#include "model/generate.h"

#include <algorithm>
#include <deque>
#include <optional>

namespace tidegate::model {
namespace {

// One answer on its way: takes logits, gives the token to feed next.
class Answer {
 public:
  Answer(const GenerateOptions& options, TokenChooser& chooser, KvCache& cache)
      : options_(options), chooser_(chooser), cache_(cache) {}

  // Chooses a token by the logits after the last one that the cache holds. False: the answer is
  // whole.
  Result<bool> Take(std::span<float> logits, const TokenCallback& on_token) {
    TG_ASSIGN_OR_RETURN(const int32_t id,
                        chooser_.Choose(logits, cache_.ids(), generation_.ids.size()));
    if (std::find(options_.stop_ids.begin(), options_.stop_ids.end(), id) !=
        options_.stop_ids.end()) {
      return End(StopReason::kStopId);
    }
    generation_.ids.push_back(id);
    if (on_token && !on_token(id)) return End(StopReason::kCallback);
    if (static_cast<int64_t>(generation_.ids.size()) == options_.max_new_tokens) {
      return End(StopReason::kMaxNewTokens);
    }
    if (cache_.length() == cache_.max_positions()) return End(StopReason::kMaxPositions);
    return true;
  }

  // The token that was chosen last.
  const int32_t& next() const { return generation_.ids.back(); }
  Generation& generation() { return generation_; }

 private:
  bool End(StopReason reason) {
    generation_.reason = reason;
    return false;
  }

  const GenerateOptions& options_;
  TokenChooser& chooser_;
  KvCache& cache_;
  Generation generation_;
};

// The prompt's and the answer's, but for the last token, which is never fed.
Status ReserveFor(KvCache& cache, size_t prompt, const GenerateOptions& options) {
  const int64_t tokens = static_cast<int64_t>(prompt);
  try {
    cache.Reserve(tokens + std::min(options.max_new_tokens, cache.max_positions()) - 1);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted(
        "the keys and values of {} tokens do not fit in memory: ask for fewer new tokens, or for "
        "fewer answers at once",
        tokens + options.max_new_tokens);
  }
  return OkStatus();
}

size_t CommonBeginning(std::span<const int32_t> a, std::span<const int32_t> b) {
  const auto [end, ignored] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return static_cast<size_t>(end - a.begin());
}

// A place in the batch.
struct Slot {
  explicit Slot(KvCache own) : cache(std::move(own)) {}
  KvCache cache;
  size_t prompt = 0;
  std::optional<Answer> answer;  // none: the place is free
};

class Batch {
 public:
  Batch(Engine& engine, std::span<const std::vector<int32_t>> prompts,
        const GenerateOptions& options, int64_t batch_size, const BatchCallbacks& callbacks)
      : engine_(engine),
        prompts_(prompts),
        options_(options),
        chooser_(options),
        callbacks_(callbacks) {
    const size_t count = std::min(static_cast<size_t>(batch_size), prompts.size());
    for (size_t i = 0; i < count; ++i) slots_.emplace_back(engine.NewCache());
  }

  Status Run() {
    while (true) {
      for (Slot& slot : slots_) {
        // A prompt may be answered by its first token.
        while (!slot.answer && next_ < prompts_.size() && !ended_) {
          TG_RETURN_IF_ERROR(Begin(slot));
        }
      }
      if (ended_) return OkStatus();
      std::vector<Slot*> active;
      for (Slot& slot : slots_) {
        if (slot.answer) active.push_back(&slot);
      }
      if (active.empty()) return OkStatus();
      TG_RETURN_IF_ERROR(Advance(active));
    }
  }

 private:
  Status Begin(Slot& slot) {
    slot.prompt = next_++;
    const std::vector<int32_t>& prompt = prompts_[slot.prompt];
    slot.cache.Truncate(0);
    Status status = ReserveFor(slot.cache, prompt.size(), options_);
    if (!status.ok()) return Named(slot, status);
    const Result<std::span<float>> logits = engine_.Append(slot.cache, prompt);
    if (!logits) return Named(slot, logits.error());
    slot.answer.emplace(options_, chooser_, slot.cache);
    return Take(slot, *logits);
  }

  Status Advance(std::span<Slot* const> active) {
    std::vector<KvCache*> caches;
    std::vector<int32_t> ids;
    for (Slot* slot : active) {
      caches.push_back(&slot->cache);
      ids.push_back(slot->answer->next());
    }
    TG_ASSIGN_OR_RETURN(const std::span<float> logits, engine_.Step(caches, ids));
    const size_t vocab = logits.size() / active.size();
    for (size_t i = 0; i < active.size() && !ended_; ++i) {
      TG_RETURN_IF_ERROR(Take(*active[i], logits.subspan(i * vocab, vocab)));
    }
    return OkStatus();
  }

  Status Take(Slot& slot, std::span<float> logits) {
    TokenCallback on_token;
    if (callbacks_.on_token) {
      on_token = [this, &slot](int32_t id) { return callbacks_.on_token(slot.prompt, id); };
    }
    const Result<bool> goes_on = slot.answer->Take(logits, on_token);
    if (!goes_on) return Named(slot, goes_on.error());
    if (*goes_on) return OkStatus();
    if (!callbacks_.on_answer(slot.prompt, slot.answer->generation())) ended_ = true;
    slot.answer.reset();
    return OkStatus();
  }

  static Status Named(const Slot& slot, const Status& status) {
    return status.WithContext(fmt::format("prompt {}", slot.prompt + 1));
  }

  Engine& engine_;
  std::span<const std::vector<int32_t>> prompts_;
  const GenerateOptions& options_;
  TokenChooser chooser_;
  const BatchCallbacks& callbacks_;
  std::deque<Slot> slots_;  // answers refer to their slot's cache
  size_t next_ = 0;         // prompt
  bool ended_ = false;
};

}  // namespace

Result<Generation> Generate(Engine& engine, KvCache& cache, std::span<const int32_t> prompt,
                            const GenerateOptions& options, const TokenCallback& on_token) {
  TG_RETURN_IF_ERROR(CheckGenerateOptions(options));
  // The last token is always fed: its logits begin the answer.
  const size_t known =
      prompt.empty() ? 0 : std::min(CommonBeginning(cache.ids(), prompt), prompt.size() - 1);
  cache.Truncate(static_cast<int64_t>(known));
  TG_RETURN_IF_ERROR(ReserveFor(cache, prompt.size(), options));
  TokenChooser chooser(options);
  Answer answer(options, chooser, cache);
  answer.generation().cached_tokens = static_cast<int64_t>(known);
  TG_ASSIGN_OR_RETURN(std::span<float> logits, engine.Append(cache, prompt.subspan(known)));
  while (true) {
    TG_ASSIGN_OR_RETURN(const bool goes_on, answer.Take(logits, on_token));
    if (!goes_on) return std::move(answer.generation());
    TG_ASSIGN_OR_RETURN(logits, engine.Append(cache, {&answer.next(), 1}));
  }
}

Status GenerateBatch(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                     const GenerateOptions& options, int64_t batch_size,
                     const BatchCallbacks& callbacks) {
  TG_RETURN_IF_ERROR(CheckGenerateOptions(options));
  if (batch_size < 1 || batch_size > static_cast<int64_t>(kMaxStepSequences)) {
    return InvalidArgument("batch_size is {}: choose 1 to {}", batch_size, kMaxStepSequences);
  }
  return Batch(engine, prompts, options, batch_size, callbacks).Run();
}

}  // namespace tidegate::model
