#include "finetune/dataset.h"

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
    auto encoded = encoder.Encode(*record, {options.max_length, options.assistant_only_loss});
    if (!encoded) return Unexpected(Tell(path, encoded.error()));
    records::Encoded& sequence = encoded->reveal_mutable();
    if (!sequence.has_target) {
      ++out.report.without_target;
      continue;
    }
    if (sequence.truncated) ++out.report.truncated;
    out.sequences.push_back(std::move(sequence.tokens));
  }
  CountSequences(out.sequences, &out.report);
  if (!out.sequences.empty()) return out;
  if (out.report.records == 0) {
    return InvalidArgument("{} has no record; one JSON object a line", path.native());
  }
  return InvalidArgument(
      "{}: none of {} records has a token to train within max_length {}; raise it, or train every "
      "token with --assistant_only_loss false",
      path.native(), out.report.records, options.max_length);
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
