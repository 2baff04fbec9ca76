#include "gate/ledger_file.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "crypto/hash.h"

namespace tidegate::gate {
namespace {

constexpr uint32_t kRecordMagic = 0x524c4754;  // "TGLR"
constexpr size_t kRecordHeader = 48;
constexpr size_t kMaxPayload = 2u << 20;
// Hashed at most in search of whole records behind a damaged one. What a crash cut has two headers.
constexpr uint64_t kMaxSearched = 64 * kMaxPayload;

size_t Padded(size_t size) { return (size + 7) / 8 * 8; }

// The whole record at `at`, if there is one.
std::optional<Record> RecordAt(ByteSpan file, uint64_t at) {
  if (at + kRecordHeader > file.size()) return std::nullopt;
  const uint8_t* p = file.data() + at;
  const uint32_t kind = LoadLe32(p + 4);
  const uint64_t length = LoadLe64(p + 8);
  if (LoadLe32(p) != kRecordMagic || (kind != 1 && kind != 2) || length > kMaxPayload ||
      at + kRecordHeader + Padded(length) > file.size()) {
    return std::nullopt;
  }
  const ByteSpan payload = file.subspan(at + kRecordHeader, length);
  const Digest digest = crypto::Sha256::Of(payload);
  if (std::memcmp(digest.data(), p + 16, digest.size()) != 0) return std::nullopt;
  const ByteSpan padding = file.subspan(at + kRecordHeader + length, Padded(length) - length);
  if (std::any_of(padding.begin(), padding.end(), [](uint8_t b) { return b != 0; })) {
    return std::nullopt;
  }
  return Record{static_cast<RecordKind>(kind), payload, at + kRecordHeader + Padded(length)};
}

}  // namespace

Bytes EncodeRecord(RecordKind kind, ByteSpan payload) {
  Bytes out(kRecordHeader + Padded(payload.size()), 0);
  StoreLe32(out.data(), kRecordMagic);
  StoreLe32(out.data() + 4, static_cast<uint32_t>(kind));
  StoreLe64(out.data() + 8, payload.size());
  const Digest digest = crypto::Sha256::Of(payload);
  std::copy(digest.begin(), digest.end(), out.begin() + 16);
  std::copy(payload.begin(), payload.end(), out.begin() + kRecordHeader);
  return out;
}

Result<Scan> ScanLedger(ByteSpan file, std::string_view name) {
  Scan scan;
  while (const auto record = RecordAt(file, scan.end)) {
    scan.records.push_back(*record);
    scan.end = record->end;
  }
  const ByteSpan rest = file.subspan(scan.end);
  scan.torn = std::any_of(rest.begin(), rest.end(), [](uint8_t b) { return b != 0; });
  if (!scan.torn) return scan;
  uint64_t searched = 0;
  for (uint64_t at = scan.end + 8; at + kRecordHeader <= file.size(); at += 8) {
    if (LoadLe32(file.data() + at) != kRecordMagic) continue;
    searched += std::min<uint64_t>(LoadLe64(file.data() + at + 8), kMaxPayload);
    if (RecordAt(file, at)) {
      return DataLoss("{} is damaged at offset {}: whole records follow it", name, scan.end);
    }
    if (searched > kMaxSearched) {
      return DataLoss("{} is damaged at offset {}: headers of records follow it without end", name,
                      scan.end);
    }
  }
  return scan;
}

}  // namespace tidegate::gate
