#include "onshore/answers/messages.h"

#include <nlohmann/json.hpp>

#include "base/json.h"

namespace tidegate::onshore {
namespace {

using nlohmann::json;

constexpr const char* kKinds[] = {"ready", "text", "end", "error"};

std::string Line(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

template <typename T, typename Read>
Result<T> Decode(std::string_view line, size_t limit, std::string_view what, Read read) {
  TG_ASSIGN_OR_RETURN(const json value, ParseStrictJson(line, {.max_bytes = limit}, what));
  try {
    return read(value);
  } catch (const json::exception& error) {
    return InvalidArgument("{}: {}", what, error.what());
  }
}

std::vector<std::string> StopsOf(const json& list) {
  auto stops = list.get<std::vector<std::string>>();
  if (stops.size() > kMaxStopTexts) throw json::other_error::create(501, "too many stops", &list);
  for (const std::string& stop : stops) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      throw json::other_error::create(501, "a stop is empty or too long", &list);
    }
  }
  return stops;
}

// A number that is no whole one would be rounded to another question's.
uint64_t IdOf(const json& id) {
  if (!id.is_number_unsigned()) throw json::other_error::create(501, "an id is no number", &id);
  return id.get<uint64_t>();
}

// A member that may be left out. Of an absurd one no sum would be right.
int64_t CountOf(const json& from, const char* name) {
  constexpr int64_t kMost = int64_t{1} << 40;
  const auto it = from.find(name);
  if (it == from.end()) return 0;
  const bool huge = it->is_number_unsigned() && it->get<uint64_t>() > kMost;
  if (!it->is_number_integer() || huge || it->get<int64_t>() < -kMost) {
    throw json::other_error::create(501, fmt::format("{} is no whole number", name), &from);
  }
  return it->get<int64_t>();
}

Ask AskOf(const json& from) {
  Ask ask;
  ask.id = IdOf(from.at("id"));
  ask.model = from.at("model").get<std::string>();
  ask.text = from.value("text", "");
  const json messages = from.value("messages", json::array());
  if (messages.size() > kMaxAskMessages) {
    throw json::other_error::create(501, "too many messages", &messages);
  }
  for (const json& turn : messages) {
    ask.messages.push_back(
        {turn.at("role").get<std::string>(), turn.at("content").get<std::string>()});
  }
  ask.max_new_tokens = CountOf(from, "max_new_tokens");
  ask.temperature = from.value("temperature", 1.0);
  ask.top_p = from.value("top_p", 1.0);
  ask.top_k = CountOf(from, "top_k");
  ask.repetition_penalty = from.value("repetition_penalty", 1.0);
  ask.seed = from.contains("seed") ? IdOf(from.at("seed")) : 0;
  ask.stop = StopsOf(from.value("stop", json::array()));
  return ask;
}

}  // namespace

std::string EncodeAsk(const Ask& ask) {
  json messages = json::array();
  for (const Turn& turn : ask.messages) {
    messages.push_back({{"role", turn.role}, {"content", turn.content}});
  }
  return Line({{"ask",
                {{"id", ask.id},
                 {"model", ask.model},
                 {"messages", std::move(messages)},
                 {"text", ask.text},
                 {"max_new_tokens", ask.max_new_tokens},
                 {"temperature", ask.temperature},
                 {"top_p", ask.top_p},
                 {"top_k", ask.top_k},
                 {"repetition_penalty", ask.repetition_penalty},
                 {"seed", ask.seed},
                 {"stop", ask.stop}}}});
}

std::string EncodeCancel(uint64_t id) { return Line({{"cancel", id}}); }

Result<Command> DecodeCommand(std::string_view line) {
  return Decode<Command>(line, kMaxAskBytes, "a question", [](const json& from) {
    Command command;
    command.cancel = from.contains("cancel");
    if (command.cancel) {
      command.ask.id = IdOf(from.at("cancel"));
    } else {
      command.ask = AskOf(from.at("ask"));
    }
    return command;
  });
}

std::string EncodeEvent(const AnswerEvent& event) {
  json out = {{"event", kKinds[static_cast<size_t>(event.kind)]}};
  switch (event.kind) {
    case AnswerEvent::Kind::kReady:
      out["models"] = event.models;
      out["walls"] = event.text;
      break;
    case AnswerEvent::Kind::kText:
      out["id"] = event.id;
      out["text"] = event.text;
      break;
    case AnswerEvent::Kind::kEnd:
      out["id"] = event.id;
      out["reason"] = event.text;
      out["prompt_tokens"] = event.prompt_tokens;
      out["cached_tokens"] = event.cached_tokens;
      out["new_tokens"] = event.new_tokens;
      break;
    case AnswerEvent::Kind::kError:
      out["id"] = event.id;
      out["code"] = static_cast<int>(event.code);
      // It may repeat what was asked, and a line that is too long would end the process for all.
      out["message"] = event.text.size() <= kMaxErrorMessage
                           ? event.text
                           : event.text.substr(0, kMaxErrorMessage) + " …";
      break;
  }
  return Line(out);
}

Result<AnswerEvent> DecodeEvent(std::string_view line) {
  return Decode<AnswerEvent>(line, kMaxAnswerLine, "an answer", [](const json& from) {
    AnswerEvent event;
    const auto kind = from.at("event").get<std::string>();
    const auto* found = std::find(std::begin(kKinds), std::end(kKinds), kind);
    if (found == std::end(kKinds)) throw json::other_error::create(501, "unknown event", &from);
    event.kind = static_cast<AnswerEvent::Kind>(found - kKinds);
    event.id = from.contains("id") ? IdOf(from.at("id")) : 0;
    event.models = from.value("models", std::vector<std::string>());
    event.prompt_tokens = CountOf(from, "prompt_tokens");
    event.cached_tokens = CountOf(from, "cached_tokens");
    event.new_tokens = CountOf(from, "new_tokens");
    const int64_t code = CountOf(from, "code");
    event.code =
        code > 0 && code <= static_cast<int>(Code::kInternal) ? static_cast<Code>(code) : Code::kOk;
    for (const char* text : {"text", "reason", "message", "walls"}) {
      if (from.contains(text)) event.text = from.at(text).get<std::string>();
    }
    return event;
  });
}

}  // namespace tidegate::onshore
