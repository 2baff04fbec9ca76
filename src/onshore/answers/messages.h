// What a program asks the walled process that holds a model, and what comes back: a line of JSON
// each over its standard input and output (docs/formats/answers.md). The asker is a local program
// of the same person; sizes are bounded all the same. Thread-safety: values and pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tidegate::onshore {

inline constexpr size_t kMaxAskBytes = 4u << 20;    // of one line
inline constexpr size_t kMaxAnswerLine = 1u << 20;  // of one line
inline constexpr size_t kMaxAskMessages = 4096;
inline constexpr size_t kMaxErrorMessage = 2000;  // the rest is cut off
inline constexpr size_t kMaxStopTexts = 16;
inline constexpr size_t kMaxStopBytes = 256;

struct Turn {
  std::string role, content;
};

struct Ask {
  uint64_t id = 0;
  std::string model;           // of the ready event
  std::vector<Turn> messages;  // a chat; none: `text` is continued as it is
  std::string text;
  int64_t max_new_tokens = 0;  // 0: the process' own default
  double temperature = 1.0;    // 0: the likeliest token
  double top_p = 1.0;
  int64_t top_k = 0;
  double repetition_penalty = 1.0;
  uint64_t seed = 0;
  std::vector<std::string> stop;  // any of them ends the answer and is not part of it
};

struct Command {
  bool cancel = false;  // of the answer with ask.id
  Ask ask;
};

struct AnswerEvent {
  enum class Kind : uint8_t {
    kReady = 0,  // first of all: `models`, `text` names the walls
    kText = 1,   // more of the answer
    kEnd = 2,    // `text` is the reason: stop, length, positions, cancelled
    kError = 3,  // `code` and `text`
  };
  Kind kind = Kind::kText;
  uint64_t id = 0;
  std::string text;
  std::vector<std::string> models;
  Code code = Code::kOk;
  int64_t prompt_tokens = 0, cached_tokens = 0, new_tokens = 0;
};

std::string EncodeAsk(const Ask& ask);  // with its newline
std::string EncodeCancel(uint64_t id);
// kInvalidArgument for what is malformed or out of bounds.
Result<Command> DecodeCommand(std::string_view line);
std::string EncodeEvent(const AnswerEvent& event);
Result<AnswerEvent> DecodeEvent(std::string_view line);

}  // namespace tidegate::onshore
