// The ledger's bytes on disk: records in one append-only file, and how they are read again.
//
// A record is a 48-byte header (magic, kind, length, SHA-256 of the payload) and the payload,
// padded with zeros to 8 bytes. Kinds: a leaf (an encoded LedgerEntry) and a head (a signed
// checkpoint note over the leaves before it). The file is preallocated in steps; zeros end it. Pure
// functions.
#pragma once

#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"

namespace tidegate::gate {

enum class RecordKind : uint32_t { kLeaf = 1, kHead = 2 };

struct Record {
  RecordKind kind{};
  ByteSpan payload;  // into the file's bytes
  uint64_t end = 0;  // offset after the record
};

struct Scan {
  std::vector<Record> records;
  uint64_t end = 0;   // after the last whole record
  bool torn = false;  // something other than zeros follows it
};

Bytes EncodeRecord(RecordKind kind, ByteSpan payload);

// Reads whole records from the start. What follows the last one may be a write that a crash cut, as
// long as no whole record comes after it: that would be damage, kDataLoss with the offset.
Result<Scan> ScanLedger(ByteSpan file, std::string_view name);

inline constexpr uint64_t kMaxLedgerBytes = 1ull << 32;

}  // namespace tidegate::gate
