#include "records/jsonl.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/json.h"

namespace tidegate::records {
namespace {

using nlohmann::json;

struct Where {
  std::string_view file;
  int64_t line;
};

Error Bad(const Where& at, std::string_view why) {
  return InvalidArgument("{} line {}: {}", at.file, at.line, why);
}

Result<std::string> TextOf(const Where& at, const json& object, const char* key, bool needed) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) {
    if (needed) return Bad(at, fmt::format("\"{}\" is missing", key));
    return std::string();
  }
  if (!it->is_string()) return Bad(at, fmt::format("\"{}\" is not a text", key));
  return it->get<std::string>();
}

Result<std::vector<model::ChatMessage>> MessagesOf(const Where& at, const json& list,
                                                   const char* key) {
  static constexpr std::array<std::string_view, 4> kRoles = {"system", "user", "assistant", "tool"};
  if (!list.is_array() || list.empty() || list.size() > kMaxMessages) {
    return Bad(at, fmt::format("\"{}\" is not a list of 1 … {} messages", key, kMaxMessages));
  }
  std::vector<model::ChatMessage> messages;
  for (const json& item : list) {
    if (!item.is_object())
      return Bad(at, fmt::format("\"{}\" holds something else than messages", key));
    TG_ASSIGN_OR_RETURN(std::string role, TextOf(at, item, "role", true));
    if (std::find(kRoles.begin(), kRoles.end(), role) == kRoles.end()) {
      return Bad(at, "a role is none of system, user, assistant, tool");
    }
    TG_ASSIGN_OR_RETURN(std::string content, TextOf(at, item, "content", true));
    messages.push_back({std::move(role), std::move(content)});
  }
  return messages;
}

Result<Record> PromptCompletion(const Where& at, const json& object) {
  Record record;
  if (object["prompt"].is_array()) {
    record.kind = RecordKind::kMessages;
    TG_ASSIGN_OR_RETURN(record.messages, MessagesOf(at, object["prompt"], "prompt"));
    record.prompt_messages = record.messages.size();
    TG_ASSIGN_OR_RETURN(auto answer, MessagesOf(at, object["completion"], "completion"));
    std::move(answer.begin(), answer.end(), std::back_inserter(record.messages));
    return record;
  }
  record.kind = RecordKind::kPromptCompletion;
  TG_ASSIGN_OR_RETURN(record.prompt, TextOf(at, object, "prompt", true));
  TG_ASSIGN_OR_RETURN(record.completion, TextOf(at, object, "completion", true));
  return record;
}

Result<Record> Alpaca(const Where& at, const json& object) {
  Record record;
  record.kind = RecordKind::kMessages;
  TG_ASSIGN_OR_RETURN(std::string system, TextOf(at, object, "system", false));
  TG_ASSIGN_OR_RETURN(std::string user, TextOf(at, object, "instruction", true));
  TG_ASSIGN_OR_RETURN(const std::string input, TextOf(at, object, "input", false));
  TG_ASSIGN_OR_RETURN(std::string output, TextOf(at, object, "output", true));
  if (!input.empty()) user += "\n" + input;
  if (!system.empty()) record.messages.push_back({"system", std::move(system)});
  record.messages.push_back({"user", std::move(user)});
  record.messages.push_back({"assistant", std::move(output)});
  return record;
}

Result<Record> RecordOf(const Where& at, const json& object) {
  if (!object.is_object()) return Bad(at, "is not a JSON object");
  if (object.contains("messages")) {
    Record record;
    record.kind = RecordKind::kMessages;
    TG_ASSIGN_OR_RETURN(record.messages, MessagesOf(at, object["messages"], "messages"));
    return record;
  }
  if (object.contains("prompt") && object.contains("completion")) {
    return PromptCompletion(at, object);
  }
  if (object.contains("instruction") && object.contains("output")) return Alpaca(at, object);
  if (object.contains("text")) {
    Record record;
    TG_ASSIGN_OR_RETURN(record.text, TextOf(at, object, "text", true));
    if (record.text.empty()) return Bad(at, "\"text\" is empty");
    return record;
  }
  return Bad(
      at,
      "has none of \"messages\", \"prompt\" and \"completion\", \"text\", \"instruction\" and "
      "\"output\"");
}

}  // namespace

Result<Onshore<Record>> ParseRecord(std::string_view line, int64_t number, std::string_view name) {
  const Where at{name, number};
  const auto parsed = ParseStrictJson(line, {kMaxRecordLineBytes, 64}, "the record");
  // The parser's own message may quote the text: only the code is passed on.
  if (!parsed) return Bad(at, "is not strict JSON (UTF-8, no key twice, nothing after the object)");
  TG_ASSIGN_OR_RETURN(Record record, RecordOf(at, *parsed));
  record.line = number;
  return Onshore<Record>(std::move(record));
}

Result<JsonlReader> JsonlReader::Open(const std::filesystem::path& path) {
  Result<Fd> fd = OpenToRead(path);
  if (!fd && fd.error().code() == Code::kInvalidArgument) {
    return InvalidArgument("{} is not a regular file; give the path of a JSONL file",
                           path.native());
  }
  if (!fd) return Unexpected(fd.error());
  return JsonlReader(std::move(*fd), path.native());
}

Result<std::optional<std::string>> JsonlReader::NextLine() {
  const auto too_long = [this] {
    return ResourceExhausted("{} line {} is over the limit of {} bytes", name_, line_ + 1,
                             kMaxRecordLineBytes);
  };
  for (;;) {
    const size_t end = buffer_.find('\n', at_);
    if (end != std::string::npos || (ended_ && at_ < buffer_.size())) {
      const size_t stop = end == std::string::npos ? buffer_.size() : end;
      if (stop - at_ > kMaxRecordLineBytes) return too_long();
      std::string line = buffer_.substr(at_, stop - at_);
      at_ = end == std::string::npos ? stop : stop + 1;
      ++line_;
      if (!line.empty() && line.back() == '\r') line.pop_back();
      return line;
    }
    if (ended_) return std::nullopt;
    buffer_.erase(0, at_);
    at_ = 0;
    if (buffer_.size() > kMaxRecordLineBytes) return too_long();
    char chunk[1 << 16];
    const ssize_t n = ::pread(fd_.get(), chunk, sizeof(chunk), offset_);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Unexpected(ErrnoStatus("read", name_, errno));
    ended_ = n == 0;
    offset_ += n;
    buffer_.append(chunk, static_cast<size_t>(n));
  }
}

Result<std::optional<Onshore<Record>>> JsonlReader::Next() {
  for (;;) {
    TG_ASSIGN_OR_RETURN(const std::optional<std::string> line, NextLine());
    if (!line) return std::nullopt;
    if (line->find_first_not_of(" \t") == std::string::npos) continue;
    if (++records_ > kMaxRecords) {
      return ResourceExhausted("{} has more than {} records", name_, kMaxRecords);
    }
    TG_ASSIGN_OR_RETURN(Onshore<Record> record, ParseRecord(*line, line_, name_));
    return std::optional<Onshore<Record>>(std::move(record));
  }
}

}  // namespace tidegate::records
