// A folder of token shards as one stream of tokens, and the samples that pretraining takes from it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tokens/shard.h"

namespace tidegate::tokens {

inline constexpr char kTokenIndexName[] = "index.json";
inline constexpr size_t kMaxShards = 1 << 20;

// index.json: written last, so that a folder with one is whole.
struct TokenIndex {
  ShardKind kind;
  struct Entry {
    std::string file;  // a name in the folder
    ShardFacts facts;
    friend bool operator==(const Entry&, const Entry&) = default;
  };
  std::vector<Entry> shards;
  uint64_t documents = 0;  // of the text; one that lies in two shards counts once
};

Status WriteTokenIndex(const std::filesystem::path& folder, const TokenIndex& index);
Result<TokenIndex> ReadTokenIndex(const std::filesystem::path& folder);

// Thread-safety: const use from any number of threads.
class ShardedTokens {
 public:
  // Opens every shard and holds it to the index. kNotFound for a folder without an index (the text
  // was not encoded to its end), kDataLoss for shards that are not those of the index.
  static Result<ShardedTokens> Open(const std::filesystem::path& folder);

  const ShardKind& kind() const { return kind_; }
  uint64_t tokens() const { return begins_.back(); }
  uint64_t documents() const { return documents_; }
  // Equal for equal tokens.
  uint64_t fingerprint() const { return fingerprint_; }
  // Reads everything.
  Status Verify() const;

  // kInvalidArgument beyond the end.
  Status Read(uint64_t first, std::span<int32_t> out) const;

 private:
  ShardedTokens() = default;
  ShardKind kind_;
  uint64_t documents_ = 0;
  uint64_t fingerprint_ = 0;
  std::vector<Shard> shards_;
  std::vector<uint64_t> begins_;  // of each shard in the stream, then the end
};

// Sequence i of the endless stream of epochs, for any number of ranks the same. The stream of
// tokens is cut into sequences of `length` tokens, of which each has the first token of the next
// behind it as the last target; what is left over at the end is not used. Every sequence comes once
// an epoch, in the order of SampleOrder. Thread-safety: const use from any number of threads.
class SampleStream {
 public:
  // kInvalidArgument for a length below 1 or tokens that are not enough for one sequence. `tokens`
  // must outlive it.
  static Result<SampleStream> Make(const ShardedTokens& tokens, int64_t length, uint64_t seed,
                                   bool shuffle);

  int64_t length() const { return length_; }
  uint64_t samples_per_epoch() const { return count_; }
  // length() + 1 ids. kInvalidArgument for another size of `out`.
  Status Read(uint64_t index, std::span<int32_t> out) const;
  // Equal for equal tokens, length, seed and order.
  uint64_t fingerprint() const;

 private:
  SampleStream(const ShardedTokens& tokens, int64_t length, uint64_t seed, bool shuffle)
      : tokens_(&tokens), length_(length), seed_(seed), shuffle_(shuffle) {}
  const ShardedTokens* tokens_;
  int64_t length_;
  uint64_t seed_;
  bool shuffle_;
  uint64_t count_ = 0;
};

}  // namespace tidegate::tokens
