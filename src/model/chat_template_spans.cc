// Where the assistant speaks in a rendered text: the rule of docs/formats/chat-template.md.
#include <algorithm>
#include <optional>

#include "model/chat_template_eval.h"

namespace tidegate::model::chat {
namespace {

class SpanFinder {
 public:
  // `prompt` is what add_generation_prompt appends.
  SpanFinder(const Output& output, std::string prompt, std::string_view what,
             std::span<const ChatMessage> messages, const RenderOptions& options)
      : output_(output),
        prompt_(std::move(prompt)),
        what_(what),
        messages_(messages),
        options_(options) {}

  // The blocks as the template has them, held against the contents.
  Result<std::vector<ByteSpanRange>> OfGenerations() const {
    std::vector<ByteSpanRange> spans;
    for (const ByteSpanRange& block : output_.generations) {
      for (const Mark& mark : output_.text.marks) {
        const bool touches = mark.begin < block.end && block.begin < mark.end;
        if (touches && !Assistant(mark.message)) {
          return FailedPrecondition(
              "{}: a generation block has message {} of role '{}' in it: the template's "
              "generation tags are wrong",
              what_, mark.message + 1, Role(mark.message));
        }
      }
      if (block.begin < block.end) spans.push_back(block);
    }
    return spans;
  }

  Result<std::vector<ByteSpanRange>> OfContents() const {
    std::vector<ByteSpanRange> spans;
    std::string_view first_token;
    for (size_t i = 0; i < messages_.size(); ++i) {
      const int message = static_cast<int>(i);
      if (!Assistant(message)) continue;
      TG_ASSIGN_OR_RETURN(ByteSpanRange span, Content(message));
      if (!spans.empty() && span.begin < spans.back().end) {
        return FailedPrecondition(
            "{}: the template does not keep the order of the messages at message {}", what_, i + 1);
      }
      TG_ASSIGN_OR_RETURN(const ByteSpanRange token, EndToken(message, span));
      const std::string_view text = Part(token.begin, token.end);
      if (first_token.empty()) first_token = text;
      if (text != first_token) {
        return FailedPrecondition(
            "{}: assistant messages end with different tokens, '{}' and '{}': the end-of-turn "
            "token cannot be told; mark what is trained with {{% generation %}}",
            what_, first_token, text);
      }
      span.end = token.end;
      spans.push_back(span);
    }
    return spans;
  }

 private:
  const std::string& Role(int message) const {
    return messages_[static_cast<size_t>(message)].role;
  }
  bool Assistant(int message) const { return Role(message) == "assistant"; }
  std::string_view Part(size_t begin, size_t end) const {
    return std::string_view(output_.text.bytes).substr(begin, end - begin);
  }

  // From the first to the last byte of the message's content: a template may write it in parts.
  Result<ByteSpanRange> Content(int message) const {
    std::optional<ByteSpanRange> span;
    for (const Mark& mark : output_.text.marks) {
      if (mark.message != message) continue;
      if (!span) span = ByteSpanRange{mark.begin, mark.end};
      span->end = std::max(span->end, mark.end);
    }
    if (!span) {
      return FailedPrecondition(
          "{}: the template leaves out the content of message {}, which is the assistant's: there "
          "is nothing to train on; mark what is trained with {{% generation %}}, or drop the "
          "message",
          what_, message + 1);
    }
    span->begin = Begin(message, *span);
    for (const Mark& mark : output_.text.marks) {
      const bool inside =
          mark.message != message && mark.begin < span->end && span->begin < mark.end;
      if (inside) {
        return FailedPrecondition(
            "{}: the template mixes the contents of messages {} and {}: the assistant's part "
            "cannot be told",
            what_, message + 1, mark.message + 1);
      }
    }
    return *span;
  }

  // What a for loop wrote for the message whose content is `content`; the innermost loop counts.
  const Turn* FindTurn(int message, const ByteSpanRange& content) const {
    for (const Turn& turn : output_.turns) {
      const bool holds =
          turn.message == message && turn.begin <= content.begin && content.end <= turn.end;
      if (holds) return &turn;
    }
    return nullptr;
  }

  // Generation continues behind the generation prompt: where the turn begins with it, so does the
  // span, with whatever the template writes between (such as <think>). Else at the content.
  size_t Begin(int message, const ByteSpanRange& content) const {
    const Turn* turn = FindTurn(message, content);
    if (turn == nullptr || prompt_.empty()) return content.begin;
    const size_t at = Part(turn->begin, content.begin).rfind(prompt_);
    return at == std::string_view::npos ? content.begin : turn->begin + at + prompt_.size();
  }

  // How far the end-of-turn token may be: what the loop wrote for this message, and never into
  // another message's content.
  size_t TurnEnd(int message, const ByteSpanRange& content) const {
    const Turn* turn = FindTurn(message, content);
    size_t end = turn != nullptr ? turn->end : output_.text.bytes.size();
    for (const Mark& mark : output_.text.marks) {
      if (mark.message != message && mark.begin >= content.end) end = std::min(end, mark.begin);
    }
    return end;
  }

  Result<ByteSpanRange> EndToken(int message, const ByteSpanRange& content) const {
    const size_t turn_end = TurnEnd(message, content);
    size_t begin = content.end;
    while (begin < turn_end &&
           (output_.text.bytes[begin] == ' ' || output_.text.bytes[begin] == '\n')) {
      ++begin;
    }
    const size_t size = TokenSize(Part(begin, turn_end));
    if (size == 0) {
      return FailedPrecondition(
          "{}: the template writes no end-of-turn token after message {}, which is the "
          "assistant's: a model trained so never stops. Expected eos_token{} or <|...|> right "
          "after the content; mark what is trained with {{% generation %}}",
          what_, message + 1,
          options_.eos_token.empty() ? "" : fmt::format(" ('{}')", options_.eos_token));
    }
    return ByteSpanRange{begin, begin + size};
  }

  // The bytes of the special token that `rest` begins with; 0 for none.
  size_t TokenSize(std::string_view rest) const {
    size_t size = 0;
    if (!options_.eos_token.empty() && rest.starts_with(options_.eos_token)) {
      size = options_.eos_token.size();
    }
    static constexpr std::string_view kNamed[] = {"</s>", "<end_of_turn>"};
    for (const std::string_view token : kNamed) {
      if (rest.starts_with(token)) size = std::max(size, token.size());
    }
    if (rest.starts_with("<|")) {
      const size_t end = rest.find_first_of("|<> \n", 2);
      if (end != std::string_view::npos && end > 2 && rest.substr(end).starts_with("|>")) {
        const std::string_view token = rest.substr(0, end + 2);
        if (!OpensTurn(token)) size = std::max(size, token.size());
      }
    }
    return size;
  }

  // A header right after the content is not its end. (eos_token is, whatever its name.)
  bool OpensTurn(std::string_view token) const {
    static constexpr std::string_view kOpeners[] = {
        "<|im_start|>",  "<|start_header_id|>", "<|start|>",         "<|user|>",
        "<|assistant|>", "<|system|>",          "<|begin_of_text|>", "<|startoftext|>"};
    return token == options_.bos_token ||
           std::find(std::begin(kOpeners), std::end(kOpeners), token) != std::end(kOpeners);
  }

  const Output& output_;
  std::string prompt_;
  std::string_view what_;
  std::span<const ChatMessage> messages_;
  const RenderOptions& options_;
};

// What add_generation_prompt appends to this conversation; empty where it appends nothing, changes
// more than the end, or the template refuses it.
std::string GenerationPrompt(const Program& program, const Output& output, std::string_view what,
                             std::span<const ChatMessage> messages, RenderOptions options) {
  options.add_generation_prompt = !options.add_generation_prompt;
  const Result<Output> other = RunProgram(program, what, messages, options);
  if (!other) return "";
  const std::string& with = (options.add_generation_prompt ? *other : output).text.bytes;
  const std::string& without = (options.add_generation_prompt ? output : *other).text.bytes;
  return with.starts_with(without) ? with.substr(without.size()) : "";
}

}  // namespace

Result<std::vector<ByteSpanRange>> FindAssistantSpans(const Program& program, const Output& output,
                                                      std::string_view what,
                                                      std::span<const ChatMessage> messages,
                                                      const RenderOptions& options) {
  if (program.has_generation) {
    return SpanFinder(output, "", what, messages, options).OfGenerations();
  }
  const bool speaks = std::any_of(messages.begin(), messages.end(), [](const ChatMessage& message) {
    return message.role == "assistant";
  });
  if (!speaks) return std::vector<ByteSpanRange>();
  std::string prompt = GenerationPrompt(program, output, what, messages, options);
  return SpanFinder(output, std::move(prompt), what, messages, options).OfContents();
}

}  // namespace tidegate::model::chat
