#include "runlog/event_file.h"

#include <fcntl.h>
#include <nmmintrin.h>

#include <bit>
#include <cerrno>
#include <charconv>

namespace tidegate::runlog {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "events.out.tfevents.";
constexpr std::string_view kSuffix = ".tidegate";
constexpr std::string_view kFileVersion = "brain.Event:2";

// Fields of tensorflow/core/util/event.proto and framework/summary.proto.
constexpr uint32_t kWallTime = 1, kStep = 2, kVersion = 3, kSummary = 5, kSessionLog = 7;
constexpr uint32_t kSummaryValue = 1, kValueTag = 1, kSimpleValue = 2;
constexpr uint32_t kSessionStatus = 1;
constexpr uint64_t kSessionStart = 1;

enum WireType : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// TensorFlow masks the CRC of data that may itself hold CRCs.
uint32_t MaskedCrc(ByteSpan bytes) {
  uint32_t crc = ~0u;
  for (const uint8_t byte : bytes) crc = _mm_crc32_u8(crc, byte);
  crc = ~crc;
  return std::rotr(crc, 15) + 0xa282ead8u;
}

void AddVarint(uint64_t value, Bytes* out) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<uint8_t>(value | 0x80));
  out->push_back(static_cast<uint8_t>(value));
}

void AddKey(uint32_t field, WireType type, Bytes* out) { AddVarint(field << 3 | type, out); }

template <typename Word>
void AddFixed(Word word, Bytes* out) {
  for (size_t i = 0; i < sizeof(word); ++i) out->push_back(static_cast<uint8_t>(word >> (8 * i)));
}

void AddBytes(uint32_t field, ByteSpan bytes, Bytes* out) {
  AddKey(field, kBytes, out);
  AddVarint(bytes.size(), out);
  out->insert(out->end(), bytes.begin(), bytes.end());
}

Bytes SummaryOf(std::span<const Scalar> scalars) {
  Bytes summary;
  for (const Scalar& scalar : scalars) {
    Bytes value;
    AddBytes(kValueTag, AsBytes(scalar.tag), &value);
    AddKey(kSimpleValue, kFixed32, &value);
    AddFixed(std::bit_cast<uint32_t>(static_cast<float>(scalar.value)), &value);
    AddBytes(kSummaryValue, value, &summary);
  }
  return summary;
}

// Removes what a start after a later step wrote. Names that are not ours stay.
Status RemoveLater(const fs::path& dir, int64_t last_step) {
  std::error_code error;
  fs::directory_iterator it(dir, error), end;
  for (; !error && it != end; it.increment(error)) {
    const std::string file = it->path().filename().native();
    if (!file.starts_with(kPrefix) || !file.ends_with(kSuffix)) continue;
    int64_t step = 0;
    const char* stop = file.data() + file.size() - kSuffix.size();
    const auto [at, bad] = std::from_chars(file.data() + kPrefix.size(), stop, step);
    if (bad != std::errc() || at != stop || step <= last_step) continue;
    fs::remove(it->path(), error);
    if (error) return ErrnoStatus("remove", it->path().native(), error.value());
  }
  return error ? ErrnoStatus("list", dir.native(), error.value()) : OkStatus();
}

}  // namespace

Bytes EventRecord(ByteSpan data) {
  Bytes record;
  AddFixed(static_cast<uint64_t>(data.size()), &record);
  AddFixed(MaskedCrc(record), &record);
  record.insert(record.end(), data.begin(), data.end());
  AddFixed(MaskedCrc(data), &record);
  return record;
}

Result<EventFile> EventFile::Open(const fs::path& dir, int64_t last_step, const Clock& clock) {
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) return Unexpected(ErrnoStatus("create", dir.native(), error.value()));
  TG_RETURN_IF_ERROR(RemoveLater(dir, last_step));
  const fs::path path = dir / fmt::format("{}{:08d}{}", kPrefix, last_step, kSuffix);
  Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644));
  if (!fd.valid()) return Unexpected(ErrnoStatus("create", path.native(), errno));
  EventFile file(std::move(fd), path.native(), clock);
  Bytes what;
  AddBytes(kVersion, AsBytes(kFileVersion), &what);
  TG_RETURN_IF_ERROR(file.WriteEvent(0, what));
  if (last_step > 0) {
    Bytes status;
    AddKey(kSessionStatus, kVarint, &status);
    AddVarint(kSessionStart, &status);
    what.clear();
    AddBytes(kSessionLog, status, &what);
    TG_RETURN_IF_ERROR(file.WriteEvent(last_step + 1, what));
  }
  return file;
}

Status EventFile::Write(int64_t step, std::span<const Scalar> scalars) {
  Bytes what;
  AddBytes(kSummary, SummaryOf(scalars), &what);
  return WriteEvent(step, what);
}

Status EventFile::WriteEvent(int64_t step, ByteSpan what) {
  Bytes event;
  const double seconds = static_cast<double>(clock_->UnixMillis()) / 1000.0;
  AddKey(kWallTime, kFixed64, &event);
  AddFixed(std::bit_cast<uint64_t>(seconds), &event);
  if (step != 0) {
    AddKey(kStep, kVarint, &event);
    AddVarint(static_cast<uint64_t>(step), &event);
  }
  event.insert(event.end(), what.begin(), what.end());
  return WriteAll(fd_.get(), EventRecord(event), name_);
}

}  // namespace tidegate::runlog
