#include "onshore/trainer/prompts.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"

namespace tidegate::trainer {
namespace {

using nlohmann::json;

Result<std::vector<model::ChatMessage>> MessagesOf(const json& list, const char* key) {
  std::vector<model::ChatMessage> messages;
  for (const json& message : list) {
    const auto text = [&message](const char* name) {
      return message.is_object() && message.contains(name) && message[name].is_string();
    };
    if (!text("role") || !text("content")) {
      return InvalidArgument("'{}' item {} needs the texts 'role' and 'content'", key,
                             messages.size() + 1);
    }
    messages.push_back({message["role"].get<std::string>(), message["content"].get<std::string>()});
  }
  if (messages.empty()) return InvalidArgument("'{}' is empty: nothing is asked", key);
  if (messages.back().role == "assistant") {
    return InvalidArgument("'{}' ends with the assistant: what is to be answered comes last", key);
  }
  return messages;
}

Status ParseLine(std::string_view line, Prompt* prompt) {
  TG_ASSIGN_OR_RETURN(const json object,
                      ParseStrictJson(line, {.max_bytes = kMaxRecordLineBytes}, "the object"));
  if (!object.is_object()) return InvalidArgument("not a JSON object");
  const bool has_messages = object.contains("messages"), has_prompt = object.contains("prompt");
  if (has_messages == has_prompt) {
    return InvalidArgument("an object with either 'prompt' or 'messages' is expected");
  }
  const char* key = has_messages ? "messages" : "prompt";
  const json& value = object[key];
  if (value.is_array()) {
    TG_ASSIGN_OR_RETURN(prompt->messages, MessagesOf(value, key));
    return OkStatus();
  }
  if (has_messages || !value.is_string()) {
    return InvalidArgument("'{}' must be {}", key,
                           has_messages ? "a list of messages" : "a text or a list of messages");
  }
  prompt->text = value.get<std::string>();
  if (prompt->text.empty()) return InvalidArgument("'prompt' is empty: give it a text");
  return OkStatus();
}

}  // namespace

Result<std::vector<Prompt>> ReadPrompts(const std::filesystem::path& path) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxPromptsFileBytes));
  const bool objects = path.extension() == ".jsonl";
  std::vector<Prompt> prompts;
  int64_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line(text.data() + at, end - at);
    at = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
    Prompt prompt;
    prompt.where = fmt::format("{} line {}", path.native(), number);
    prompt.line = number;
    if (line.size() > kMaxRecordLineBytes) {
      return ResourceExhausted("{} has {} bytes, the limit is {}: cut it", prompt.where,
                               line.size(), kMaxRecordLineBytes);
    }
    if (prompts.size() == kMaxPrompts) {
      return ResourceExhausted("{} has more than {} prompts: cut it into several files",
                               path.native(), kMaxPrompts);
    }
    if (!objects) {
      prompt.text = line;
    } else if (Status status = ParseLine(line, &prompt); !status.ok()) {
      return Unexpected(status.WithContext(prompt.where));
    }
    prompts.push_back(std::move(prompt));
  }
  if (prompts.empty()) return InvalidArgument("{} has no prompt: give a line each", path.native());
  return prompts;
}

Result<std::vector<int32_t>> EncodePrompt(const finetune::LoadedBase& base, const Prompt& prompt,
                                          const PromptStyle& style) {
  const auto encode = [&]() -> Result<model::Encoding> {
    std::vector<model::ChatMessage> messages = prompt.messages;
    if (messages.empty() && (style.raw || !base.chat)) {
      return base.tokenizer->Encode(prompt.text, {.add_special_tokens = true});
    }
    if (!base.chat) {
      return InvalidArgument("{} has no chat template, so messages cannot be rendered: give texts",
                             base.dir.native());
    }
    if (messages.empty()) {
      if (!style.system.empty()) messages.push_back({"system", style.system});
      messages.push_back({"user", prompt.text});
    }
    model::RenderOptions render = base.render;
    render.add_generation_prompt = true;
    TG_ASSIGN_OR_RETURN(const model::Rendered rendered, base.chat->Render(messages, render));
    return base.tokenizer->Encode(rendered.text);
  };
  Result<model::Encoding> encoding = encode();
  if (!encoding) return Unexpected(encoding.error().WithContext(prompt.where));
  if (encoding->ids.empty()) {
    return InvalidArgument("{} has no token: give it a text", prompt.where);
  }
  if (static_cast<int64_t>(encoding->ids.size()) > base.config.max_positions) {
    return InvalidArgument("{} has {} tokens, the model has {} positions: shorten it", prompt.where,
                           encoding->ids.size(), base.config.max_positions);
  }
  return std::move(encoding->ids);
}

}  // namespace tidegate::trainer
