#include "corpus/text_source.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/json.h"
#include "base/limits.h"
#include "base/utf8.h"

namespace tidegate::corpus {
namespace {

bool IsLines(const std::filesystem::path& path) { return path.extension() == ".jsonl"; }
bool IsText(const std::filesystem::path& path) {
  return IsLines(path) || path.extension() == ".txt";
}

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// Where to cut a text that goes on beyond kPieceBytes: see the header.
size_t CutOf(std::string_view text) {
  for (size_t at = kPieceBytes; at > kPieceBytes / 2; --at) {
    if (text[at - 1] == '\n' && !IsSpace(text[at])) return at;
  }
  for (size_t at = kPieceBytes; at > kPieceBytes / 2; --at) {
    if (text[at] == ' ' && !IsSpace(text[at - 1])) return at;
  }
  size_t at = kPieceBytes;
  while (at > kPieceBytes - 4 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

Status AddFile(const std::filesystem::path& path, std::vector<TextFile>& out) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return ErrnoStatus("read", path.native(), errno);
  if (!S_ISREG(st.st_mode)) return InvalidArgument("{} is no regular file", path.native());
  if (!IsText(path)) {
    return InvalidArgument("{} is neither .txt nor .jsonl; name it by what it holds",
                           path.native());
  }
  if (out.size() == kMaxFiles) return ResourceExhausted("more than {} files", kMaxFiles);
  out.push_back({path, static_cast<uint64_t>(st.st_size)});
  return OkStatus();
}

}  // namespace

Result<std::vector<TextFile>> TextSource::FindFiles(
    const std::vector<std::filesystem::path>& paths) {
  std::vector<TextFile> files;
  for (const std::filesystem::path& path : paths) {
    std::error_code error;
    if (!std::filesystem::is_directory(path, error)) {
      TG_RETURN_IF_ERROR(AddFile(path, files));
      continue;
    }
    std::vector<std::filesystem::path> found;
    std::filesystem::directory_iterator entries(path, error);
    for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
      if (IsText(entries->path())) found.push_back(entries->path());
    }
    if (error) return Unexpected(ErrnoStatus("list", path.native(), error.value()));
    if (found.empty()) return InvalidArgument("{} has no .txt or .jsonl file", path.native());
    std::sort(found.begin(), found.end());
    for (const auto& file : found) TG_RETURN_IF_ERROR(AddFile(file, files));
  }
  if (files.empty()) return InvalidArgument("no text was given; name .txt or .jsonl files");
  return files;
}

uint64_t TextSource::total_bytes() const {
  uint64_t sum = 0;
  for (const TextFile& file : files_) sum += file.bytes;
  return sum;
}

Status TextSource::OpenFile() {
  TG_ASSIGN_OR_RETURN(fd_, OpenToRead(files_[file_].path));
  if (::lseek(fd_.get(), static_cast<off_t>(offset_), SEEK_SET) < 0) {
    return ErrnoStatus("seek in", files_[file_].path.native(), errno);
  }
  buffer_.clear();
  used_ = 0;
  ended_ = false;
  return OkStatus();
}

void TextSource::NextFile() {
  before_ += files_[file_].bytes;
  ++file_;
  offset_ = 0;
  fd_.reset();
}

// Reads until the buffer holds `size` bytes, or the file ends.
Status TextSource::Fill(size_t size) {
  if (used_ > 0) {
    buffer_.erase(0, used_);
    used_ = 0;
  }
  while (!ended_ && buffer_.size() < size) {
    const size_t have = buffer_.size();
    buffer_.resize(size);
    const ssize_t got = ::read(fd_.get(), buffer_.data() + have, size - have);
    buffer_.resize(have + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got < 0 && errno != EINTR) {
      return ErrnoStatus("read", files_[file_].path.native(), errno);
    }
    ended_ = got == 0;
  }
  return OkStatus();
}

Result<std::optional<TextPiece>> TextSource::Next() {
  while (file_ < files_.size()) {
    if (!fd_.valid()) {
      if (offset_ == 0 && files_[file_].bytes == 0) {
        NextFile();
        continue;
      }
      TG_RETURN_IF_ERROR(OpenFile());
    }
    TG_ASSIGN_OR_RETURN(std::optional<TextPiece> piece,
                        IsLines(files_[file_].path) ? NextOfLines() : NextOfText());
    if (piece) return piece;
    NextFile();
  }
  return std::optional<TextPiece>();
}

Status TextSource::Seek(const TextPosition& at) {
  if (at.file > files_.size() || (at.file < files_.size() && at.offset > files_[at.file].bytes)) {
    return InvalidArgument("there is no place {} in file {}", at.offset, at.file);
  }
  file_ = at.file;
  before_ = 0;
  for (uint64_t i = 0; i < file_; ++i) before_ += files_[i].bytes;
  offset_ = at.offset;
  fd_.reset();
  in_document_ = false;
  bad_lines_ = 0;
  for (uint64_t i = 0; i < at.piece; ++i) {
    TG_ASSIGN_OR_RETURN(const std::optional<TextPiece> piece, Next());
    if (!piece) return InvalidArgument("there is no piece {} at {}", at.piece, at.offset);
  }
  return OkStatus();
}

Result<std::optional<TextPiece>> TextSource::NextOfText() {
  if (buffered().size() <= kPieceBytes) TG_RETURN_IF_ERROR(Fill(4 * kPieceBytes));
  const std::string_view text = buffered();
  if (text.empty()) return std::optional<TextPiece>();
  const bool last = text.size() <= kPieceBytes;
  const std::string_view piece = text.substr(0, last ? text.size() : CutOf(text));
  const size_t valid = ValidUtf8Prefix(piece);
  if (valid != piece.size()) {
    return InvalidArgument("{}: byte {} is not UTF-8; convert the file (iconv) or leave it out",
                           files_[file_].path.native(), offset_ + valid);
  }
  TextPiece out{{file_, offset_, 0}, std::string(piece), last, bad_lines_};
  used_ += piece.size();
  offset_ += piece.size();
  return std::optional(std::move(out));
}

// The next line that holds a document, as `document_`. False at the file's end.
Result<bool> TextSource::ReadLine() {
  while (true) {
    size_t end = buffered().find('\n');
    if (end == std::string_view::npos && !ended_) {
      TG_RETURN_IF_ERROR(Fill(std::max<size_t>(buffered().size(), 1) + kPieceBytes));
      if (buffered().size() <= kMaxRecordLineBytes + kPieceBytes) continue;
      return ResourceExhausted("{}: the line at byte {} is longer than {} bytes",
                               files_[file_].path.native(), offset_, kMaxRecordLineBytes);
    }
    if (buffered().empty()) return false;
    const std::string_view line = buffered().substr(0, end);
    const uint64_t begin = offset_;
    const size_t size = end == std::string_view::npos ? line.size() : end + 1;
    auto text = line.find_first_not_of(" \t\r") == std::string_view::npos
                    ? Result<std::string>(std::string())
                    : TextOfLine(line);
    const bool blank = text && text->empty();
    used_ += size;
    offset_ += size;
    if (!text && !options_.skip_bad_lines) {
      return MakeError(text.error().code(), "{}; --skip-bad-lines leaves such lines out",
                       text.error().message());
    }
    if (!text) ++bad_lines_;
    if (!text || blank) continue;
    document_ = std::move(*text);
    document_used_ = 0;
    document_at_ = {file_, begin, 0};
    return true;
  }
}

// Errors name the line by the place where it begins: offset_.
Result<std::string> TextSource::TextOfLine(std::string_view line) const {
  const std::string what =
      fmt::format("{}: the line at byte {}", files_[file_].path.native(), offset_);
  TG_ASSIGN_OR_RETURN(
      nlohmann::json json,
      ParseStrictJson(line, {.max_bytes = kMaxRecordLineBytes, .max_depth = 32}, what));
  const auto it = json.is_object() ? json.find(options_.field) : json.end();
  if (!json.is_object() || it == json.end() || !it->is_string()) {
    return InvalidArgument("{} is no object with a text \"{}\"", what, options_.field);
  }
  return std::move(it->get_ref<std::string&>());
}

Result<std::optional<TextPiece>> TextSource::NextOfLines() {
  if (!in_document_) {
    TG_ASSIGN_OR_RETURN(in_document_, ReadLine());
    if (!in_document_) return std::optional<TextPiece>();
  }
  const std::string_view rest = std::string_view(document_).substr(document_used_);
  const bool last = rest.size() <= kPieceBytes;
  TextPiece out{document_at_, std::string(rest.substr(0, last ? rest.size() : CutOf(rest))), last,
                bad_lines_};
  document_used_ += out.text.size();
  ++document_at_.piece;
  in_document_ = !last;
  return std::optional(std::move(out));
}

}  // namespace tidegate::corpus
