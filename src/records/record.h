// A private record as it lies in a file. ONSHORE ONLY: records travel as Onshore<Record>, which can
// be moved and used but not printed, copied or encoded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/onshore.h"
#include "model/chat_template.h"

namespace tidegate::records {

enum class RecordKind : uint8_t { kMessages, kText, kPromptCompletion };

struct Record {
  RecordKind kind = RecordKind::kText;
  std::vector<model::ChatMessage> messages;  // kMessages
  size_t prompt_messages = 0;                // the first of them, which are only a prompt
  std::string text;                          // kText
  std::string prompt, completion;            // kPromptCompletion
  int64_t line = 0;                          // in the file, from 1
};

}  // namespace tidegate::records
