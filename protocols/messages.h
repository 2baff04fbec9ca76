// The messages between a site's link and the coordinator: one table for good (README.md).
//
// Two connections a site or more, all dialled by link to the coordinator's one port: one for
// control, one for bulk, and more stripes of bulk where a site asks for them.
// What link itself says are the fixed-size structs without text (HELLO, WANT, CREDIT, HAVE, COMMIT,
// LEASE); OFFER carries the gate's signed bytes, CHUNK carries ciphertext.
#pragma once

#include <cstdint>
#include <span>

#include "protocols/bounded.h"
#include "protocols/codec.h"
#include "protocols/documents.h"
#include "protocols/limits.h"

namespace tidegate::protocols {

enum class Channel : uint8_t { kControl = 1, kBulk = 2 };
template <>
struct EnumRange<Channel> {
  static constexpr Channel kFirst = Channel::kControl, kLast = Channel::kBulk;
  static constexpr const char* kName = "channel";
};

using FixedName = std::array<uint8_t, kMaxName>;  // ASCII, zero-padded

// First on each connection, both ways. The coordinator answers with its own `site` zeroed.
struct Hello {
  FixedName site{};  // must be the site whose CURVE key the connection has
  Channel channel = Channel::kControl;
  uint8_t stripe = 0;         // bulk: 0 … kMaxStripes − 1, one connection each; control: 0
  uint64_t session = 0;       // random; all connections of one link carry the same
  uint32_t lease_millis = 0;  // coordinator: say LEASE at least this often; link: 0
  bool operator==(const Hello&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(site, channel, stripe, session, lease_millis);
  }
};

// coordinator → link. JOB, ROUND, ADAPTER, RECEIPT, ABANDON each carry one signed document.
struct Job {
  Signed manifest;  // JobManifest
  bool operator==(const Job&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(manifest);
  }
};
struct Round {
  Signed announcement;  // RoundAnnouncement
  bool operator==(const Round&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(announcement);
  }
};
struct AdapterOffer {
  Signed manifest;  // AdapterManifest
  bool operator==(const AdapterOffer&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(manifest);
  }
};
struct ReceiptMessage {
  Signed receipt;  // Receipt
  bool operator==(const ReceiptMessage&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(receipt);
  }
};
struct Abandon {
  Signed notice;  // AbandonNotice
  bool operator==(const Abandon&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(notice);
  }
};

// link → coordinator: an update is ready. The answer is HAVE + WANT, or the RECEIPT it already
// has, or ERROR.
struct Offer {
  Signed release;                               // ReleaseManifest
  BoundedText<kMaxHeadNote, true> ledger_head;  // signed note that covers the intent leaf
  bool operator==(const Offer&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(release, ledger_head);
  }
};

// Receiver → sender: send blocks [first, first + count) of a content, at most `credit_bytes` more
// than what CREDIT has allowed so far.
struct Want {
  Hash32 content{};
  uint32_t first = 0, count = 0;
  uint64_t credit_bytes = 0;
  bool operator==(const Want&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(content, first, count, credit_bytes);
  }
};

// Receiver → sender: this many more bytes of this content may be under way.
struct Credit {
  Hash32 content{};
  uint64_t bytes = 0;
  bool operator==(const Credit&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(content, bytes);
  }
};

// Receiver → sender: blocks verified and stored durably, a bit a block (bit i of byte i/8).
struct Have {
  Hash32 content{};
  uint32_t blocks = 0;
  Bounded<uint8_t, kMaxBlocks / 8> bitmap;
  bool operator==(const Have&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(content, blocks, bitmap);
  }
};

// Sender → receiver: all blocks are with you; take the content as a whole.
struct Commit {
  Hash32 content{};
  bool operator==(const Commit&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(content);
  }
};

// Both ways, on control: alive, and what I know. A side that sees the other behind sends again.
struct Lease {
  uint64_t session = 0;
  Id16 job{};
  uint32_t round = 0;             // latest announced / known
  uint32_t adapter_version = 0;   // latest published / held whole
  uint32_t come_back_millis = 0;  // coordinator: when to say LEASE next
  bool operator==(const Lease&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(session, job, round, adapter_version, come_back_millis);
  }
};

// Why a message was refused. Codes are base/status.h's. Text from the coordinator only.
struct ErrorMessage {
  uint8_t code = 0;
  uint16_t about = 0;  // MessageType
  Hash32 content{};    // when it is about a content, else zero
  BoundedText<kMaxErrorText> text;
  bool operator==(const ErrorMessage&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(code, about, content, text);
  }
};

// CHUNK is not encoded: content id (32), block index (4), block length (4), then the block's bytes.
struct Chunk {
  Hash32 content{};
  uint32_t index = 0;
  std::span<const uint8_t> bytes;
};
std::vector<uint8_t> EncodeChunk(const Chunk& chunk);
// EncodeChunk in its frame, with one copy of the block less.
std::vector<uint8_t> FrameChunk(const Id16& federation, uint64_t sequence, const Chunk& chunk);
Decoded<Chunk> DecodeChunk(std::span<const uint8_t> body);  // bytes point into body

}  // namespace tidegate::protocols
