// Text to token shards (docs/formats/token-shards.md). A run that was ended goes on where its last
// whole shard ends; the shards are the same bytes as those of a run that was not, for any number of
// threads. One run at a time in a folder; thread-safe otherwise.
#pragma once

#include <optional>

#include "corpus/progress.h"
#include "corpus/text_source.h"

namespace tidegate::corpus {

inline constexpr char kEncodingName[] = "encoding.json";  // how far an unfinished run is

struct EncodeTextOptions {
  std::vector<std::filesystem::path> inputs;  // see TextSource::FindFiles
  TextOptions text;
  std::filesystem::path tokenizer;  // a folder, or a tokenizer.json
  // The token behind each document, "" for none. Without a value it is the eos_token of the
  // tokenizer_config.json beside the tokenizer.
  std::optional<std::string> end_of_text;
  uint64_t shard_tokens = uint64_t{1} << 26;
  int threads = 1;
  // Called before each change of the folder that the next run would see; for tests that end there.
  std::function<void()> before_step;
};

struct EncodedText {
  uint64_t tokens = 0;
  uint64_t documents = 0;
  uint64_t shards = 0;
  uint64_t shards_before = 0;  // of them, those of a run before
  uint64_t text_bytes = 0;
  uint64_t bad_lines = 0;
};

// `folder` is made when it is not there. kAlreadyExists where it holds whole shards,
// kFailedPrecondition where a run with other files or options was begun in it, or one runs now.
Result<EncodedText> EncodeText(const EncodeTextOptions& options,
                               const std::filesystem::path& folder,
                               const ProgressFunction& progress);

}  // namespace tidegate::corpus
