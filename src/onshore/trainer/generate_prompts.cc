#include <algorithm>
#include <cstdio>
#include <optional>

#include "onshore/trainer/generate_run.h"

namespace tidegate::trainer {
namespace {

using nlohmann::ordered_json;

// Answers come as their tokens do; they are told in the order of the prompts.
class Answers {
 public:
  Answers(const Generator& generator, const std::vector<Prompt>& prompts,
          const std::vector<std::vector<int32_t>>& ids)
      : generator_(generator), prompts_(prompts), ids_(ids), answers_(prompts.size()) {}

  bool Token(size_t index, int32_t id) {
    Answer& answer = answers_[index];
    if (!answer.decoder) answer.decoder.emplace(*generator_.base.tokenizer);
    if (const auto piece = answer.decoder->Push(id)) answer.text += *piece;
    if (index == next_) ShowText();
    return written_.ok() && !StopAsked();
  }

  // False when a signal ended it or standard output takes no more.
  bool Whole(size_t index, const model::Generation& generation) {
    Answer& answer = answers_[index];
    if (answer.decoder) answer.text += answer.decoder->Flush();
    answer.decoder.reset();
    answer.whole = true;
    answer.new_tokens = generation.ids.size();
    answer.reason = generation.reason;
    while (next_ < answers_.size() && answers_[next_].whole) Tell();
    // A part of the next one may be there already.
    if (next_ < answers_.size()) ShowText();
    return written_.ok() && !StopAsked();
  }

  // Ends the line of an answer that was cut.
  void Cut() {
    if (next_ < answers_.size() && answers_[next_].shown > 0) Write("\n");
  }
  size_t told() const { return next_; }
  const Status& written() const { return written_; }

 private:
  struct Answer {
    std::optional<model::StreamDecoder> decoder;
    std::string text;
    size_t shown = 0;  // bytes of it
    bool headed = false, whole = false;
    size_t new_tokens = 0;
    model::StopReason reason = model::StopReason::kMaxNewTokens;
  };

  void Write(std::string_view text) {
    if (!written_.ok()) return;
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() ||
        std::fflush(stdout) != 0) {
      written_ = Unavailable("cannot write to standard output; check where it is redirected to");
    }
  }

  bool json() const { return generator_.invocation.json; }
  bool many() const { return !generator_.config.prompts.empty(); }

  // What is new of the answer that is next.
  void ShowText() {
    Answer& answer = answers_[next_];
    if (json()) return;
    if (many() && !answer.headed) {
      Write(fmt::format("{}[line {}]\n", next_ > 0 ? "\n" : "", prompts_[next_].line));
    }
    answer.headed = true;
    Write(std::string_view(answer.text).substr(answer.shown));
    answer.shown = answer.text.size();
  }

  void Tell() {
    Answer& answer = answers_[next_];
    if (json()) {
      ordered_json line;
      if (many()) line["line"] = prompts_[next_].line;
      line["text"] = answer.text;
      line["prompt_tokens"] = ids_[next_].size();
      line["new_tokens"] = answer.new_tokens;
      line["finish_reason"] = ReasonName(answer.reason);
      Write(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
    } else {
      ShowText();
      Write("\n");
    }
    answer.text = std::string();  // told, so no longer held
    ++next_;
  }

  const Generator& generator_;
  const std::vector<Prompt>& prompts_;
  const std::vector<std::vector<int32_t>>& ids_;
  std::vector<Answer> answers_;
  size_t next_ = 0;  // the first that is not told
  Status written_;
};

}  // namespace

Status RunPrompts(Generator& generator, const std::vector<Prompt>& prompts) {
  std::vector<std::vector<int32_t>> ids;
  size_t longest = 0;
  for (const Prompt& prompt : prompts) {
    TG_ASSIGN_OR_RETURN(std::vector<int32_t> encoded,
                        EncodePrompt(generator.base, prompt, generator.config.style));
    longest = std::max(longest, encoded.size());
    ids.push_back(std::move(encoded));
  }
  const int64_t batch = std::min(generator.config.batch_size, static_cast<int64_t>(prompts.size()));
  TG_RETURN_IF_ERROR(generator.CheckMemory(batch, longest));
  Answers answers(generator, prompts, ids);
  const model::BatchCallbacks callbacks = {
      .on_token = [&answers](size_t index, int32_t id) { return answers.Token(index, id); },
      .on_answer =
          [&answers](size_t index, const model::Generation& generation) {
            return answers.Whole(index, generation);
          }};
  TG_RETURN_IF_ERROR(
      model::GenerateBatch(generator.engine, ids, generator.options, batch, callbacks));
  TG_RETURN_IF_ERROR(answers.written());
  if (!StopAsked()) return OkStatus();
  answers.Cut();
  if (prompts.size() == 1) return Cancelled("a signal ended the answer");
  return Cancelled("a signal ended it after {} of {} answers", answers.told(), prompts.size());
}

}  // namespace tidegate::trainer
