#include "records/encode.h"

#include <algorithm>

namespace tidegate::records {
namespace {

// Whether the token's bytes lie in one of the ranges. Tokens that stand for no bytes do not.
bool Trained(const std::vector<model::ByteSpanRange>& ranges, uint32_t begin, uint32_t end) {
  if (begin == end) return false;
  return std::any_of(ranges.begin(), ranges.end(), [&](const model::ByteSpanRange& range) {
    return begin >= range.begin && end <= range.end;
  });
}

// Takes the spans of assistant messages that belong to the prompt away.
Status LeaveOutPrompt(const Record& record, std::vector<model::ByteSpanRange>* spans) {
  const auto count = [&](size_t end) {
    return std::count_if(record.messages.begin(), record.messages.begin() + static_cast<long>(end),
                         [](const model::ChatMessage& m) { return m.role == "assistant"; });
  };
  const auto in_prompt = count(record.prompt_messages);
  if (in_prompt == 0) return OkStatus();
  // With {% generation %} a template decides itself what it marks.
  if (static_cast<size_t>(count(record.messages.size())) != spans->size()) {
    return FailedPrecondition(
        "the chat template marks {} parts as trained, the record has {} assistant messages: which "
        "belong to the completion cannot be told; give the record as \"messages\"",
        spans->size(), count(record.messages.size()));
  }
  spans->erase(spans->begin(), spans->begin() + in_prompt);
  return OkStatus();
}

}  // namespace

Status Encoder::Fits(const Record& record) const {
  if (record.kind != RecordKind::kMessages || chat_ != nullptr) return OkStatus();
  return FailedPrecondition(
      "line {} has messages, and the base has no chat template; give the base one "
      "(chat_template.jinja) or the records as \"text\"",
      record.line);
}

Result<Encoder::Piece> Encoder::PieceOf(const Record& record, const EncoderOptions& options) const {
  Piece piece;
  switch (record.kind) {
    case RecordKind::kMessages: {
      TG_ASSIGN_OR_RETURN(model::Rendered rendered, chat_->Render(record.messages, render_));
      piece.text = std::move(rendered.text);
      piece.trained = std::move(rendered.assistant_spans);
      if (record.prompt_messages > 0) {
        TG_RETURN_IF_ERROR(LeaveOutPrompt(record, &piece.trained));
      } else if (!options.assistant_only_loss) {
        piece.trained = {{0, piece.text.size()}};
      }
      return piece;
    }
    case RecordKind::kText:
      piece.text = record.text;
      piece.trained = {{0, piece.text.size()}};
      piece.ends = true;
      return piece;
    case RecordKind::kPromptCompletion:
      piece.text = record.prompt + record.completion;
      piece.trained = {{record.prompt.size(), piece.text.size()}};
      piece.ends = true;
      return piece;
  }
  return Internal("a record of an unknown kind");
}

Result<Onshore<Encoded>> Encoder::Encode(const Onshore<Record>& onshore,
                                         const EncoderOptions& options) const {
  const Record& record = onshore.reveal();
  TG_RETURN_IF_ERROR(Fits(record));
  const auto piece = PieceOf(record, options);
  if (!piece) return Unexpected(piece.error().WithContext(fmt::format("line {}", record.line)));
  // A template writes its beginning of sequence itself; other texts get the tokenizer's, if any.
  auto encoding = tokenizer_.Encode(piece->text, {.add_special_tokens = piece->ends});
  if (!encoding) {
    return Unexpected(encoding.error().WithContext(fmt::format("line {}", record.line)));
  }
  Encoded encoded;
  encoded.tokens.ids = std::move(encoding->ids);
  for (size_t i = 0; i < encoded.tokens.ids.size(); ++i) {
    encoded.tokens.loss_mask.push_back(
        Trained(piece->trained, encoding->begins[i], encoding->ends[i]) ? 1 : 0);
  }
  const auto eos = piece->ends ? tokenizer_.TokenId(render_.eos_token) : std::nullopt;
  if (eos && (encoded.tokens.ids.empty() || encoded.tokens.ids.back() != *eos)) {
    encoded.tokens.ids.push_back(*eos);
    encoded.tokens.loss_mask.push_back(1);
  } else if (eos && encoding->begins.back() == encoding->ends.back()) {
    encoded.tokens.loss_mask.back() = 1;  // the tokenizer put it there
  }
  const auto limit = static_cast<size_t>(options.max_length);
  encoded.length = static_cast<int64_t>(encoded.tokens.ids.size());
  if (encoded.tokens.ids.size() > limit) {
    encoded.truncated = true;
    encoded.tokens.ids.resize(limit);
    encoded.tokens.loss_mask.resize(limit);
  }
  encoded.has_target = tokens::CountTargets(encoded.tokens) > 0;
  return Onshore<Encoded>(std::move(encoded));
}

Result<Onshore<Asked>> Encoder::Question(const Onshore<Record>& onshore) const {
  const Record& record = onshore.reveal();
  TG_RETURN_IF_ERROR(Fits(record));
  Asked asked;
  std::string prompt;
  if (record.kind == RecordKind::kPromptCompletion) {
    prompt = record.prompt;
    asked.answer = record.completion;
  } else if (record.kind == RecordKind::kMessages && record.messages.size() > 1 &&
             record.messages.back().role == "assistant") {
    model::RenderOptions options = render_;
    options.add_generation_prompt = true;
    const std::span<const model::ChatMessage> before(record.messages.data(),
                                                     record.messages.size() - 1);
    TG_ASSIGN_OR_RETURN(model::Rendered rendered, chat_->Render(before, options));
    prompt = std::move(rendered.text);
    asked.answer = record.messages.back().content;
  } else {
    return InvalidArgument(
        "line {} asks nothing: exact match needs prompt and completion, or "
        "messages that end with the assistant's",
        record.line);
  }
  const bool plain = record.kind == RecordKind::kPromptCompletion;
  TG_ASSIGN_OR_RETURN(model::Encoding encoding,
                      tokenizer_.Encode(prompt, {.add_special_tokens = plain}));
  asked.prompt = std::move(encoding.ids);
  return Onshore<Asked>(std::move(asked));
}

}  // namespace tidegate::records
