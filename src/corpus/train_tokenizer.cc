#include "corpus/train_tokenizer.h"

#include <algorithm>

#include "base/limits.h"
#include "model/tokenizer.h"

namespace tidegate::corpus {
namespace {

Status CheckOptions(const TrainTokenizerOptions& options, const std::filesystem::path& folder) {
  const auto& special = options.bpe.special_tokens;
  if (std::find(special.begin(), special.end(), options.tokenizer.end_of_text) == special.end()) {
    return InvalidArgument("the end of text \"{}\" is not among the special tokens",
                           options.tokenizer.end_of_text);
  }
  if (options.threads < 1) return InvalidArgument("{} threads: at least 1", options.threads);
  std::error_code error;
  if (std::filesystem::exists(folder / "tokenizer.json", error)) {
    return AlreadyExists("{} holds a tokenizer already; name another folder, or remove it",
                         folder.native());
  }
  return OkStatus();
}

}  // namespace

Result<std::vector<TextPiece>> NextBatch(TextSource& source) {
  std::vector<TextPiece> batch;
  for (size_t bytes = 0; bytes < kBatchBytes;) {
    TG_ASSIGN_OR_RETURN(std::optional<TextPiece> piece, source.Next());
    if (!piece) break;
    // Short documents cost more than their bytes.
    bytes += piece->text.size() + 256;
    batch.push_back(std::move(*piece));
  }
  return batch;
}

Result<TrainedTokenizer> TrainTokenizer(const TrainTokenizerOptions& options,
                                        const std::filesystem::path& folder,
                                        const ProgressFunction& progress) {
  TG_RETURN_IF_ERROR(CheckOptions(options, folder));
  TG_ASSIGN_OR_RETURN(std::vector<TextFile> files, TextSource::FindFiles(options.inputs));
  TG_ASSIGN_OR_RETURN(model::Pattern pattern,
                      model::Pattern::Compile(PatternOf(options.tokenizer.style)));
  TextSource source(std::move(files), options.text);
  TrainedTokenizer report;
  report.files = source.files().size();
  report.text_bytes = source.total_bytes();

  WordCounts counts(std::move(pattern), options.most_word_bytes);
  ProgressMeter reading("count words", "bytes", source.total_bytes(), progress);
  while (true) {
    TG_ASSIGN_OR_RETURN(const std::vector<TextPiece> batch, NextBatch(source));
    if (batch.empty()) break;
    TG_RETURN_IF_ERROR(counts.Add(batch, options.threads));
    if (!reading.Reach(source.bytes_done())) return Cancelled("training the tokenizer was stopped");
  }
  report.bad_lines = source.bad_lines();
  report.words_dropped = counts.dropped();
  const std::vector<WordCounts::Word> words = counts.Take();
  report.words = words.size();

  ProgressMeter merging("merge pairs", "merges", options.bpe.vocab_size, progress);
  TG_ASSIGN_OR_RETURN(
      const BpeVocabulary vocabulary,
      TrainBpe(words, options.bpe, [&](size_t done, size_t) { return merging.Reach(done); }));
  report.vocab_size = vocabulary.tokens.size();
  report.merges = vocabulary.merges.size();

  const std::string json = TokenizerJson(vocabulary, options.tokenizer);
  // What we could not read ourselves is not written.
  TG_RETURN_IF_ERROR([&]() -> Status {
    const auto loaded = model::Tokenizer::FromJson(json, "the new tokenizer");
    return loaded ? OkStatus() : loaded.error();
  }());
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return Unexpected(ErrnoStatus("make", folder.native(), error.value()));
  TG_RETURN_IF_ERROR(WriteFileDurably(folder / "tokenizer_config.json",
                                      AsBytes(TokenizerConfigJson(vocabulary, options.tokenizer))));
  // Last: who finds it finds the other.
  TG_RETURN_IF_ERROR(WriteFileDurably(folder / "tokenizer.json", AsBytes(json)));
  return report;
}

}  // namespace tidegate::corpus
