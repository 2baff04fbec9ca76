#include "model/chat_template.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/utf8.h"
#include "model/chat_template_ast.h"
#include "model/chat_template_eval.h"

namespace tidegate::model {

namespace {

// added_tokens_decoder repeats every added token, thousands in some models.
constexpr size_t kMaxTokenizerConfigBytes = 16u << 20;

}  // namespace

struct ChatTemplate::Impl {
  std::string what;
  chat::Program program;
};

Result<ChatTemplate> ChatTemplate::Parse(std::string_view text, std::string_view what) {
  if (text.size() > kMaxTemplateBytes) {
    return InvalidArgument("{}: a chat template of {} bytes, at most {} are allowed", what,
                           text.size(), kMaxTemplateBytes);
  }
  if (const size_t valid = ValidUtf8Prefix(text); valid != text.size()) {
    return InvalidArgument("{}: not UTF-8 at byte {}", what, valid);
  }
  auto impl = std::make_shared<Impl>();
  impl->what = std::string(what);
  TG_ASSIGN_OR_RETURN(impl->program, chat::ParseProgram(text, what));
  return ChatTemplate(std::move(impl));
}

Result<Rendered> ChatTemplate::Render(std::span<const ChatMessage> messages,
                                      const RenderOptions& options) const {
  if (messages.size() > kMaxMessages) {
    return InvalidArgument("a conversation of {} messages, at most {} are allowed", messages.size(),
                           kMaxMessages);
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    for (const std::string* text : {&messages[i].role, &messages[i].content}) {
      if (const size_t valid = ValidUtf8Prefix(*text); valid != text->size()) {
        return InvalidArgument("message {}: its {} is not UTF-8 at byte {}", i + 1,
                               text == &messages[i].role ? "role" : "content", valid);
      }
    }
  }
  TG_ASSIGN_OR_RETURN(chat::Output output,
                      chat::RunProgram(impl_->program, impl_->what, messages, options));
  Rendered rendered;
  TG_ASSIGN_OR_RETURN(
      rendered.assistant_spans,
      chat::FindAssistantSpans(impl_->program, output, impl_->what, messages, options));
  rendered.text = std::move(output.text.bytes);
  return rendered;
}

namespace {

// A special token in tokenizer_config.json: a text, {"content": text}, null or left out.
Status ReadToken(const nlohmann::json& config, const char* key, std::string_view what,
                 std::string& out) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return OkStatus();
  const nlohmann::json* value = &*found;
  if (value->is_object() && value->contains("content")) value = &value->at("content");
  if (!value->is_string()) {
    return InvalidArgument("{}: {} is neither a text nor {{\"content\": text}}", what, key);
  }
  out = value->get<std::string>();
  return OkStatus();
}

// The template's text in tokenizer_config.json.
Result<std::optional<std::string>> ReadTemplate(const nlohmann::json& config,
                                                std::string_view what) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) {
    return InvalidArgument("{}: chat_template is neither a text nor a list", what);
  }
  for (const nlohmann::json& entry : *found) {
    const bool named = entry.is_object() && entry.contains("name") && entry.contains("template") &&
                       entry["name"].is_string() && entry["template"].is_string();
    if (!named) {
      return InvalidArgument(
          "{}: an entry of chat_template without texts \"name\" and "
          "\"template\"",
          what);
    }
    if (entry["name"] == "default") return entry["template"].get<std::string>();
  }
  return InvalidArgument("{}: no entry of chat_template is named \"default\"", what);
}

}  // namespace

Result<std::optional<ChatTemplate>> LoadChatTemplate(const std::filesystem::path& dir,
                                                     RenderOptions& options) {
  const std::filesystem::path config_path = dir / "tokenizer_config.json";
  const std::filesystem::path jinja_path = dir / "chat_template.jinja";
  std::optional<std::string> text;
  std::string what = jinja_path.string();
  Result<std::string> config_text = ReadTextFile(config_path, kMaxTokenizerConfigBytes);
  if (!config_text && config_text.error().code() != Code::kNotFound) {
    return Unexpected(config_text.error());
  }
  Result<std::string> jinja = ReadTextFile(jinja_path, kMaxTemplateBytes);
  if (!jinja && jinja.error().code() != Code::kNotFound) return Unexpected(jinja.error());
  if (jinja) text = std::move(*jinja);
  if (config_text) {
    const JsonLimits limits{.max_bytes = kMaxTokenizerConfigBytes};
    TG_ASSIGN_OR_RETURN(const nlohmann::json config,
                        ParseStrictJson(*config_text, limits, config_path.string()));
    if (!config.is_object()) return InvalidArgument("{}: not an object", config_path.string());
    TG_RETURN_IF_ERROR(ReadToken(config, "bos_token", config_path.string(), options.bos_token));
    TG_RETURN_IF_ERROR(ReadToken(config, "eos_token", config_path.string(), options.eos_token));
    if (!text) {
      what = config_path.string();
      TG_ASSIGN_OR_RETURN(text, ReadTemplate(config, what));
    }
  }
  if (!text) return std::nullopt;
  TG_ASSIGN_OR_RETURN(ChatTemplate parsed, ChatTemplate::Parse(*text, what));
  return parsed;
}

}  // namespace tidegate::model
