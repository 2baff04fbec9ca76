// What a ledger's leaves say. A leaf is the encoding of a LedgerEntry; its body is the encoding of
// the struct that its type names. docs/formats/ledger.md is the format.
#pragma once

#include <cstdint>
#include <string>

#include "protocols/documents.h"

namespace tidegate::gate {

using protocols::Bounded;
using protocols::BoundedText;
using protocols::Hash32;
using protocols::Id16;
using protocols::Name;

// Never reuse a number.
enum class LeafType : uint8_t {
  kOpened = 1,     // whose ledger this is
  kPolicy = 2,     // the policy in force from here on
  kIsolation = 3,  // a process' walls and self-test
  kJob = 4,        // a job that policy accepted
  kRefusal = 5,    // something that was refused
  kIntent = 6,     // an export: the debit
  kReceipt = 7,    // the coordinator's word that it has it
  kAdapter = 8,    // a shared adapter that was verified and stored
  kApproval = 9,   // an approver's release of the export that follows
  kDataset = 10,   // what the job trains on from here on, as the trainer says
  kDecision = 11,  // what an approver said of a held update over the local API
  kOutside = 12,   // the export that follows was trained by a program of this user
};
const char* LeafTypeName(LeafType type);

struct LedgerEntry {
  uint64_t index = 0;
  int64_t unix_millis = 0;
  LeafType type = LeafType::kOpened;
  Bounded<uint8_t, protocols::kMaxSignedBody> body;
  template <class A>
  void serialize(A& ar) {
    ar(index, unix_millis, type, body);
  }
};

struct OpenedLeaf {
  Id16 federation{};
  Name site;
  protocols::PublicKey site_key{}, coordinator_key{};  // Ed25519
  template <class A>
  void serialize(A& ar) {
    ar(federation, site, site_key, coordinator_key);
  }
};

struct PolicyLeaf {
  Hash32 digest{};
  Bounded<uint8_t, 64u << 10> text;  // the file as it is
  template <class A>
  void serialize(A& ar) {
    ar(digest, text);
  }
};

struct IsolationLeaf {
  BoundedText<16> process;
  BoundedText<64u << 10, true> statement;
  template <class A>
  void serialize(A& ar) {
    ar(process, statement);
  }
};

struct JobLeaf {
  Id16 job{};
  Name name;
  Hash32 base_hash{}, layout_digest{}, policy{};
  uint32_t rounds = 0;
  template <class A>
  void serialize(A& ar) {
    ar(job, name, base_hash, layout_digest, policy, rounds);
  }
};

struct RefusalLeaf {
  // "job", "round", "adapter", "update", "receipt"; "release": the coordinator refused it for good
  BoundedText<16> what;
  Id16 job{};
  uint32_t round = 0;
  BoundedText<32> rule;
  BoundedText<protocols::kMaxReason> reason;  // value and limit
  template <class A>
  void serialize(A& ar) {
    ar(what, job, round, rule, reason);
  }
};

struct IntentLeaf {
  protocols::UpdateKey key;
  Hash32 plaintext{}, content{}, policy{};
  uint64_t ciphertext_bytes = 0;
  uint64_t values = 0;
  double capacity_bits = 0;  // the most that integers, weight and losses could carry
  double l2_norm = 0;
  uint32_t weight = 0;
  uint32_t train_loss_milli = 0, heldout_loss_milli = 0;
  Hash32 release{};  // SHA-256 of the ReleaseManifest: the one that this intent lets be signed
  template <class A>
  void serialize(A& ar) {
    ar(key, plaintext, content, policy, ciphertext_bytes, values, capacity_bits, l2_norm, weight,
       train_loss_milli, heldout_loss_milli, release);
  }
};

struct ReceiptLeaf {
  protocols::Signed receipt;
  template <class A>
  void serialize(A& ar) {
    ar(receipt);
  }
};

struct ApprovalLeaf {
  protocols::Signed approval;  // gate/approval.h
  template <class A>
  void serialize(A& ar) {
    ar(approval);
  }
};

struct DatasetLeaf {
  Id16 job{};
  Hash32 records{}, heldout{};  // SHA-256 of the files; heldout zero: none
  uint64_t records_bytes = 0;
  template <class A>
  void serialize(A& ar) {
    ar(job, records, heldout, records_bytes);
  }
};

enum class Decision : uint8_t { kRelease = 1, kRefuse = 2 };

// Who said it is what the kernel told the supervisor of the client's end of the socket.
struct DecisionLeaf {
  protocols::UpdateKey key;
  Hash32 plaintext{};
  Decision decision = Decision::kRefuse;
  Name approver;  // as policy names the user
  uint32_t uid = 0;
  BoundedText<200> reason;
  template <class A>
  void serialize(A& ar) {
    ar(key, plaintext, decision, approver, uid, reason);
  }
};

// An update that a client of the local API handed over, not one of the site's own trainer.
struct OutsideLeaf {
  protocols::UpdateKey key;
  Hash32 plaintext{};
  uint32_t uid = 0;
  template <class A>
  void serialize(A& ar) {
    ar(key, plaintext, uid);
  }
};

struct AdapterLeaf {
  Id16 job{};
  uint32_t version = 0;
  bool final = false;
  Hash32 manifest{}, content{};
  template <class A>
  void serialize(A& ar) {
    ar(job, version, final, manifest, content);
  }
};

}  // namespace tidegate::gate

namespace tidegate::protocols {
template <>
struct EnumRange<gate::LeafType> {
  static constexpr gate::LeafType kFirst = gate::LeafType::kOpened;
  static constexpr gate::LeafType kLast = gate::LeafType::kOutside;
  static constexpr const char* kName = "leaf type";
};
template <>
struct EnumRange<gate::Decision> {
  static constexpr gate::Decision kFirst = gate::Decision::kRelease;
  static constexpr gate::Decision kLast = gate::Decision::kRefuse;
  static constexpr const char* kName = "decision";
};
}  // namespace tidegate::protocols
