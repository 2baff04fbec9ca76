#include "finetune/dataset.h"

#include <unordered_map>

#include "base/checksum.h"
#include "base/limits.h"
#include "records/encode.h"
#include "records/jsonl.h"

namespace tidegate::finetune {
namespace {

records::Encoder EncoderOf(const LoadedBase& base) {
  return records::Encoder(*base.tokenizer, base.chat ? &*base.chat : nullptr, base.render);
}

Status Tell(const std::filesystem::path& path, const Status& status) {
  return status.message().starts_with(path.native()) ? status : status.WithContext(path.native());
}

// One record as tokens. Longer than the base can see at all is an error; longer than max_length,
// which is a choice, is cut.
Result<Onshore<records::Encoded>> EncodeRecord(const std::filesystem::path& path,
                                               const records::Encoder& encoder,
                                               const Onshore<records::Record>& record,
                                               int64_t positions, const DataOptions& options) {
  auto encoded = encoder.Encode(record, {options.max_length, options.assistant_only_loss});
  if (!encoded) return Unexpected(Tell(path, encoded.error()));
  const int64_t length = encoded->reveal().length;
  if (length > positions) {
    return InvalidArgument(
        "{} line {}: the record has {} tokens, the base's context (max_position_embeddings) is {}; "
        "shorten or split the record",
        path.native(), record.reveal().line, length, positions);
  }
  return encoded;
}

Status NothingUsable(const std::filesystem::path& path, const DataReport& report,
                     const DataOptions& options) {
  if (report.records == 0) {
    return InvalidArgument("{} has no record; one JSON object a line", path.native());
  }
  return InvalidArgument(
      "{}: none of {} records has a token to train within max_length {}; raise it, or train every "
      "token with --assistant_only_loss false",
      path.native(), report.records, options.max_length);
}

// Of what the record says, not of how it is written.
uint64_t HashOf(const records::Record& record) {
  Checksum sum;
  sum.AddNumber(static_cast<uint64_t>(record.kind));
  sum.AddNumber(record.prompt_messages);
  for (const model::ChatMessage& message : record.messages) {
    sum.AddField(AsBytes(message.role));
    sum.AddField(AsBytes(message.content));
  }
  for (const std::string* text : {&record.text, &record.prompt, &record.completion}) {
    sum.AddField(AsBytes(*text));
  }
  return sum.Value();
}

// Adds a record's tokens to the report; whether it would be trained.
bool Count(const records::Encoded& encoded, DataReport* report) {
  if (!encoded.has_target) {
    ++report->without_target;
    return false;
  }
  if (encoded.truncated) ++report->truncated;
  return true;
}

void AddLine(int64_t line, std::vector<int64_t>* lines) {
  if (lines->size() < kMaxBadLinesKept) lines->push_back(line);
}

// A good record of `line`.
void AddGood(const records::Record& record, const records::Encoded& encoded, DataCheck* check) {
  ++check->report.records;
  ++(record.kind == records::RecordKind::kMessages           ? check->chats
     : record.kind == records::RecordKind::kPromptCompletion ? check->pairs
                                                             : check->texts);
  ++check->lengths[encoded.length];
  if (!Count(encoded, &check->report)) {
    AddLine(record.line, &check->without_target_lines);
    return;
  }
  CountSequences({&encoded.tokens, 1}, &check->report);
  if (!encoded.truncated) return;
  check->cut_tokens += encoded.length - static_cast<int64_t>(encoded.tokens.ids.size());
  AddLine(record.line, &check->truncated_lines);
}

void AddBad(const Status& status, int64_t line, DataCheck* check) {
  if (++check->bad_lines <= static_cast<int64_t>(kMaxBadLinesKept)) {
    check->bad.push_back({line, status.message()});
  }
}

}  // namespace

Result<Dataset> LoadDataset(const std::filesystem::path& path, const LoadedBase& base,
                            const DataOptions& options) {
  TG_ASSIGN_OR_RETURN(records::JsonlReader reader, records::JsonlReader::Open(path));
  const records::Encoder encoder = EncoderOf(base);
  Dataset out;
  for (;;) {
    TG_ASSIGN_OR_RETURN(auto record, reader.Next());
    if (!record) break;
    ++out.report.records;
    TG_ASSIGN_OR_RETURN(auto encoded,
                        EncodeRecord(path, encoder, *record, base.config.max_positions, options));
    if (!Count(encoded.reveal(), &out.report)) continue;
    out.sequences.push_back(std::move(encoded.reveal_mutable().tokens));
  }
  CountSequences(out.sequences, &out.report);
  if (out.sequences.empty()) return Unexpected(NothingUsable(path, out.report, options));
  return out;
}

Result<DataCheck> CheckData(const std::filesystem::path& path, const LoadedBase& base,
                            const DataOptions& options) {
  TG_ASSIGN_OR_RETURN(records::JsonlReader reader, records::JsonlReader::Open(path));
  const records::Encoder encoder = EncoderOf(base);
  DataCheck check;
  std::unordered_map<uint64_t, int64_t> first_lines;
  for (;;) {
    auto record = reader.Next();
    // Only of a line's form: what ends the reading (a limit, the disk) would come again for ever.
    if (!record && record.error().code() == Code::kInvalidArgument) {
      AddBad(record.error(), reader.line(), &check);
      continue;
    }
    if (!record) return Unexpected(record.error());
    if (!*record) return check;
    const int64_t line = (*record)->reveal().line;
    auto encoded = EncodeRecord(path, encoder, **record, base.config.max_positions, options);
    if (!encoded) {
      AddBad(encoded.error(), line, &check);
      continue;
    }
    const auto [seen, is_new] = first_lines.try_emplace(HashOf((*record)->reveal()), line);
    if (!is_new && ++check.duplicates <= static_cast<int64_t>(kMaxBadLinesKept)) {
      check.copies.push_back({line, seen->second});
    }
    AddGood((*record)->reveal(), encoded->reveal(), &check);
  }
}

Status VerdictOf(const DataCheck& check, const std::filesystem::path& path,
                 const DataOptions& options) {
  if (check.bad_lines > 0) {
    return InvalidArgument("{} bad lines, which training would refuse; the first: {}",
                           check.bad_lines, check.bad.front().reason);
  }
  return check.report.used > 0 ? OkStatus() : NothingUsable(path, check.report, options);
}

Result<std::vector<Question>> LoadQuestions(const std::filesystem::path& path,
                                            const LoadedBase& base) {
  TG_ASSIGN_OR_RETURN(records::JsonlReader reader, records::JsonlReader::Open(path));
  const records::Encoder encoder = EncoderOf(base);
  std::vector<Question> questions;
  for (;;) {
    TG_ASSIGN_OR_RETURN(auto record, reader.Next());
    if (!record) return questions;
    auto asked = encoder.Question(*record);
    if (!asked) return Unexpected(Tell(path, asked.error()));
    records::Asked& value = asked->reveal_mutable();
    questions.push_back({std::move(value.prompt), std::move(value.answer)});
  }
}

}  // namespace tidegate::finetune
