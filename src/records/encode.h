// From a record to tokens and their loss mask, by character offset: a token is trained when the
// bytes it stands for lie in what is to be learned (docs/formats/data.md). A token that also stands
// for bytes before or after it is not trained. ONSHORE ONLY. Thread-safety: const use.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/onshore.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"
#include "records/record.h"
#include "tokens/token_sequence.h"

namespace tidegate::records {

struct EncoderOptions {
  int64_t max_length = 1024;  // tokens; what is longer is cut at the end
  // Of chats: train the assistant's turns with their end-of-turn tokens, or every token. (TRL's
  // default is every token.) Prompt and completion train the completion (given as messages: its
  // assistant's turns), text trains all, whatever this says.
  bool assistant_only_loss = true;
};

struct Encoded {
  tokens::TokenSequence tokens;
  bool truncated = false;
  int64_t length = 0;       // tokens before it was cut
  bool has_target = false;  // false: nothing in it would be trained
};

// A question to be answered, for exact match.
struct Asked {
  std::vector<int32_t> prompt;  // up to and including the start of the answer
  std::string answer;
};

class Encoder {
 public:
  // `chat` may be null: records with messages are refused then. Both must outlive the encoder.
  Encoder(const model::Tokenizer& tokenizer, const model::ChatTemplate* chat,
          model::RenderOptions render)
      : tokenizer_(tokenizer), chat_(chat), render_(std::move(render)) {}

  // Errors name the record's line.
  Result<Onshore<Encoded>> Encode(const Onshore<Record>& record,
                                  const EncoderOptions& options) const;

  // kInvalidArgument for a record that asks nothing (text, or messages that do not end with the
  // assistant).
  Result<Onshore<Asked>> Question(const Onshore<Record>& record) const;

 private:
  struct Piece {
    std::string text;
    std::vector<model::ByteSpanRange> trained;
    bool ends = false;  // an end-of-sequence token follows, if there is one
  };
  Result<Piece> PieceOf(const Record& record, const EncoderOptions& options) const;
  Status Fits(const Record& record) const;

  const model::Tokenizer& tokenizer_;
  const model::ChatTemplate* chat_;
  model::RenderOptions render_;
};

}  // namespace tidegate::records
