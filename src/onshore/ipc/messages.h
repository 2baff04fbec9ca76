// What the onshore processes say to each other over their inherited SEQPACKET pairs.
//
//   trainer ── gate ── link          (supervisor's control structs: control.h)
//
// A message is a fixed header and a body of at most kIpcMaxMessage together. Bodies are encoded by
// protocols' archives: the peers do not trust each other. Whatever is longer than a message goes as
// a Bulk: BEGIN, then DATA until all its bytes are there.
//
// All of it is level-triggered and idempotent: after a restart of either side (a new generation in
// its HELLO) the other says again what it knows and wants; nothing else is remembered of a dead
// peer. A message for another generation is dropped.
#pragma once

#include <cstdint>

#include "protocols/bounded.h"
#include "protocols/documents.h"
#include "protocols/limits.h"

namespace tidegate::onshore {

using protocols::Bounded;
using protocols::BoundedText;
using protocols::Hash32;
using protocols::Id16;

enum class IpcType : uint16_t {
  kHello = 1,          // both ways: I am up (again)
  kBulkBegin = 2,      // both ways
  kBulkData = 3,       // both ways
  kIsolation = 4,      // trainer, link → gate: the start-up self-test's table
  kRoundStart = 5,     // gate → trainer
  kRoundResult = 6,    // gate → trainer: what became of the update it sent
  kStop = 7,           // gate → trainer: the job has ended
  kNeedBlock = 8,      // link → gate: a ciphertext block of a released content
  kWantBlocks = 9,     // gate → link: fetch these blocks from the coordinator
  kKnown = 10,         // gate → link: what LEASE is to say
  kLinkState = 11,     // link → gate: is the coordinator connected
  kNoUpdate = 14,      // trainer → gate: this round, or this job, has none, and why
  kDataset = 15,       // trainer → gate: what it trains on, by digest
  kOfferRefused = 13,  // link → gate: the coordinator answered an OFFER or its COMMIT with ERROR
  kAskWaiting = 16,    // carrier → gate: is anything to be done before the coordinator says more
  kOutside = 18,       // trainer → gate: what it sends was trained by a program of this user
  kWaiting = 17,       // gate → carrier: the answer; after a "yes" again when it is "no"
};

// Both ways; the first message on a pair and again after each restart. `generation` is the
// sender's, `answer` tells a reply (which is not answered again).
struct IpcHello {
  uint32_t generation = 0;
  bool answer = false;
  template <class A>
  void serialize(A& ar) {
    ar(generation, answer);
  }
};

// What a Bulk carries.
enum class BulkKind : uint8_t {
  kJob = 1,      // link → gate: a JOB message's body; gate → trainer: the verified JobManifest
  kRound = 2,    // link → gate: a ROUND message's body
  kAdapter = 3,  // link → gate: an ADAPTER message's body
  kReceipt = 4,  // link → gate
  kAbandon = 5,  // link → gate
  kOffer = 6,    // gate → link: an OFFER message's body, ready to send
  kBlock = 7,    // gate → link: ciphertext block; link → gate: of an adapter or base
  kParameters = 8,  // gate → trainer: an adapter's float32 parameters, verified
  kUpdate = 9,      // trainer → gate: an encoded update
  kBase = 10,       // link → gate: a BASE message's body
  kRevoke = 11,     // link → gate: a REVOKE message's body
};
inline constexpr BulkKind kLastBulkKind = BulkKind::kRevoke;

struct BulkBegin {
  BulkKind kind = BulkKind::kJob;
  Hash32 content{};    // kBlock: content id; kParameters: the adapter manifest's digest
  uint32_t index = 0;  // kBlock: which; kParameters: the version; kUpdate: the round
  uint64_t bytes = 0;  // in all
  template <class A>
  void serialize(A& ar) {
    ar(kind, content, index, bytes);
  }
};

struct BulkData {
  uint64_t offset = 0;
  Bounded<uint8_t, protocols::kIpcMaxData> bytes;
  template <class A>
  void serialize(A& ar) {
    ar(offset, bytes);
  }
};

struct Isolation {
  BoundedText<48u << 10, true> table;  // docs/formats/isolation-statement.md
  template <class A>
  void serialize(A& ar) {
    ar(table);
  }
};

// Train round `round` from adapter version `adapter_version` (whose kParameters came before).
struct RoundStart {
  Id16 job{};
  uint32_t round = 0;
  uint8_t phase = 0;
  uint32_t adapter_version = 0;
  double norm_clip = 0;  // the lesser of policy's and job's; 0: none
  // The metrics that policy lets go along; the others are sent as 0.
  bool train_loss = false, heldout_loss = false;
  // The latest round of the job whose receipt says that the update is in the sum; 0: none. Where
  // the job feeds errors back no round starts before the receipts of those before it are here.
  uint32_t counted_round = 0;
  template <class A>
  void serialize(A& ar) {
    ar(job, round, phase, adapter_version, norm_clip, train_loss, heldout_loss, counted_round);
  }
};

// What the trainer has opened, in its own words: nobody else reads records. For the ledger, so that
// it can be told later which adapters a file has gone into.
struct Dataset {
  Id16 job{};
  Hash32 records{}, heldout{};  // SHA-256 of the files; heldout zero: none
  uint64_t records_bytes = 0;
  template <class A>
  void serialize(A& ar) {
    ar(job, records, heldout, records_bytes);
  }
};

// Instead of a Dataset, from the trainer that hands on what a client of the local API trained.
struct Outside {
  uint32_t uid = 0;
  template <class A>
  void serialize(A& ar) {
    ar(uid);
  }
};

// In a NoUpdate: of no round will there be one, for the job is not one of the site's base.
inline constexpr uint32_t kWholeJob = 0;

// A loss that is not finite, a delta that the codec cannot hold: the round is over for the site. Or
// the job is.
struct NoUpdate {
  Id16 job{};
  uint32_t round = 0;  // or kWholeJob
  uint8_t code = 0;    // base/status.h; the trainer's words do not go into the ledger
  template <class A>
  void serialize(A& ar) {
    ar(job, round, code);
  }
};

enum class RoundOutcome : uint8_t { kReleased = 1, kRefused = 2, kAbandoned = 3 };

struct RoundResult {
  Id16 job{};
  uint32_t round = 0;
  RoundOutcome outcome = RoundOutcome::kReleased;
  BoundedText<protocols::kMaxReason> reason;  // a refusal: rule, value, limit
  template <class A>
  void serialize(A& ar) {
    ar(job, round, outcome, reason);
  }
};

struct Stop {
  Id16 job{};
  uint32_t adapter_version = 0;  // final
  template <class A>
  void serialize(A& ar) {
    ar(job, adapter_version);
  }
};

struct NeedBlock {
  Hash32 content{};
  uint32_t index = 0;
  template <class A>
  void serialize(A& ar) {
    ar(content, index);
  }
};

struct WantBlocks {
  Hash32 content{};
  uint32_t first = 0, count = 0;
  bool base = false;  // of a base, beside whatever adapter is under way
  template <class A>
  void serialize(A& ar) {
    ar(content, first, count, base);
  }
};

struct Known {
  Id16 job{};
  uint32_t round = 0;
  uint32_t adapter_version = 0;
  template <class A>
  void serialize(A& ar) {
    ar(job, round, adapter_version);
  }
};

struct Waiting {
  Known known;
  bool waits = false;  // nothing is to be done without the coordinator
  template <class A>
  void serialize(A& ar) {
    ar(known, waits);
  }
};

struct LinkState {
  bool connected = false;
  template <class A>
  void serialize(A& ar) {
    ar(connected);
  }
};

// The ERROR without its text: what a coordinator writes does not come near the gate.
struct OfferRefused {
  Hash32 content{};
  uint16_t about = 0;  // protocols::MessageType: OFFER or COMMIT
  uint8_t code = 0;    // base/status.h
  template <class A>
  void serialize(A& ar) {
    ar(content, about, code);
  }
};

}  // namespace tidegate::onshore

namespace tidegate::protocols {
template <>
struct EnumRange<onshore::BulkKind> {
  static constexpr onshore::BulkKind kFirst = onshore::BulkKind::kJob;
  static constexpr onshore::BulkKind kLast = onshore::kLastBulkKind;
  static constexpr const char* kName = "bulk kind";
};
template <>
struct EnumRange<onshore::RoundOutcome> {
  static constexpr onshore::RoundOutcome kFirst = onshore::RoundOutcome::kReleased;
  static constexpr onshore::RoundOutcome kLast = onshore::RoundOutcome::kAbandoned;
  static constexpr const char* kName = "round outcome";
};
}  // namespace tidegate::protocols
