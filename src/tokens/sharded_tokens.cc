#include "tokens/sharded_tokens.h"

#include <algorithm>

#include "base/json.h"
#include "base/limits.h"
#include "tokens/fingerprint.h"
#include "tokens/sample_order.h"

namespace tidegate::tokens {
namespace {

using nlohmann::ordered_json;

constexpr char kFormat[] = "tidegate tokens";
constexpr int kVersion = 1;
constexpr size_t kMaxIndexBytes = size_t{512} << 20;

std::string Hex64(uint64_t value) { return fmt::format("{:016x}", value); }

Result<uint64_t> FromHex64(const ordered_json& value, std::string_view what) {
  if (value.is_string()) {
    const auto bytes = FromHex(value.get_ref<const std::string&>());
    if (bytes && bytes->size() == 8) {
      uint64_t number = 0;
      for (const uint8_t byte : *bytes) number = number << 8 | byte;
      return number;
    }
  }
  return DataLoss("{}: a checksum is missing or malformed", what);
}

// A member that is a number of 0 … most.
Result<uint64_t> Number(const ordered_json& object, const char* key, uint64_t most,
                        std::string_view what) {
  const auto it = object.find(key);
  if (it != object.end() && it->is_number_unsigned() && it->get<uint64_t>() <= most) {
    return it->get<uint64_t>();
  }
  return DataLoss("{}: \"{}\" is missing or beyond {}", what, key, most);
}

Result<TokenIndex::Entry> ParseEntry(const ordered_json& json, std::string_view what) {
  TokenIndex::Entry entry;
  if (!json.is_object() || !json.contains("file") || !json["file"].is_string()) {
    return DataLoss("{}: a shard has no file name", what);
  }
  entry.file = json["file"].get<std::string>();
  if (entry.file.empty() || entry.file.find('/') != std::string::npos || entry.file[0] == '.') {
    return DataLoss("{}: \"{}\" is no name of a shard", what, entry.file);
  }
  constexpr uint64_t kMost = uint64_t{1} << 48;
  TG_ASSIGN_OR_RETURN(entry.facts.tokens, Number(json, "tokens", kMaxShardTokens, what));
  TG_ASSIGN_OR_RETURN(entry.facts.documents, Number(json, "documents", kMaxShardTokens, what));
  TG_ASSIGN_OR_RETURN(entry.facts.bytes, Number(json, "bytes", kMost, what));
  if (!json.contains("xxh64")) return DataLoss("{}: a shard has no checksum", what);
  TG_ASSIGN_OR_RETURN(entry.facts.checksum, FromHex64(json["xxh64"], what));
  return entry;
}

}  // namespace

Status WriteTokenIndex(const std::filesystem::path& folder, const TokenIndex& index) {
  ordered_json json;
  json["format"] = kFormat;
  json["version"] = kVersion;
  json["tokenizer_xxh64"] = Hex64(index.kind.tokenizer);
  json["vocab_size"] = index.kind.vocab_size;
  json["end_of_text"] = index.kind.end_of_text;
  uint64_t tokens = 0;
  for (const auto& shard : index.shards) tokens += shard.facts.tokens;
  json["tokens"] = tokens;
  json["documents"] = index.documents;
  json["shards"] = ordered_json::array();
  for (const auto& shard : index.shards) {
    json["shards"].push_back({{"file", shard.file},
                              {"tokens", shard.facts.tokens},
                              {"documents", shard.facts.documents},
                              {"bytes", shard.facts.bytes},
                              {"xxh64", Hex64(shard.facts.checksum)}});
  }
  return WriteFileDurably(folder / kTokenIndexName, AsBytes(json.dump(1) + "\n"));
}

Result<TokenIndex> ReadTokenIndex(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kTokenIndexName;
  const std::string what = path.native();
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return NotFound(
        "{} is not there: the text was not encoded to its end; run `tidegate tokenizer "
        "encode` again, it goes on where it stopped",
        what);
  }
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxIndexBytes));
  TG_ASSIGN_OR_RETURN(
      const ordered_json json,
      ParseStrictOrderedJson(text, {.max_bytes = kMaxIndexBytes, .max_depth = 8}, what));
  // Not value(): it throws for what is there and no text.
  if (!json.is_object() || !json.contains("format") || json["format"] != kFormat) {
    return InvalidArgument("{} is no index of token shards", what);
  }
  TG_ASSIGN_OR_RETURN(const uint64_t version, Number(json, "version", 1 << 20, what));
  if (version != kVersion) {
    return Unsupported("{} has version {}, this build reads {}", what, version, kVersion);
  }
  TokenIndex index;
  TG_ASSIGN_OR_RETURN(const uint64_t vocabulary, Number(json, "vocab_size", kMaxVocabulary, what));
  index.kind.vocab_size = static_cast<uint32_t>(vocabulary);
  if (!json.contains("tokenizer_xxh64")) return DataLoss("{}: names no tokenizer", what);
  TG_ASSIGN_OR_RETURN(index.kind.tokenizer, FromHex64(json["tokenizer_xxh64"], what));
  index.kind.end_of_text = json.contains("end_of_text") && json["end_of_text"].is_number_integer()
                               ? static_cast<int32_t>(json["end_of_text"].get<int64_t>())
                               : -1;
  TG_ASSIGN_OR_RETURN(index.documents, Number(json, "documents", uint64_t{1} << 48, what));
  if (!json.contains("shards") || !json["shards"].is_array() || json["shards"].empty() ||
      json["shards"].size() > kMaxShards) {
    return DataLoss("{}: has no shards, or more than {}", what, kMaxShards);
  }
  for (const ordered_json& shard : json["shards"]) {
    TG_ASSIGN_OR_RETURN(TokenIndex::Entry entry, ParseEntry(shard, what));
    index.shards.push_back(std::move(entry));
  }
  return index;
}

Result<ShardedTokens> ShardedTokens::Open(const std::filesystem::path& folder) {
  TG_ASSIGN_OR_RETURN(const TokenIndex index, ReadTokenIndex(folder));
  ShardedTokens all;
  all.kind_ = index.kind;
  all.documents_ = index.documents;
  Fingerprint fingerprint;
  fingerprint.AddNumber(index.kind.tokenizer);
  fingerprint.AddNumber(index.kind.vocab_size);
  uint64_t begin = 0;
  for (const TokenIndex::Entry& entry : index.shards) {
    TG_ASSIGN_OR_RETURN(Shard shard, Shard::Open(folder / entry.file));
    if (shard.facts() != entry.facts || shard.kind() != index.kind) {
      return DataLoss("{} is not the shard that {} names; encode the text again", entry.file,
                      (folder / kTokenIndexName).native());
    }
    fingerprint.AddNumber(entry.facts.tokens);
    fingerprint.AddNumber(entry.facts.checksum);
    all.begins_.push_back(begin);
    begin += entry.facts.tokens;
    all.shards_.push_back(std::move(shard));
  }
  all.begins_.push_back(begin);
  all.fingerprint_ = fingerprint.value();
  return all;
}

Status ShardedTokens::Verify() const {
  for (const Shard& shard : shards_) TG_RETURN_IF_ERROR(shard.Verify());
  return OkStatus();
}

Status ShardedTokens::Read(uint64_t first, std::span<int32_t> out) const {
  if (first > tokens() || out.size() > tokens() - first) {
    return InvalidArgument("tokens {} and {} on: there are {}", first, out.size(), tokens());
  }
  size_t shard = static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), first) -
                                     begins_.begin() - 1);
  while (!out.empty()) {
    const size_t part = std::min<uint64_t>(out.size(), begins_[shard + 1] - first);
    TG_RETURN_IF_ERROR(shards_[shard].Read(first - begins_[shard], out.first(part)));
    out = out.subspan(part);
    first += part;
    ++shard;
  }
  return OkStatus();
}

Result<SampleStream> SampleStream::Make(const ShardedTokens& tokens, int64_t length, uint64_t seed,
                                        bool shuffle) {
  if (length < 1 || length > kMaxSequenceLength) {
    return InvalidArgument("sequences of {} tokens: 1 to {}", length, kMaxSequenceLength);
  }
  SampleStream stream(tokens, length, seed, shuffle);
  stream.count_ = (tokens.tokens() - 1) / static_cast<uint64_t>(length);
  if (stream.count_ == 0) {
    return InvalidArgument("{} tokens are not enough for one sequence of {} and its last target",
                           tokens.tokens(), length);
  }
  return stream;
}

Status SampleStream::Read(uint64_t index, std::span<int32_t> out) const {
  if (out.size() != static_cast<size_t>(length_) + 1) {
    return InvalidArgument("a sample has {} tokens, not {}", length_ + 1, out.size());
  }
  const uint64_t epoch = index / count_;
  if (epoch > UINT32_MAX) return InvalidArgument("sample {} lies beyond the last epoch", index);
  uint64_t sample = index % count_;
  if (shuffle_) sample = SampleOrder(seed_, static_cast<uint32_t>(epoch), count_).At(sample);
  return tokens_->Read(sample * static_cast<uint64_t>(length_), out);
}

uint64_t SampleStream::fingerprint() const {
  Fingerprint fingerprint;
  fingerprint.AddNumber(tokens_->fingerprint());
  fingerprint.AddNumber(static_cast<uint64_t>(length_));
  fingerprint.AddNumber(shuffle_ ? 1 : 0);
  if (shuffle_) fingerprint.AddNumber(seed_);
  return fingerprint.value();
}

}  // namespace tidegate::tokens
