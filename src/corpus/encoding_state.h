// How far an encoding of text to shards is: written durably behind each shard. Internal to encode.
// Not thread-safe.
#pragma once

#include "corpus/encode.h"
#include "tokens/sharded_tokens.h"

namespace tidegate::corpus {

// What two runs must have in common to be one.
struct EncodingPlan {
  tokens::ShardKind kind;
  uint64_t shard_tokens = 0;
  TextOptions text;
  std::vector<TextFile> files;
};

struct EncodingState {
  std::vector<tokens::TokenIndex::Entry> shards;
  TextPosition at;         // the piece that the next shard begins with
  uint64_t skip = 0;       // tokens of it that are in the shards already
  uint64_t documents = 0;  // that ended before that piece
  uint64_t bad_lines = 0;
};

Status WriteEncodingState(const std::filesystem::path& folder, const EncodingPlan& plan,
                          const EncodingState& state);
// An empty state where there is no file. kFailedPrecondition for the state of another plan,
// kDataLoss for shards that are not as they were written.
Result<EncodingState> ReadEncodingState(const std::filesystem::path& folder,
                                        const EncodingPlan& plan);

}  // namespace tidegate::corpus
