// Canaries and the search for them: random texts that are planted in records, and every form in
// which they might turn up where no record may be. Not thread-safe.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "model/tokenizer.h"

namespace tidegate::canary {

// 40 random characters of a-z and 0-9. Fails the process when there is no randomness.
std::string RandomCanary();

struct Hit {
  std::string where;     // a path, or what the bytes were called
  std::string canary;    // its name
  std::string encoding;  // "text", "utf-16le", ... as in Search::Add
  size_t offset = 0;
};
std::string Describe(const std::vector<Hit>& hits);

struct Found {
  std::vector<Hit> hits;
  size_t files = 0;
  uint64_t bytes = 0;
};

// Finds any 27 characters in a row of a canary, any 15 tokens in a row of its ids.
class Search {
 public:
  explicit Search(model::Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}

  // Patterns of one canary: as text, reversed, UTF-16 of both orders, hex of both cases, base64 at
  // its three alignments; its token ids as little-endian 16, 32 and 64 bit and as decimal text.
  Status Add(const std::string& name, const std::string& canary);

  std::vector<Hit> InBytes(ByteSpan bytes, const std::string& where) const;
  // All regular files below `root`, and the paths themselves. `skip` are files and folders left
  // out. A file that goes away meanwhile is no error; one that cannot be read is.
  Result<Found> InTree(const std::filesystem::path& root,
                       const std::set<std::filesystem::path>& skip = {}) const;
  // Files of folders that the whole machine shares, changed at `since` or later; what cannot be
  // read is of others and skipped.
  Found InSharedFolder(const std::filesystem::path& root, std::filesystem::file_time_type since,
                       const std::set<std::filesystem::path>& skip = {}) const;

  // The names of the encodings that patterns exist for.
  std::set<std::string> encodings() const;

 private:
  struct Pattern {
    std::string canary, encoding;
    Bytes bytes;
  };
  void AddPattern(const std::string& canary, const std::string& encoding, Bytes bytes);
  Status AddTokens(const std::string& name, const std::string& canary);
  bool AddFile(const std::filesystem::path& path, Found* found) const;

  model::Tokenizer tokenizer_;
  std::vector<Pattern> patterns_;
  std::unordered_map<uint32_t, std::vector<size_t>> by_start_;  // first four bytes
  std::vector<bool> may_start_ = std::vector<bool>(1 << 16);    // first two bytes
};

}  // namespace tidegate::canary
