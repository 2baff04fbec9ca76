// tokenizer.json of Hugging Face tokenizers, for byte-level BPE (GPT-2, SmolLM2, Llama-3, Qwen2):
// the ids are those that the `tokenizers` library gives. Any component that is not built is
// refused by its type's name when the file is loaded.
//
// Thread-safety: const use from any number of threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tidegate::model {

struct EncodeOptions {
  // What the post-processor adds (Llama-3's BOS). Text of a chat template has its own already.
  bool add_special_tokens = false;
};

// Token i covers the bytes begins[i]..ends[i] of the text that was given (before normalisation); a
// token may hold a part of a character. Added specials cover nothing.
struct Encoding {
  std::vector<int32_t> ids;
  std::vector<uint32_t> begins;
  std::vector<uint32_t> ends;
};

class Tokenizer {
 public:
  static Result<Tokenizer> Load(const std::filesystem::path& path);
  // `what` names the file in errors.
  static Result<Tokenizer> FromJson(std::string_view json_text, std::string_view what);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // kInvalidArgument for text that is not UTF-8 (naming the byte), kResourceExhausted for more than
  // kMaxEncodeBytes or a pattern that backtracks beyond its limit.
  Result<Encoding> Encode(std::string_view text, const EncodeOptions& options = {}) const;

  // Bytes that are not UTF-8 become U+FFFD. kInvalidArgument for an id outside the vocabulary.
  Result<std::string> Decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // The bytes of one token, which may be a part of a character; nothing for an unknown id.
  std::optional<std::string_view> TokenBytes(int32_t id) const;
  // The id of a token as the file spells it ("Ġthe", "<|im_end|>").
  std::optional<int32_t> TokenId(std::string_view token) const;
  bool IsSpecial(int32_t id) const;
  // The greatest id plus 1. The model's vocabulary may be larger (padded), never smaller.
  int64_t vocab_size() const;

  struct Impl;  // model/tokenizer_impl.h

 private:
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

// Decoding as tokens arrive: text is handed out when its characters are whole. One thread at a
// time; the tokenizer must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}
  // The whole characters that this token completes; may be empty.
  Result<std::string> Push(int32_t id);
  // What is left, a cut character as U+FFFD.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace tidegate::model
