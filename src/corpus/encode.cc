#include "corpus/encode.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>

#include "base/json.h"
#include "base/limits.h"
#include "corpus/encoding_state.h"
#include "corpus/parallel.h"
#include "corpus/train_tokenizer.h"
#include "model/tokenizer.h"

namespace tidegate::corpus {
namespace {

namespace fs = std::filesystem;

// The eos_token of a tokenizer_config.json: a text, or an object with its content.
Result<std::string> EosToken(const fs::path& config) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(config, kMaxConfigBytes));
  TG_ASSIGN_OR_RETURN(const nlohmann::json json,
                      ParseStrictJson(text, {.max_bytes = kMaxConfigBytes}, config.native()));
  nlohmann::json eos = json.is_object() ? json.value("eos_token", nlohmann::json()) : json;
  if (eos.is_object()) eos = eos.value("content", nlohmann::json());
  if (eos.is_string() && !eos.get_ref<const std::string&>().empty()) return eos.get<std::string>();
  return InvalidArgument("{} names no eos_token; give --end-of-text TOKEN, or \"\" for none",
                         config.native());
}

struct Vocabulary {
  model::Tokenizer tokenizer;
  tokens::ShardKind kind;
};

Result<Vocabulary> LoadVocabulary(const EncodeTextOptions& options) {
  std::error_code error;
  const bool folder = fs::is_directory(options.tokenizer, error);
  const fs::path path = folder ? options.tokenizer / "tokenizer.json" : options.tokenizer;
  TG_ASSIGN_OR_RETURN(const std::string json, ReadTextFile(path, kMaxTokenizerBytes));
  TG_ASSIGN_OR_RETURN(model::Tokenizer tokenizer, model::Tokenizer::FromJson(json, path.native()));
  tokens::ShardKind kind;
  kind.vocab_size = static_cast<uint32_t>(tokenizer.vocab_size());
  kind.tokenizer = ChecksumOf(AsBytes(json));
  std::string eos = options.end_of_text.value_or("");
  if (!options.end_of_text) {
    TG_ASSIGN_OR_RETURN(eos, EosToken(path.parent_path() / "tokenizer_config.json"));
  }
  if (!eos.empty()) {
    const std::optional<int32_t> id = tokenizer.TokenId(eos);
    if (!id) return InvalidArgument("{} has no token \"{}\"", path.native(), eos);
    kind.end_of_text = *id;
  }
  return Vocabulary{std::move(tokenizer), kind};
}

// The folder, held against a second run for as long as the descriptor lives.
Result<Fd> HoldFolder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  Fd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return Unexpected(ErrnoStatus("open", folder.native(), errno));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return FailedPrecondition("another run works in {} now", folder.native());
  }
  if (fs::exists(folder / tokens::kTokenIndexName, error)) {
    return AlreadyExists("{} holds whole token shards already; name another folder",
                         folder.native());
  }
  return fd;
}

class Encoder {
 public:
  Encoder(const EncodeTextOptions& options, const fs::path& folder, EncodingPlan plan,
          const model::Tokenizer& tokenizer, EncodingState state)
      : options_(options),
        folder_(folder),
        plan_(std::move(plan)),
        tokenizer_(tokenizer),
        state_(std::move(state)),
        source_(plan_.files, plan_.text),
        skip_(state_.skip),
        bad_before_(state_.bad_lines) {}

  Status Run(const ProgressFunction& progress) {
    TG_RETURN_IF_ERROR(source_.Seek(state_.at));
    ProgressMeter meter("encode", "bytes", source_.total_bytes(), progress);
    meter.Skip(source_.bytes_done());
    while (true) {
      TG_ASSIGN_OR_RETURN(const std::vector<TextPiece> batch, NextBatch(source_));
      if (batch.empty()) break;
      std::vector<std::vector<int32_t>> ids(batch.size());
      TG_RETURN_IF_ERROR(ForEach(batch.size(), options_.threads,
                                 [&](size_t i) { return Encode(batch[i], ids[i]); }));
      for (size_t i = 0; i < batch.size(); ++i) TG_RETURN_IF_ERROR(Append(batch[i], ids[i]));
      if (!meter.Reach(source_.bytes_done())) return Cancelled("the encoding was stopped");
    }
    state_.bad_lines = bad_before_ + source_.bad_lines();
    return End();
  }

  const EncodingState& state() const { return state_; }

 private:
  void Step() const {
    if (options_.before_step) options_.before_step();
  }

  Status Encode(const TextPiece& piece, std::vector<int32_t>& ids) const {
    auto encoding = tokenizer_.Encode(piece.text);
    if (!encoding) {
      return encoding.error().WithContext(
          fmt::format("{} at byte {}", plan_.files[piece.at.file].path.native(), piece.at.offset));
    }
    ids = std::move(encoding->ids);
    if (piece.ends_document && plan_.kind.end_of_text >= 0) ids.push_back(plan_.kind.end_of_text);
    return OkStatus();
  }

  Status Append(const TextPiece& piece, const std::vector<int32_t>& ids) {
    if (skip_ > ids.size()) return DataLoss("the text was changed since the encoding was begun");
    std::span<const int32_t> rest = std::span(ids).subspan(std::exchange(skip_, 0));
    while (!rest.empty()) {
      if (!shard_) {
        Step();
        auto begun = tokens::ShardWriter::Create(folder_ / NextName(), plan_.kind);
        if (!begun) return begun.error();
        shard_.emplace(std::move(*begun));
      }
      const size_t part = std::min<uint64_t>(rest.size(), plan_.shard_tokens - shard_->tokens());
      TG_RETURN_IF_ERROR(shard_->Append(rest.first(part)));
      rest = rest.subspan(part);
      if (shard_->tokens() < plan_.shard_tokens) continue;
      state_.at = piece.at;
      state_.skip = ids.size() - rest.size();
      state_.bad_lines = bad_before_ + piece.bad_lines;
      TG_RETURN_IF_ERROR(FinishShard());
      Step();
      TG_RETURN_IF_ERROR(WriteEncodingState(folder_, plan_, state_));
    }
    if (piece.ends_document) {
      if (shard_) shard_->EndDocument();
      ++state_.documents;
    }
    return OkStatus();
  }

  std::string NextName() const { return fmt::format("{:05}.tokens", state_.shards.size()); }

  Status FinishShard() {
    Step();
    const std::string name = NextName();
    TG_ASSIGN_OR_RETURN(const tokens::ShardFacts facts, shard_->Finish());
    shard_.reset();
    state_.shards.push_back({name, facts});
    if (state_.shards.size() > tokens::kMaxShards) {
      return ResourceExhausted("more than {} shards; make them larger", tokens::kMaxShards);
    }
    return OkStatus();
  }

  Status End() {
    if (shard_) TG_RETURN_IF_ERROR(FinishShard());
    if (state_.shards.empty()) return InvalidArgument("the text has no tokens");
    Step();
    TG_RETURN_IF_ERROR(
        tokens::WriteTokenIndex(folder_, {plan_.kind, state_.shards, state_.documents}));
    Step();
    std::error_code error;
    fs::remove(folder_ / kEncodingName, error);
    return OkStatus();
  }

  const EncodeTextOptions& options_;
  const fs::path folder_;
  const EncodingPlan plan_;
  const model::Tokenizer& tokenizer_;
  EncodingState state_;
  TextSource source_;
  uint64_t skip_;
  const uint64_t bad_before_;
  std::optional<tokens::ShardWriter> shard_;
};

}  // namespace

Result<EncodedText> EncodeText(const EncodeTextOptions& options, const fs::path& folder,
                               const ProgressFunction& progress) {
  if (options.shard_tokens < 1 || options.shard_tokens > tokens::kMaxShardTokens) {
    return InvalidArgument("shards of {} tokens: 1 to {}", options.shard_tokens,
                           tokens::kMaxShardTokens);
  }
  if (options.threads < 1) return InvalidArgument("{} threads: at least 1", options.threads);
  TG_ASSIGN_OR_RETURN(const Vocabulary vocabulary, LoadVocabulary(options));
  EncodingPlan plan{vocabulary.kind, options.shard_tokens, options.text, {}};
  TG_ASSIGN_OR_RETURN(plan.files, TextSource::FindFiles(options.inputs));
  TG_ASSIGN_OR_RETURN(const Fd held, HoldFolder(folder));
  TG_ASSIGN_OR_RETURN(EncodingState state, ReadEncodingState(folder, plan));

  EncodedText report;
  report.shards_before = state.shards.size();
  for (const TextFile& file : plan.files) report.text_bytes += file.bytes;
  Encoder encoder(options, folder, std::move(plan), vocabulary.tokenizer, std::move(state));
  TG_RETURN_IF_ERROR(encoder.Run(progress));
  report.documents = encoder.state().documents;
  report.bad_lines = encoder.state().bad_lines;
  report.shards = encoder.state().shards.size();
  for (const auto& shard : encoder.state().shards) report.tokens += shard.facts.tokens;
  return report;
}

}  // namespace tidegate::corpus
