// The prompts of `generate`: from a file, and as tokens. Errors name the file and the line, never
// what stands there. ONSHORE ONLY, by where it is linked. Thread-safety: const use.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"
#include "finetune/loaded_base.h"
#include "model/chat_template.h"

namespace tidegate::trainer {

inline constexpr uint64_t kMaxPromptsFileBytes = 256u << 20;
inline constexpr size_t kMaxPrompts = 100'000;

// What is to be answered or, as `text`, continued.
struct Prompt {
  std::string where;  // "FILE line 7", for errors
  int64_t line = 0;
  std::string text;                               // or
  std::vector<model::ChatMessage> messages = {};  // the last of them not the assistant's
};

// A file whose name ends in .jsonl: an object a line with `prompt` (a text, or a list of messages)
// or `messages`; other keys are ignored. Any other file: a text a line. Blank lines are skipped.
// kInvalidArgument for a line that is wrong and for a file without a prompt, kResourceExhausted for
// too long a line, file or list.
Result<std::vector<Prompt>> ReadPrompts(const std::filesystem::path& path);

struct PromptStyle {
  std::string system;  // a message before a text; empty: none
  bool raw = false;    // texts are continued, not answered as chats
};

// As records become tokens: a template writes its beginning of sequence itself, other texts get the
// tokenizer's. kInvalidArgument for a prompt of more tokens than the model has positions.
Result<std::vector<int32_t>> EncodePrompt(const finetune::LoadedBase& base, const Prompt& prompt,
                                          const PromptStyle& style);

}  // namespace tidegate::trainer
