// Chat templates: the Jinja text that a model ships, rendered to the text the model was trained on,
// and where in that text the assistant speaks.
//
// The language is a subset of Jinja 2 with trim_blocks and lstrip_blocks, in our own interpreter:
// docs/formats/chat-template.md lists what is built, what is refused and how spans are found.
// A template is foreign input: its size, nodes and depth are bounded, a render is bounded in steps
// and bytes (base/limits.h), and nothing of the machine (clock, files, environment) can be read.
// Errors name the template and the line. Source: jinja2 3.1, transformers chat_template_utils.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tidegate::model {

struct ChatMessage {
  std::string role;     // "system", "user", "assistant", or what the template knows
  std::string content;  // valid UTF-8
};

// Bytes [begin, end) of a text.
struct ByteSpanRange {
  size_t begin = 0;
  size_t end = 0;
  bool operator==(const ByteSpanRange&) const = default;
};

struct Rendered {
  // The markers of the template, BOS too where the template writes it, are in the text: encode it
  // with special tokens parsed and none added.
  std::string text;
  // Ascending, disjoint, one for every assistant message (or one for every {% generation %} block
  // that wrote something, where the template has them): what stands between the turn's header and
  // the end-of-turn token, and that token. Neither the header nor the newline after the token.
  std::vector<ByteSpanRange> assistant_spans;
};

struct RenderOptions {
  bool add_generation_prompt = false;
  std::string bos_token;
  std::string eos_token;
  // What strftime_now() sees, YYYY-MM-DD at midnight: pinned, since the day of training must not
  // change the data. The default is the day that Llama-3.2's template falls back to.
  std::string date = "2024-07-26";
};

// Immutable; copies share the parsed template. Const use is thread-safe.
class ChatTemplate {
 public:
  // `what` names the template in errors, such as its file.
  // kInvalidArgument: a syntax error or a limit. kUnsupported: Jinja that is not built.
  static Result<ChatTemplate> Parse(std::string_view text, std::string_view what);

  // kInvalidArgument: no UTF-8, too many messages, or the template raised an exception.
  // kUnsupported: the render came to Jinja that is not built. kResourceExhausted: steps or bytes.
  // kFailedPrecondition: the spans cannot be told.
  Result<Rendered> Render(std::span<const ChatMessage> messages,
                          const RenderOptions& options) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

// The template of a model's folder: DIR/chat_template.jinja, or else `chat_template` of
// DIR/tokenizer_config.json (a text, or the list form, of which the one named "default"). None of
// them there: no value. `options.bos_token` and `.eos_token` are set from tokenizer_config.json
// (a text or {"content": ...}), and left alone where it does not name them.
Result<std::optional<ChatTemplate>> LoadChatTemplate(const std::filesystem::path& dir,
                                                     RenderOptions& options);

}  // namespace tidegate::model
