// The signed documents of a federation: what their signers stand for, whoever carries them.
//
// A Signed holds the encoded document and an Ed25519 signature over
// domain || 0x00 || body, with the domain of its kind (crypto/sign.h, domains). Verify the bytes
// first, then decode them. See documents.md for the byte tables and who may sign what.
#pragma once

#include <cstdint>

#include "protocols/bounded.h"
#include "protocols/codec.h"
#include "protocols/limits.h"

namespace tidegate::protocols {

struct Signed {
  Bounded<uint8_t, kMaxSignedBody> body;
  Signature signature{};
  bool operator==(const Signed&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(body, signature);
  }
};

// How an update's floats became what crosses (protocols/update.h).
enum class Codec : uint8_t { kFixed32 = 1, kInt8 = 2, kBf16 = 3, kInt4 = 4 };
template <>
struct EnumRange<Codec> {
  static constexpr Codec kFirst = Codec::kFixed32, kLast = Codec::kInt4;
  static constexpr const char* kName = "codec";
};

// How a site rounds to its codec's numbers: to the nearest, or up or down by chance so that the
// mean is the value itself. No reader of an update needs to know.
enum class Rounding : uint8_t { kNearest = 1, kStochastic = 2 };
template <>
struct EnumRange<Rounding> {
  static constexpr Rounding kFirst = Rounding::kNearest, kLast = Rounding::kStochastic;
  static constexpr const char* kName = "rounding";
};

// What a site trains and what it shares of it: protocols/strategy.h has the groups.
enum class Strategy : uint8_t { kFedIt = 1, kFfaLora = 2, kRoLora = 3, kFedSaLora = 4 };
template <>
struct EnumRange<Strategy> {
  static constexpr Strategy kFirst = Strategy::kFedIt, kLast = Strategy::kFedSaLora;
  static constexpr const char* kName = "strategy";
};

// How the mean of a round becomes the next version: src/federation/rounds/server_optimizer.h.
enum class ServerOptimizer : uint8_t { kFedAvg = 1, kFedAvgM = 2, kFedAdam = 3, kFedYogi = 4 };
template <>
struct EnumRange<ServerOptimizer> {
  static constexpr ServerOptimizer kFirst = ServerOptimizer::kFedAvg;
  static constexpr ServerOptimizer kLast = ServerOptimizer::kFedYogi;
  static constexpr const char* kName = "server optimizer";
};

// What becomes of an update that came too late: nothing, or the site adds it to its next one.
enum class LateRule : uint8_t { kDiscard = 1, kCarry = 2 };
template <>
struct EnumRange<LateRule> {
  static constexpr LateRule kFirst = LateRule::kDiscard, kLast = LateRule::kCarry;
  static constexpr const char* kName = "late rule";
};

// How a site holds the base's frozen weights while it trains; NF4 with double quantization.
enum class HeldBase : uint8_t { kAsItIs = 1, kInt8 = 2, kNf4 = 3 };
template <>
struct EnumRange<HeldBase> {
  static constexpr HeldBase kFirst = HeldBase::kAsItIs, kLast = HeldBase::kNf4;
  static constexpr const char* kName = "held base";
};

enum class Scheduler : uint8_t { kConstant = 1, kLinear = 2, kCosine = 3 };
template <>
struct EnumRange<Scheduler> {
  static constexpr Scheduler kFirst = Scheduler::kConstant, kLast = Scheduler::kCosine;
  static constexpr const char* kName = "scheduler";
};

// A site's weight in the sum: 1, or its trained tokens in the round up to the job's bound.
enum class Weighting : uint8_t { kEqual = 1, kTokens = 2 };
template <>
struct EnumRange<Weighting> {
  static constexpr Weighting kFirst = Weighting::kEqual, kLast = Weighting::kTokens;
  static constexpr const char* kName = "weighting";
};

// The pinned set of algorithms. 1: X25519, HKDF-SHA256, AES-256-GCM, Ed25519, SHA-256.
enum class SuiteId : uint8_t { kTg1 = 1 };
template <>
struct EnumRange<SuiteId> {
  static constexpr SuiteId kFirst = SuiteId::kTg1, kLast = SuiteId::kTg1;
  static constexpr const char* kName = "suite";
};

// One tensor of the layout, in layout order. `group` numbers the subset it belongs to (0: A, 1: B);
// a phase shares the groups whose bits it names.
struct LayoutTensor {
  BoundedText<kMaxTensorName> name;
  uint32_t rows = 0, cols = 0;
  uint8_t group = 0;
  bool operator==(const LayoutTensor&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(name, rows, cols, group);
  }
};

// The layout digest is SHA-256 of Encode(Layout).
struct Layout {
  Bounded<LayoutTensor, kMaxTensors> tensors;
  bool operator==(const Layout&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(tensors);
  }
};

// Signed by the coordinator. Its JobId is the first 16 bytes of SHA-256 of the encoded body.
struct JobManifest {
  Id16 federation{};
  Name name;
  int64_t created_unix_millis = 0;
  Hash32 base_hash{};  // docs/formats/base.md: the identity of the base model's files
  Layout layout;
  uint32_t lora_r = 0;
  double lora_alpha = 0;
  double lora_dropout = 0;
  uint8_t lora_targets = 0;  // bit i: module i of q k v o gate up down
  // > 0: each site trains a second adapter of this rank beside the shared one, on the same modules
  // and with the same scale, and keeps it.
  uint32_t local_lora_r = 0;
  HeldBase held_base = HeldBase::kAsItIs;
  Strategy strategy = Strategy::kFedIt;
  double proximal_mu = 0;  // FedProx: mu/2 · |shared − the round's start|² in the site's loss
  ServerOptimizer server_optimizer = ServerOptimizer::kFedAvg;
  double server_learning_rate = 1.0;
  double server_beta1 = 0;  // FedAvgM's momentum, FedAdam's and FedYogi's β1; 0 for FedAvg
  double server_beta2 = 0;  // FedAdam's and FedYogi's; 0 for the others
  double server_tau = 0;    // likewise
  Weighting weighting = Weighting::kEqual;
  uint32_t max_weight = 1;
  Codec codec = Codec::kInt8;
  Rounding rounding = Rounding::kNearest;
  bool error_feedback = false;  // a site adds to a round what the codec lost of the ones before
  LateRule late = LateRule::kDiscard;
  SuiteId suite = SuiteId::kTg1;
  // Round r (from 1) runs phase (r − 1) mod size; each is a bit set of the layout's groups.
  Bounded<uint8_t, kMaxPhases> phase_groups;
  uint32_t rounds = 0;
  uint32_t local_steps = 0;
  uint32_t batch_size = 0;
  uint32_t gradient_accumulation_steps = 1;
  uint32_t max_length = 0;
  bool packing = false;
  bool assistant_only_loss = true;
  Scheduler scheduler = Scheduler::kLinear;
  uint32_t warmup_steps = 0;
  double learning_rate = 0;
  double weight_decay = 0;
  double max_grad_norm = 1.0;
  double norm_clip = 0;  // L2 of the delta a site sends; 0: none asked by the job
  uint64_t seed = 0;
  uint32_t quorum = 1;           // at the deadline, fewer updates abandon the round
  uint32_t target_updates = 0;   // so many end the round at once; 0: those of all that were asked
  uint32_t sites_per_round = 0;  // so many are asked, drawn by seed and round; 0: all
  uint64_t round_deadline_millis = 0;
  Bounded<Name, kMaxSites> sites;
  bool operator==(const JobManifest&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(federation, name, created_unix_millis, base_hash, layout, lora_r, lora_alpha, lora_dropout,
       lora_targets, local_lora_r, held_base, strategy, proximal_mu, server_optimizer,
       server_learning_rate, server_beta1, server_beta2, server_tau, weighting, max_weight, codec,
       rounding, error_feedback, late, suite, phase_groups, rounds, local_steps, batch_size,
       gradient_accumulation_steps, max_length, packing, assistant_only_loss, scheduler,
       warmup_steps, learning_rate, weight_decay, max_grad_norm, norm_clip, seed, quorum,
       target_updates, sites_per_round, round_deadline_millis, sites);
  }
};

// Signed by the coordinator: round `round` (from 1) of a job is open. It starts from the adapter
// version named here; version 0 is the job's initial adapter, which is content like any other.
struct RoundAnnouncement {
  Id16 job{};
  uint32_t round = 0;
  uint8_t phase = 0;
  PublicKey recipient{};  // X25519, of this round alone, deleted after its commit
  uint32_t adapter_version = 0;
  Hash32 adapter_manifest{};  // SHA-256 of the adapter manifest's body
  int64_t deadline_unix_millis = 0;
  bool operator==(const RoundAnnouncement&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(job, round, phase, recipient, adapter_version, adapter_manifest, deadline_unix_millis);
  }
};

// Signed by the coordinator: a version of the shared adapter. The content is the float32
// little-endian parameters of the whole layout, in order, cut into blocks of kBlockBytes.
struct AdapterManifest {
  Id16 job{};
  uint32_t version = 0;  // rounds aggregated so far; never goes back
  bool final = false;    // the job has ended with this version
  Hash32 base_hash{};
  Hash32 layout_digest{};
  uint64_t content_bytes = 0;
  Hash32 content{};                    // SHA-256 over the concatenated block ids
  Bounded<Hash32, kMaxBlocks> blocks;  // SHA-256 of each block
  bool operator==(const AdapterManifest&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(job, version, final, base_hash, layout_digest, content_bytes, content, blocks);
  }
};

// What an update is, for exactly-once.
struct UpdateKey {
  Id16 job{};
  uint32_t round = 0;
  uint8_t phase = 0;
  Name site;
  bool operator==(const UpdateKey&) const = default;
  auto operator<=>(const UpdateKey&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(job, round, phase, site);
  }
};

// Signed by the site's gate: this ciphertext may leave. See src/permit.
struct ReleaseManifest {
  Id16 federation{};
  UpdateKey key;
  Hash32 base_hash{};
  Hash32 layout_digest{};
  Codec codec = Codec::kInt8;
  SuiteId suite = SuiteId::kTg1;
  PublicKey recipient{};
  Hash32 encapsulated{};  // HPKE enc
  Hash32 commitment{};    // to the AEAD key
  Hash32 plaintext{};     // SHA-256 of the encoded update
  uint64_t ciphertext_bytes = 0;
  Hash32 content{};                    // SHA-256 over the concatenated block ids
  Bounded<Hash32, kMaxBlocks> blocks;  // SHA-256 of each ciphertext block
  Hash32 policy{};                     // SHA-256 of the policy file in force
  uint64_t ledger_index = 0;           // of the intent leaf
  int64_t released_unix_millis = 0;
  bool operator==(const ReleaseManifest&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(federation, key, base_hash, layout_digest, codec, suite, recipient, encapsulated, commitment,
       plaintext, ciphertext_bytes, content, blocks, policy, ledger_index, released_unix_millis);
  }
};

// kCounted: in the sum. kLate: the round had ended; the update was not used and never will be.
enum class ReceiptOutcome : uint8_t { kCounted = 1, kLate = 2 };
template <>
struct EnumRange<ReceiptOutcome> {
  static constexpr ReceiptOutcome kFirst = ReceiptOutcome::kCounted, kLast = ReceiptOutcome::kLate;
  static constexpr const char* kName = "receipt outcome";
};

// Signed by the coordinator, one for ever per update key. It countersigns the site's ledger head
// that came with the OFFER.
struct Receipt {
  Id16 federation{};
  UpdateKey key;
  Hash32 content{};
  ReceiptOutcome outcome = ReceiptOutcome::kCounted;
  int64_t accepted_unix_millis = 0;
  BoundedText<kMaxHeadNote, true> ledger_head;
  bool operator==(const Receipt&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(federation, key, content, outcome, accepted_unix_millis, ledger_head);
  }
};

enum class AbandonReason : uint8_t { kBelowQuorum = 1, kStopped = 2, kInternal = 3 };
template <>
struct EnumRange<AbandonReason> {
  static constexpr AbandonReason kFirst = AbandonReason::kBelowQuorum;
  static constexpr AbandonReason kLast = AbandonReason::kInternal;
  static constexpr const char* kName = "abandon reason";
};

// Signed by the coordinator: nothing of this round was or will be applied. round 0: the whole job.
struct AbandonNotice {
  Id16 job{};
  uint32_t round = 0;
  AbandonReason reason = AbandonReason::kBelowQuorum;
  int64_t unix_millis = 0;
  bool operator==(const AbandonNotice&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(job, round, reason, unix_millis);
  }
};

// Signed by the site's own key: `tidegate site request`.
struct SiteRequest {
  Name site;
  PublicKey sign_key{};   // Ed25519, of the gate
  PublicKey curve_key{};  // CURVE public key, of link
  int64_t created_unix_millis = 0;
  bool operator==(const SiteRequest&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(site, sign_key, curve_key, created_unix_millis);
  }
};

// Signed by the coordinator: `tidegate site approve`.
struct SiteApproval {
  Id16 federation{};
  Name federation_name;
  Name site;
  PublicKey site_sign_key{};
  PublicKey site_curve_key{};
  PublicKey coordinator_sign_key{};
  PublicKey coordinator_curve_key{};
  BoundedText<kMaxAddress> address;  // "tcp://192.0.2.1:7443": where link dials
  int64_t approved_unix_millis = 0;
  bool operator==(const SiteApproval&) const = default;
  template <class A>
  void serialize(A& ar) {
    ar(federation, federation_name, site, site_sign_key, site_curve_key, coordinator_sign_key,
       coordinator_curve_key, address, approved_unix_millis);
  }
};

}  // namespace tidegate::protocols
