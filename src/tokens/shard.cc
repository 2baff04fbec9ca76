#include "tokens/shard.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>

namespace tidegate::tokens {
namespace {

// Little-endian, as all of the file. 128 bytes, what is not named is zero:
//   0 "TGTOKENS"  8 version u32  12 bytes a token u32  16 tokens u64  24 documents u64
//   32 tokenizer u64  40 vocabulary u32  44 end of text i32  48 checksum u64  120 header's XXH64
constexpr std::string_view kMagic = "TGTOKENS";
constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderBytes = 128;
constexpr size_t kBufferBytes = 1 << 20;

// The table of documents is aligned.
uint64_t TableOffset(const ShardFacts& facts, int token_bytes) {
  return kHeaderBytes + (facts.tokens * static_cast<uint64_t>(token_bytes) + 7) / 8 * 8;
}

std::array<uint8_t, kHeaderBytes> EncodeHeader(const ShardKind& kind, const ShardFacts& facts) {
  std::array<uint8_t, kHeaderBytes> header{};
  std::copy(kMagic.begin(), kMagic.end(), header.begin());
  StoreLe32(&header[8], kVersion);
  StoreLe32(&header[12], static_cast<uint32_t>(kind.token_bytes()));
  StoreLe64(&header[16], facts.tokens);
  StoreLe64(&header[24], facts.documents);
  StoreLe64(&header[32], kind.tokenizer);
  StoreLe32(&header[40], kind.vocab_size);
  StoreLe32(&header[44], static_cast<uint32_t>(kind.end_of_text));
  StoreLe64(&header[48], facts.checksum);
  StoreLe64(&header[120], ChecksumOf(ByteSpan(header).first(120)));
  return header;
}

}  // namespace

Result<ShardWriter> ShardWriter::Create(const std::filesystem::path& path, const ShardKind& kind) {
  if (kind.vocab_size == 0 || kind.end_of_text >= static_cast<int64_t>(kind.vocab_size)) {
    return InvalidArgument("{}: a vocabulary of {} ids with the end of text {}", path.native(),
                           kind.vocab_size, kind.end_of_text);
  }
  const std::string temporary = path.native() + ".tmp";
  ::unlink(temporary.c_str());  // of a run that was cut
  Fd fd(::open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd.valid()) return Unexpected(ErrnoStatus("create", temporary, errno));
  ShardWriter writer(std::move(fd), path, kind);
  // The header's place; what stands there until the end is no header.
  const std::array<uint8_t, kHeaderBytes> none{};
  TG_RETURN_IF_ERROR(WriteAll(writer.fd_.get(), none, temporary));
  return writer;
}

Status ShardWriter::Append(std::span<const int32_t> ids) {
  if (ids.size() > kMaxShardTokens - facts_.tokens) {
    return ResourceExhausted("{}: more than {} tokens in a shard", path_.native(), kMaxShardTokens);
  }
  const auto token_bytes = static_cast<size_t>(kind_.token_bytes());
  for (const int32_t id : ids) {
    if (id < 0 || static_cast<uint32_t>(id) >= kind_.vocab_size) {
      return InvalidArgument("{}: the id {} is outside the vocabulary of {}", path_.native(), id,
                             kind_.vocab_size);
    }
    for (size_t i = 0; i < token_bytes; ++i) {
      buffer_.push_back(static_cast<uint8_t>(static_cast<uint32_t>(id) >> (8 * i)));
    }
    if (buffer_.size() >= kBufferBytes) TG_RETURN_IF_ERROR(Flush());
  }
  facts_.tokens += ids.size();
  return OkStatus();
}

void ShardWriter::EndDocument() {
  if (facts_.tokens > (ends_.empty() ? 0 : ends_.back())) ends_.push_back(facts_.tokens);
}

Status ShardWriter::Flush() {
  checksum_.Add(buffer_);
  TG_RETURN_IF_ERROR(WriteAll(fd_.get(), buffer_, path_.native() + ".tmp"));
  buffer_.clear();
  return OkStatus();
}

Result<ShardFacts> ShardWriter::Finish() {
  if (facts_.tokens == 0) return FailedPrecondition("{}: a shard of no tokens", path_.native());
  EndDocument();  // its last document may go on in the next shard
  facts_.documents = ends_.size();
  const uint64_t table = TableOffset(facts_, kind_.token_bytes());
  const uint64_t data = kHeaderBytes + facts_.tokens * static_cast<uint64_t>(kind_.token_bytes());
  buffer_.insert(buffer_.end(), table - data, 0);
  for (const uint64_t end : ends_) {
    uint8_t bytes[8];
    StoreLe64(bytes, end);
    buffer_.insert(buffer_.end(), bytes, bytes + 8);
    if (buffer_.size() >= kBufferBytes) TG_RETURN_IF_ERROR(Flush());
  }
  TG_RETURN_IF_ERROR(Flush());
  facts_.checksum = checksum_.Value();
  facts_.bytes = table + 8 * facts_.documents;
  const auto header = EncodeHeader(kind_, facts_);
  const std::string temporary = path_.native() + ".tmp";
  if (::pwrite(fd_.get(), header.data(), header.size(), 0) != static_cast<ssize_t>(header.size())) {
    return Unexpected(ErrnoStatus("write", temporary, errno));
  }
  if (::fsync(fd_.get()) != 0) {
    const int error = errno;
    ::unlink(temporary.c_str());  // what is on disk is not known
    return Unexpected(ErrnoStatus("fsync", temporary, error));
  }
  if (::rename(temporary.c_str(), path_.c_str()) != 0) {
    return Unexpected(ErrnoStatus("rename to", path_.native(), errno));
  }
  TG_RETURN_IF_ERROR(SyncDirectory(path_.parent_path()));
  return facts_;
}

Result<Shard> Shard::Open(const std::filesystem::path& path) {
  TG_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  Shard shard(std::move(file), path);
  TG_RETURN_IF_ERROR(shard.ReadHeader());
  TG_RETURN_IF_ERROR(shard.CheckDocuments());
  return shard;
}

Status Shard::ReadHeader() {
  const ByteSpan bytes = file_.bytes();
  if (bytes.size() < kHeaderBytes || AsText(bytes.first(8)) != kMagic) {
    return InvalidArgument("{} is no token shard; `tidegate tokenizer encode` makes them",
                           path_.native());
  }
  const uint8_t* header = bytes.data();
  if (LoadLe64(header + 120) != ChecksumOf(bytes.first(120))) {
    return DataLoss("{}: the header is damaged; encode the text again", path_.native());
  }
  if (LoadLe32(header + 8) != kVersion) {
    return Unsupported("{} has version {} of the format, this build reads {}", path_.native(),
                       LoadLe32(header + 8), kVersion);
  }
  facts_.tokens = LoadLe64(header + 16);
  facts_.documents = LoadLe64(header + 24);
  facts_.checksum = LoadLe64(header + 48);
  facts_.bytes = bytes.size();
  kind_.tokenizer = LoadLe64(header + 32);
  kind_.vocab_size = LoadLe32(header + 40);
  kind_.end_of_text = static_cast<int32_t>(LoadLe32(header + 44));
  const bool sane = facts_.tokens > 0 && facts_.tokens <= kMaxShardTokens && facts_.documents > 0 &&
                    facts_.documents <= facts_.tokens && kind_.vocab_size > 0 &&
                    kind_.end_of_text >= -1 &&
                    kind_.end_of_text < static_cast<int64_t>(kind_.vocab_size) &&
                    LoadLe32(header + 12) == static_cast<uint32_t>(kind_.token_bytes());
  if (!sane) return DataLoss("{}: the header's numbers cannot be", path_.native());
  const uint64_t table = TableOffset(facts_, kind_.token_bytes());
  if (bytes.size() != table + 8 * facts_.documents) {
    return DataLoss("{} has {} bytes, its header speaks of {}; it was cut or changed",
                    path_.native(), bytes.size(), table + 8 * facts_.documents);
  }
  table_ = static_cast<size_t>(table);
  return OkStatus();
}

Status Shard::CheckDocuments() const {
  uint64_t before = 0;
  for (uint64_t i = 0; i < facts_.documents; ++i) {
    const uint64_t end = DocumentEnd(i);
    if (end <= before || end > facts_.tokens) {
      return DataLoss("{}: the table of documents is damaged at {}", path_.native(), i);
    }
    before = end;
  }
  if (before == facts_.tokens) return OkStatus();
  return DataLoss("{}: the table of documents ends before the tokens do", path_.native());
}

Status Shard::Verify() const {
  if (ChecksumOf(file_.bytes().subspan(kHeaderBytes)) == facts_.checksum) return OkStatus();
  return DataLoss("{} is not what was written: its checksum differs; encode the text again",
                  path_.native());
}

Status Shard::Read(uint64_t first, std::span<int32_t> out) const {
  assert(first <= facts_.tokens && out.size() <= facts_.tokens - first);
  const auto token_bytes = static_cast<size_t>(kind_.token_bytes());
  const uint8_t* at = file_.bytes().data() + kHeaderBytes + first * token_bytes;
  for (size_t i = 0; i < out.size(); ++i, at += token_bytes) {
    const uint32_t id = token_bytes == 2 ? LoadLe16(at) : LoadLe32(at);
    if (id >= kind_.vocab_size) {
      return DataLoss("{}: token {} is {}, outside the vocabulary of {}", path_.native(), first + i,
                      id, kind_.vocab_size);
    }
    out[i] = static_cast<int32_t>(id);
  }
  return OkStatus();
}

uint64_t Shard::DocumentEnd(uint64_t document) const {
  assert(document < facts_.documents);
  return LoadLe64(file_.bytes().data() + table_ + 8 * document);
}

}  // namespace tidegate::tokens
