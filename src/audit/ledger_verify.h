// Offline verification of a ledger file, and its leaves as text. For the auditor: needs no key of
// the site, no process of ours running. Pure functions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "crypto/sign.h"
#include "gate/ledger_entry.h"

namespace tidegate::audit {

struct Verification {
  uint64_t leaves = 0;
  std::string site;
  crypto::VerifyKey site_key;
  uint64_t exports = 0, export_bytes = 0, refusals = 0, receipts = 0;
  // With a foreign head: how many leaves it covers.
  std::optional<uint64_t> head_covers;
};

// Every record whole, every leaf in order, every head signed by the site and over exactly the
// leaves before it, the last head over all; every receipt in it signed by the coordinator it names.
// With `receipt` (an encoded Signed Receipt) that `coordinator_key` signed: the head it
// countersigns must be a prefix of this log, so nothing before it was cut or rewritten. kDataLoss
// or kUnauthenticated name what does not fit.
Result<Verification> VerifyLedger(ByteSpan file, std::string_view name,
                                  const std::optional<crypto::VerifyKey>& coordinator_key,
                                  const std::optional<Bytes>& receipt);

// All leaves, decoded.
Result<std::vector<gate::LedgerEntry>> ReadLedger(ByteSpan file, std::string_view name);
// One line for a person: "17 2026-11-25T… intent round=3 bytes=… bits=… content=…".
std::string LeafText(const gate::LedgerEntry& entry);

}  // namespace tidegate::audit
