#include "finetune/exact_match.h"

#include "finetune/decode.h"

namespace tidegate::finetune {

Result<ExactMatch> MeasureExactMatch(model::Engine& engine, const LoadedBase& base,
                                     const std::vector<Question>& questions, int64_t max_new_tokens,
                                     const std::function<bool()>& should_stop) {
  const DecodeOptions options{.max_new_tokens = max_new_tokens,
                              .vocab_size = base.tokenizer->vocab_size()};
  TG_RETURN_IF_ERROR(CheckDecode(options));
  ExactMatch result;
  for (const Question& question : questions) {
    if (should_stop && should_stop()) return Cancelled("the evaluation was stopped");
    TG_ASSIGN_OR_RETURN(const Decoded decoded, Decode(engine, question.prompt, base.stop_ids,
                                                      base.base->config().max_positions, options));
    TG_ASSIGN_OR_RETURN(const std::string answer,
                        base.tokenizer->Decode(decoded.ids, /*skip_special=*/true));
    ++result.questions;
    if (!decoded.stopped) ++result.cut;
    if (decoded.stopped && answer == question.answer) ++result.correct;
  }
  return result;
}

}  // namespace tidegate::finetune
