// The OpenAI API's bodies for chat completions, completions and models, as clients send and expect
// them: foreign JSON in, JSON out. Pure functions; thread-safe.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "onshore/answers/messages.h"

namespace tidegate::serve {

inline constexpr size_t kMaxBodyBytes = onshore::kMaxAskBytes / 2;

enum class Api : uint8_t { kChat = 0, kCompletion = 1 };

struct Question {
  onshore::Ask ask;
  bool stream = false;
  bool include_usage = false;  // a last chunk with the counts
};

// kInvalidArgument naming the field that is missing, wrong or has no place here (tools, images,
// several answers at once). `seed` is taken where the body has none.
Result<Question> ParseQuestion(Api api, std::string_view body, uint64_t seed);

struct AnswerHead {
  Api api = Api::kChat;
  std::string id;  // "chatcmpl-…"
  int64_t created = 0;
  std::string model;
};

// The reason as the API names it: "stop" or "length".
std::string FinishReason(std::string_view reason);
nlohmann::ordered_json WholeAnswer(const AnswerHead& head, const std::string& text,
                                   const onshore::AnswerEvent& end);
// One event of a stream, "data: …": the first has the role, the last the reason.
std::string FirstChunk(const AnswerHead& head);
std::string TextChunk(const AnswerHead& head, const std::string& text);
std::string LastChunks(const AnswerHead& head, const onshore::AnswerEvent& end, bool include_usage);
std::string ErrorChunk(const Status& status);

nlohmann::ordered_json ModelsList(const std::vector<std::string>& names, int64_t created);
nlohmann::ordered_json ErrorBody(const Status& status);
int HttpStatus(Code code);

}  // namespace tidegate::serve
