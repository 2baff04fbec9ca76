// Runs a parsed chat template on a conversation. Internal to src/model.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/chat_template.h"
#include "model/chat_template_ast.h"
#include "model/chat_template_value.h"

namespace tidegate::model::chat {

// What a for loop wrote while its item was message `message`.
struct Turn {
  int message;
  size_t begin;
  size_t end;
};

struct Output {
  Text text;
  std::vector<Turn> turns;                 // in the order of their ends
  std::vector<ByteSpanRange> generations;  // what the generation blocks wrote, ascending
};

// `what` names the template in errors, which name the line too. Bounded in steps and bytes.
Result<Output> RunProgram(const Program& program, std::string_view what,
                          std::span<const ChatMessage> messages, const RenderOptions& options);

// The spans of Rendered (chat_template.h), by the rule of docs/formats/chat-template.md.
Result<std::vector<ByteSpanRange>> FindAssistantSpans(const Program& program, const Output& output,
                                                      std::string_view what,
                                                      std::span<const ChatMessage> messages,
                                                      const RenderOptions& options);

}  // namespace tidegate::model::chat
