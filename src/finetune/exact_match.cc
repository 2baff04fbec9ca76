#include "finetune/exact_match.h"

#include "model/generate.h"

namespace tidegate::finetune {

Result<ExactMatch> MeasureExactMatch(model::Engine& engine, const LoadedBase& base,
                                     const std::vector<Question>& questions, int64_t max_new_tokens,
                                     const std::function<bool()>& should_stop) {
  if (max_new_tokens < 1 || max_new_tokens > kMaxNewTokens) {
    return InvalidArgument("--max_new_tokens {} must be between 1 and {}", max_new_tokens,
                           kMaxNewTokens);
  }
  const model::GenerateOptions options{.max_new_tokens = max_new_tokens,
                                       .stop_ids = base.stop_ids,
                                       .vocab_limit = base.tokenizer->vocab_size()};
  ExactMatch result;
  model::KvCache cache = engine.NewCache();
  for (const Question& question : questions) {
    if (should_stop && should_stop()) return Cancelled("the evaluation was stopped");
    cache.Truncate(0);  // the same bits whatever was asked before
    TG_ASSIGN_OR_RETURN(const model::Generation decoded,
                        model::Generate(engine, cache, question.prompt, options, {}));
    const bool stopped = decoded.reason == model::StopReason::kStopId;
    TG_ASSIGN_OR_RETURN(const std::string answer,
                        base.tokenizer->Decode(decoded.ids, /*skip_special=*/true));
    ++result.questions;
    if (!stopped) ++result.cut;
    if (stopped && answer == question.answer) ++result.correct;
  }
  return result;
}

}  // namespace tidegate::finetune
