// Token shards: one file of token ids that is mapped into memory (docs/formats/token-shards.md).
// Thread-safety: a Shard is for any number of threads; a ShardWriter for one.
#pragma once

#include <filesystem>
#include <span>
#include <vector>

#include "base/checksum.h"
#include "base/file.h"

namespace tidegate::tokens {

inline constexpr uint64_t kMaxShardTokens = uint64_t{1} << 32;

// What all shards of a folder agree on.
struct ShardKind {
  uint32_t vocab_size = 0;   // every id is smaller; at most 65536: two bytes a token, else four
  uint64_t tokenizer = 0;    // XXH64 of its tokenizer.json
  int32_t end_of_text = -1;  // what ends each document, -1 for nothing

  int token_bytes() const { return vocab_size <= 65536 ? 2 : 4; }
  friend bool operator==(const ShardKind&, const ShardKind&) = default;
};

struct ShardFacts {
  uint64_t tokens = 0;
  uint64_t documents = 0;  // that have tokens in it
  uint64_t bytes = 0;      // of the file
  uint64_t checksum = 0;   // XXH64 of all behind the header
  friend bool operator==(const ShardFacts&, const ShardFacts&) = default;
};

// Writes PATH.tmp; Finish makes PATH of it, durably. Nothing is at PATH before.
class ShardWriter {
 public:
  static Result<ShardWriter> Create(const std::filesystem::path& path, const ShardKind& kind);
  ShardWriter(ShardWriter&&) = default;

  // kInvalidArgument for an id outside the vocabulary, kResourceExhausted beyond kMaxShardTokens.
  Status Append(std::span<const int32_t> ids);
  // What was appended since the last one is a document, or the part of one that is in this shard.
  void EndDocument();
  uint64_t tokens() const { return facts_.tokens; }
  // kFailedPrecondition for a shard without a token.
  Result<ShardFacts> Finish();

 private:
  ShardWriter(Fd fd, std::filesystem::path path, const ShardKind& kind)
      : fd_(std::move(fd)), path_(std::move(path)), kind_(kind) {}
  Status Flush();

  Fd fd_;
  std::filesystem::path path_;
  ShardKind kind_;
  ShardFacts facts_;
  Bytes buffer_;
  Checksum checksum_;
  std::vector<uint64_t> ends_;
};

class Shard {
 public:
  // Checks header, sizes and the table of documents. kDataLoss for a file that is cut or was
  // changed there; the ids themselves are held to the checksum by Verify.
  static Result<Shard> Open(const std::filesystem::path& path);

  const ShardKind& kind() const { return kind_; }
  const ShardFacts& facts() const { return facts_; }
  // Reads all of it. kDataLoss where it is not what was written.
  Status Verify() const;

  // Ids first … first + out.size() - 1, which must be there. kDataLoss, naming the place, for an id
  // outside the vocabulary.
  Status Read(uint64_t first, std::span<int32_t> out) const;
  // One behind the last token of a document (or of the part of it that is in this shard).
  uint64_t DocumentEnd(uint64_t document) const;

 private:
  Shard(MappedFile file, std::filesystem::path path)
      : file_(std::move(file)), path_(std::move(path)) {}
  Status ReadHeader();
  Status CheckDocuments() const;

  MappedFile file_;
  std::filesystem::path path_;
  ShardKind kind_;
  ShardFacts facts_;
  size_t table_ = 0;  // where the table of documents begins
};

}  // namespace tidegate::tokens
