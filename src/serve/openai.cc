#include "serve/openai.h"

#include "base/json.h"

namespace tidegate::serve {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using onshore::AnswerEvent;

std::string Text(const ordered_json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string Event(const ordered_json& value) { return "data: " + Text(value) + "\n\n"; }

bool IsText(const json& object, const char* name, std::string_view text) {
  const auto it = object.find(name);
  return it != object.end() && it->is_string() && it->get_ref<const std::string&>() == text;
}

class Body {
 public:
  explicit Body(const json& body) : body_(body) {}
  bool Has(const char* name) const { return body_.contains(name) && !body_.at(name).is_null(); }
  const json& At(const char* name) const { return body_.at(name); }

  template <typename T>
  Status Number(const char* name, T least, T most, T* out) const {
    if (!Has(name)) return OkStatus();
    const json& value = body_.at(name);
    const bool fits = std::is_integral_v<T> ? value.is_number_integer() : value.is_number();
    if (!fits) return InvalidArgument("'{}' must be a number", name);
    if (value.get<double>() < static_cast<double>(least) ||
        value.get<double>() > static_cast<double>(most)) {
      return InvalidArgument("'{}' must be between {} and {}", name, least, most);
    }
    *out = value.get<T>();
    return OkStatus();
  }
  Status Flag(const char* name, bool* out) const {
    if (!Has(name)) return OkStatus();
    if (!body_.at(name).is_boolean()) return InvalidArgument("'{}' must be true or false", name);
    *out = body_.at(name).get<bool>();
    return OkStatus();
  }

 private:
  const json& body_;
};

// What changes an answer and is not built is refused, not passed over.
Status RefuseWhatIsNotBuilt(const Body& body) {
  for (const char* name : {"tools", "functions", "tool_choice", "function_call", "logit_bias",
                           "audio", "modalities", "suffix", "echo", "prediction"}) {
    if (!body.Has(name)) continue;
    const json& value = body.At(name);
    if (value.is_array() && value.empty()) continue;
    if (value.is_object() && value.empty()) continue;
    if (value == json("none") || value == json(false)) continue;
    return InvalidArgument("'{}' is not supported by this server", name);
  }
  if (body.Has("response_format") && (!body.At("response_format").is_object() ||
                                      !IsText(body.At("response_format"), "type", "text"))) {
    return InvalidArgument("'response_format' must be {{\"type\": \"text\"}} or left out");
  }
  for (const char* name : {"n", "best_of"}) {
    if (body.Has(name) && body.At(name) != json(1)) {
      return InvalidArgument("'{}' must be 1: one answer a question", name);
    }
  }
  if (body.Has("logprobs") && body.At("logprobs") != json(false)) {
    return InvalidArgument("'logprobs' is not supported by this server");
  }
  for (const char* name : {"presence_penalty", "frequency_penalty"}) {
    if (body.Has(name) && body.At(name) != json(0)) {
      return InvalidArgument("'{}' must be 0; repetition_penalty is what there is", name);
    }
  }
  return OkStatus();
}

Result<std::string> ContentOf(const json& content, size_t index) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return InvalidArgument("messages[{}].content must be a text", index);
  std::string out;
  for (const json& part : content) {
    if (!part.is_object() || !IsText(part, "type", "text") || !part.contains("text") ||
        !part.at("text").is_string()) {
      return InvalidArgument("messages[{}].content may have parts of type text alone", index);
    }
    out += part.at("text").get<std::string>();
  }
  return out;
}

Status ParseMessages(const Body& body, onshore::Ask* ask) {
  if (!body.Has("messages") || !body.At("messages").is_array() || body.At("messages").empty()) {
    return InvalidArgument("'messages' must be a list with a message");
  }
  const json& list = body.At("messages");
  if (list.size() > onshore::kMaxAskMessages) {
    return InvalidArgument("'messages' has {} entries, the limit is {}", list.size(),
                           onshore::kMaxAskMessages);
  }
  for (size_t i = 0; i < list.size(); ++i) {
    const json& message = list[i];
    if (!message.is_object() || !message.contains("role") || !message.at("role").is_string() ||
        !message.contains("content")) {
      return InvalidArgument("messages[{}] must have a role and a content", i);
    }
    auto role = message.at("role").get<std::string>();
    if (role == "developer") role = "system";  // as newer clients call it
    TG_ASSIGN_OR_RETURN(std::string content, ContentOf(message.at("content"), i));
    ask->messages.push_back({std::move(role), std::move(content)});
  }
  return OkStatus();
}

Status ParsePrompt(const Body& body, onshore::Ask* ask) {
  if (!body.Has("prompt")) return InvalidArgument("'prompt' is missing");
  const json* prompt = &body.At("prompt");
  if (prompt->is_array() && prompt->size() == 1) prompt = &prompt->at(0);
  if (!prompt->is_string()) return InvalidArgument("'prompt' must be one text");
  ask->text = prompt->get<std::string>();
  return OkStatus();
}

Status ParseStops(const Body& body, onshore::Ask* ask) {
  if (!body.Has("stop")) return OkStatus();
  const json& stop = body.At("stop");
  const json list = stop.is_string() ? json::array({stop}) : stop;
  if (!list.is_array() || list.size() > onshore::kMaxStopTexts) {
    return InvalidArgument("'stop' must be a text, or at most {} of them", onshore::kMaxStopTexts);
  }
  for (const json& text : list) {
    if (!text.is_string() || text.get<std::string>().empty() ||
        text.get<std::string>().size() > onshore::kMaxStopBytes) {
      return InvalidArgument("each text of 'stop' must have 1 to {} bytes", onshore::kMaxStopBytes);
    }
    ask->stop.push_back(text.get<std::string>());
  }
  return OkStatus();
}

Status ParseSampling(const Body& body, Question* question) {
  onshore::Ask& ask = question->ask;
  constexpr int64_t kMostTokens = 1 << 20;
  TG_RETURN_IF_ERROR(body.Number<int64_t>("max_tokens", 1, kMostTokens, &ask.max_new_tokens));
  TG_RETURN_IF_ERROR(
      body.Number<int64_t>("max_completion_tokens", 1, kMostTokens, &ask.max_new_tokens));
  TG_RETURN_IF_ERROR(body.Number("temperature", 0.0, 2.0, &ask.temperature));
  TG_RETURN_IF_ERROR(body.Number("top_p", 0.0, 1.0, &ask.top_p));
  TG_RETURN_IF_ERROR(body.Number<int64_t>("top_k", 0, 1 << 20, &ask.top_k));
  TG_RETURN_IF_ERROR(body.Number("repetition_penalty", 0.01, 10.0, &ask.repetition_penalty));
  int64_t seed = 0;
  TG_RETURN_IF_ERROR(body.Number<int64_t>("seed", INT64_MIN, INT64_MAX, &seed));
  if (body.Has("seed")) ask.seed = static_cast<uint64_t>(seed);
  TG_RETURN_IF_ERROR(body.Flag("stream", &question->stream));
  if (body.Has("stream_options") && body.At("stream_options").is_object()) {
    const json& options = body.At("stream_options");
    TG_RETURN_IF_ERROR(Body(options).Flag("include_usage", &question->include_usage));
  }
  return ParseStops(body, &ask);
}

ordered_json Usage(const AnswerEvent& end) {
  return {{"prompt_tokens", end.prompt_tokens},
          {"completion_tokens", end.new_tokens},
          {"total_tokens", end.prompt_tokens + end.new_tokens},
          {"prompt_tokens_details", {{"cached_tokens", end.cached_tokens}}}};
}

ordered_json Frame(const AnswerHead& head, const char* object, ordered_json choices) {
  return {{"id", head.id},
          {"object", object},
          {"created", head.created},
          {"model", head.model},
          {"choices", std::move(choices)}};
}

const char* ChunkObject(Api api) {
  return api == Api::kChat ? "chat.completion.chunk" : "text_completion";
}

// A choice of a chunk: `delta` for chats, `text` for completions.
std::string Chunk(const AnswerHead& head, ordered_json delta, const std::string& text,
                  const ordered_json& reason) {
  ordered_json choice = {{"index", 0}};
  if (head.api == Api::kChat) {
    choice["delta"] = std::move(delta);
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = reason;
  return Event(Frame(head, ChunkObject(head.api), ordered_json::array({choice})));
}

}  // namespace

Result<Question> ParseQuestion(Api api, std::string_view body, uint64_t seed) {
  TG_ASSIGN_OR_RETURN(const json parsed,
                      ParseStrictJson(body, {.max_bytes = kMaxBodyBytes}, "the request"));
  if (!parsed.is_object()) return InvalidArgument("the request must be a JSON object");
  const Body fields(parsed);
  Question question;
  question.ask.seed = seed;
  if (!fields.Has("model") || !fields.At("model").is_string()) {
    return InvalidArgument("'model' is missing: GET /v1/models lists them");
  }
  question.ask.model = fields.At("model").get<std::string>();
  TG_RETURN_IF_ERROR(RefuseWhatIsNotBuilt(fields));
  TG_RETURN_IF_ERROR(api == Api::kChat ? ParseMessages(fields, &question.ask)
                                       : ParsePrompt(fields, &question.ask));
  TG_RETURN_IF_ERROR(ParseSampling(fields, &question));
  return question;
}

std::string FinishReason(std::string_view reason) {
  return reason == "length" || reason == "positions" ? "length" : "stop";
}

ordered_json WholeAnswer(const AnswerHead& head, const std::string& text, const AnswerEvent& end) {
  ordered_json choice = {{"index", 0}};
  if (head.api == Api::kChat) {
    choice["message"] = {{"role", "assistant"}, {"content", text}};
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = FinishReason(end.text);
  ordered_json out = Frame(head, head.api == Api::kChat ? "chat.completion" : "text_completion",
                           ordered_json::array({choice}));
  out["usage"] = Usage(end);
  return out;
}

std::string FirstChunk(const AnswerHead& head) {
  if (head.api == Api::kCompletion) return "";
  return Chunk(head, {{"role", "assistant"}, {"content", ""}}, "", nullptr);
}

std::string TextChunk(const AnswerHead& head, const std::string& text) {
  return Chunk(head, {{"content", text}}, text, nullptr);
}

std::string LastChunks(const AnswerHead& head, const AnswerEvent& end, bool include_usage) {
  std::string out = Chunk(head, ordered_json::object(), "", FinishReason(end.text));
  if (include_usage) {
    ordered_json usage = Frame(head, ChunkObject(head.api), ordered_json::array());
    usage["usage"] = Usage(end);
    out += Event(usage);
  }
  return out + "data: [DONE]\n\n";
}

std::string ErrorChunk(const Status& status) { return Event(ErrorBody(status)); }

ordered_json ModelsList(const std::vector<std::string>& names, int64_t created) {
  ordered_json data = ordered_json::array();
  for (const std::string& name : names) {
    data.push_back(
        {{"id", name}, {"object", "model"}, {"created", created}, {"owned_by", "tidegate"}});
  }
  return {{"object", "list"}, {"data", std::move(data)}};
}

ordered_json ErrorBody(const Status& status) {
  const int http = HttpStatus(status.code());
  const char* type = http == 401   ? "authentication_error"
                     : http == 404 ? "not_found_error"
                     : http == 429 ? "rate_limit_error"
                     : http >= 500 ? "server_error"
                                   : "invalid_request_error";
  return {{"error",
           {{"message", status.message()},
            {"type", type},
            {"param", nullptr},
            {"code", CodeName(status.code())}}}};
}

int HttpStatus(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
    case Code::kUnsupported:
      return 400;
    case Code::kUnauthenticated:
      return 401;
    case Code::kPermissionDenied:
      return 403;
    case Code::kNotFound:
      return 404;
    case Code::kResourceExhausted:
      return 429;
    case Code::kUnavailable:
    case Code::kCancelled:
      return 503;
    case Code::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

}  // namespace tidegate::serve
