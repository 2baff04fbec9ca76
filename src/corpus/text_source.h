// The text of a pretraining corpus: plain text files, one document each, and JSONL files with one
// {"text": …} a line. Not for private records: those are read by src/records behind walls.
//
// A document comes in pieces of at most kPieceBytes, each tokenised by itself; it is cut behind a
// line's end where the next line begins with no white space, else before a space, else between two
// characters. Where pieces end depends on the text alone.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"

namespace tidegate::corpus {

inline constexpr size_t kPieceBytes = 1 << 20;
inline constexpr size_t kMaxFiles = 1 << 20;

// Where a piece begins. In text files `offset` is its own first byte and `piece` is 0; in JSONL
// files `offset` is its line's first byte and `piece` its number in the document.
struct TextPosition {
  uint64_t file = 0;
  uint64_t offset = 0;
  uint64_t piece = 0;
  friend bool operator==(const TextPosition&, const TextPosition&) = default;
};

struct TextPiece {
  TextPosition at;
  std::string text;  // valid UTF-8, never empty but for an empty document
  bool ends_document = false;
  uint64_t bad_lines = 0;  // that were left out before it, since the source began or was sought
};

struct TextFile {
  std::filesystem::path path;
  uint64_t bytes = 0;
};

struct TextOptions {
  std::string field = "text";   // of a line of JSONL
  bool skip_bad_lines = false;  // leave out lines that are no such object, and count them
};

class TextSource {
 public:
  // A folder stands for the .txt and .jsonl files in it, in byte order of their names. kNotFound
  // for what is not there, kInvalidArgument for a folder without such a file or a file of another
  // kind.
  static Result<std::vector<TextFile>> FindFiles(const std::vector<std::filesystem::path>& paths);

  TextSource(std::vector<TextFile> files, TextOptions options)
      : files_(std::move(files)), options_(std::move(options)) {}

  const std::vector<TextFile>& files() const { return files_; }
  uint64_t total_bytes() const;
  // Bytes of all files that were read so far.
  uint64_t bytes_done() const { return before_ + offset_; }
  // Since it began, or since Seek.
  uint64_t bad_lines() const { return bad_lines_; }

  // The next piece, nothing at the end. Errors name the file, and the line or the byte.
  Result<std::optional<TextPiece>> Next();
  // Goes on from a piece that Next once gave.
  Status Seek(const TextPosition& at);

 private:
  Status OpenFile();
  void NextFile();
  Status Fill(size_t size);
  Result<std::optional<TextPiece>> NextOfText();
  Result<std::optional<TextPiece>> NextOfLines();
  Result<bool> ReadLine();
  Result<std::string> TextOfLine(std::string_view line) const;
  std::string_view buffered() const { return std::string_view(buffer_).substr(used_); }

  std::vector<TextFile> files_;
  TextOptions options_;
  uint64_t file_ = 0;    // the one that is read
  uint64_t before_ = 0;  // bytes of the files before it
  Fd fd_;
  bool ended_ = false;  // nothing of the file is left to be read into the buffer
  std::string buffer_;
  size_t used_ = 0;      // of the buffer
  uint64_t offset_ = 0;  // in the file, of what is next
  uint64_t bad_lines_ = 0;
  // The document of the last line, of which pieces are left.
  std::string document_;
  size_t document_used_ = 0;
  bool in_document_ = false;
  TextPosition document_at_;
};

}  // namespace tidegate::corpus
