// The gate without descriptors: messages in, effects out, everything durable before it is an
// effect.
//
// It holds the state of docs/architecture.md, "A round, in order", steps 3, 5 and 8. All of it is
// read again from disk by Create, so a gate that was killed at any moment goes on from there: an
// effect may be made twice, never half. After an error the process must end. Not thread-safe.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "gate/ledger.h"
#include "gate/review.h"
#include "onshore/gate_process/base_intake.h"
#include "onshore/gate_process/identity.h"
#include "onshore/gate_process/spool.h"
#include "onshore/ipc/control.h"
#include "onshore/ipc/messages.h"

namespace tidegate::onshore {

enum class To : uint8_t { kTrainer = 0, kLink = 1 };

struct SendMessage {
  To to;
  IpcType type;
  Bytes body;
};
struct SendBulkTo {
  To to;
  BulkKind kind;
  Hash32 content;
  uint32_t index;
  Bytes bytes;
};
struct TellSupervisor {
  ControlType type;
  uint32_t code = 0;  // EventCode of kEvent
  std::array<int64_t, 4> arguments{};
};
using GateEffect = std::variant<SendMessage, SendBulkTo, TellSupervisor>;
using GateEffects = std::vector<GateEffect>;

class GateCore {
 public:
  // `dir`: SITE/gate, or "/" once chrooted into it. `own_statement`: the gate's isolation
  // statement.
  static Result<std::unique_ptr<GateCore>> Create(const std::filesystem::path& dir,
                                                  GateIdentity identity,
                                                  const std::string& own_statement,
                                                  const Clock& clock,
                                                  uint64_t spool_bytes = protocols::kMaxSpoolBytes);

  // A peer is up (again): what it must know is said again.
  Result<GateEffects> OnHello(To from);
  Result<GateEffects> OnIsolation(To from, const std::string& statement);
  // JOB, ROUND, ADAPTER, RECEIPT, ABANDON, BASE, REVOKE bodies from link, as the coordinator sent
  // them; blocks of an adapter or a base; an update from the trainer.
  Result<GateEffects> OnBulk(To from, BulkKind kind, const Hash32& content, uint32_t index,
                             ByteSpan bytes);
  Result<GateEffects> OnNeedBlock(const NeedBlock& need);
  // What the trainer says that it trains on; once a start of it.
  Result<GateEffects> OnDataset(const Dataset& dataset);
  // A trainer that could make no update: the round is refused, as by a rule. Or the job is, which
  // has ended then.
  Result<GateEffects> OnNoUpdate(const NoUpdate& none);
  // The coordinator answered an OFFER or its COMMIT with ERROR: for good (IsFinal), or to be
  // offered again later.
  Result<GateEffects> OnOfferRefused(const OfferRefused& refused);
  // The trainer has ended and may stay away for long: it is told nothing until it says hello.
  Result<GateEffects> OnTrainerGone();
  // A client of the local API, of this user, has said what is to become of the update that is held;
  // `plaintext` is how its digest begins.
  Result<GateEffects> OnDecision(uint32_t uid, gate::Decision decision, ByteSpan plaintext,
                                 const std::string& reason);
  // What the trainer sends has been trained by a program of this user.
  Result<GateEffects> OnOutside(uint32_t uid);
  // Link says whether the coordinator is connected. After each connection anew: what of an adapter
  // is missing is wanted again, for what was under way is lost.
  Result<GateEffects> OnLinkState(bool connected);
  // A carrier asks, after all that it had to say, whether anything is to be done before the
  // coordinator says more. It is answered at once, and once more when nothing is.
  Result<GateEffects> OnAskWaiting();
  // Now and then: what the supervisor may have missed is said again, what waited is tried again.
  Result<GateEffects> OnTick();

  const gate::Ledger& ledger() const { return *ledger_; }

 private:
  struct Job {
    protocols::Signed document;
    protocols::JobManifest manifest;
    Id16 id{};
    Hash32 layout_digest{};
    gate::JobProgress before{};  // it may have been here, before another one
  };
  struct Adapter {
    protocols::Signed document;
    protocols::AdapterManifest manifest;
    Hash32 digest{};
    std::set<Digest> missing{};  // blocks that are not in the inbox
    bool whole = false;
    bool refused = false;  // a block of it: it is not asked for any more
    // Its blocks, verified and stored, one after the other as they came: for the trainer, which
    // would else wait until they are read and verified once more. Not all of them where some were
    // there before, or one overtook another.
    Bytes parameters{};
  };
  struct OpenRound {
    protocols::Signed document;
    protocols::RoundAnnouncement announcement;
    bool closed = false;  // abandoned, or its job was
  };

  GateCore(GateIdentity identity, GateSpool spool, const Clock& clock)
      : identity_(std::move(identity)), spool_(std::move(spool)), clock_(clock) {}

  Status Load(const std::filesystem::path& dir, const std::string& own_statement);
  Status LoadState();
  Status WithdrawRefused();
  Status TakeJob(const protocols::Signed& document, GateEffects* out);
  Status TakeRound(const protocols::Signed& document, GateEffects* out);
  Status TakeAdapter(const protocols::Signed& document, GateEffects* out);
  Status TakeReceipt(const protocols::Signed& document, GateEffects* out);
  Status TakeAbandon(const protocols::Signed& document, GateEffects* out);
  Status TakeBlock(const Hash32& content, uint32_t index, ByteSpan bytes, GateEffects* out);
  Status TakeBase(const protocols::Signed& document, GateEffects* out);
  Status TakeRevocation(const protocols::Signed& document, GateEffects* out);
  Status TakeUpdate(ByteSpan update, GateEffects* out);
  Status Release(gate::Review::Verdict verdict, ByteSpan update, GateEffects* out);
  Status HoldUpdate(const gate::IntentLeaf& intent, ByteSpan update, GateEffects* out);
  // What was said of an update over the local API.
  std::vector<gate::Said> SaidOf(const protocols::UpdateKey& key) const;
  // Whether what people say by now decides the update that is held.
  Result<bool> HeldIsDecided() const;

  // What the policy's limits per job are held against.
  gate::Spent SpentNow() const;
  void CountRefusal(const gate::RefusalLeaf& leaf);
  Status Refuse(const std::string& what, const Id16& job, uint32_t round, const std::string& rule,
                const std::string& reason, GateEffects* out);
  // Appends the leaf unless one like it is there; whether it was appended.
  template <typename Leaf>
  Result<bool> AppendOnce(gate::LeafType type, const Leaf& leaf);
  Status NoteAdapter(GateEffects* out);
  // Whether it was a new one.
  Result<bool> KeepStatement(const std::string& process, const std::string& statement);
  std::optional<std::string> WallsMissing(To from) const;

  // What is to be done in the state of now; each thing is said once per generation of its peer.
  Status Drive(GateEffects* out);
  Status DriveTrainer(GateEffects* out);
  bool WaitsForCoordinator() const;
  void EndJob(GateEffects* out);
  Status RefuseJob(const NoUpdate& none, GateEffects* out);
  void TellEnd(GateEffects* out);
  void WantMissingBlocks(GateEffects* out);
  Status OfferOpen(GateEffects* out);
  Status Offer(const protocols::ReleaseManifest& manifest, GateEffects* out);
  Known KnownNow() const;
  void SayKnown(GateEffects* out);
  void TellWaiting(GateEffects* out);
  void TellState(GateEffects* out);
  Result<Bytes> AdapterParameters();
  bool RoundSpent(uint32_t round, uint8_t phase) const;
  bool RefusedForGood(uint32_t round, const Hash32& content) const;
  std::optional<std::string> RoundRefused(uint32_t round) const;
  // What the trainer has to know of the updates before this round, where the job feeds errors back.
  bool AwaitsReceipt() const;
  uint32_t CountedRound() const;

  GateIdentity identity_;
  GateSpool spool_;
  const Clock& clock_;
  std::unique_ptr<gate::Ledger> ledger_;
  std::optional<BaseIntake> bases_;  // always there after Create
  std::optional<Job> job_;
  std::optional<Adapter> adapter_;
  std::optional<OpenRound> round_;
  std::map<std::string, protocols::ReleaseManifest> open_;  // by GateSpool::NameOf
  std::map<Hash32, int64_t> offer_again_;                   // content → monotonic time
  std::set<Digest> refused_;                                // of refusal leaves, to say each once
  std::map<std::string, size_t> refusals_;                  // how many, by kind
  bool job_ended_ = false;
  bool end_told_ = false;  // to the supervisor
  // What the supervisor was told last, for who asks it how the site is.
  std::optional<Id16> job_told_;
  std::optional<std::pair<uint32_t, std::array<int64_t, 4>>> state_told_;

  // Per generation of the peers.
  std::optional<bool> link_connected_;  // as link said last
  bool link_asks_waiting_ = false;
  bool trainer_up_ = false, link_up_ = false;
  bool dataset_told_ = false;
  std::optional<uint32_t> outside_;  // whose program trains, if not the trainer
  bool trainer_asked_ = false, trainer_has_job_ = false, trainer_stopped_ = false;
  std::optional<uint32_t> trainer_version_, trainer_round_;
  std::optional<uint32_t> trainer_freed_;  // the abandoned round that it was told of
  std::optional<uint32_t> wanted_version_;
  bool round_waits_ = false;  // until the next tick: there was no room for its update
  // The update of the open round that is held. Its bytes are not kept: once people have decided,
  // the trainer is asked for the round again and sends the same.
  std::optional<gate::IntentLeaf> held_;
  std::optional<std::string> trainer_walls_,
      link_walls_;  // why they are not enough; "" if they are
  // New ones since the start, of trainer and link.
  std::array<size_t, 2> statements_{};
};

template <typename Leaf>
Result<bool> GateCore::AppendOnce(gate::LeafType type, const Leaf& leaf) {
  const Bytes body = protocols::Encode(leaf);
  const auto& leaves = ledger_->leaves();
  const bool known = std::any_of(leaves.begin(), leaves.end(), [&](const gate::LedgerLeaf& l) {
    return l.entry.type == type && l.entry.body.items == body;
  });
  if (known) return false;
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const uint64_t index, ledger_->Append(type, leaf));
  return true;
}

// Whether an update that was refused so can never be taken (docs/architecture.md, "Refused for
// good"). An unknown code is not final.
bool IsFinal(const OfferRefused& refused);

}  // namespace tidegate::onshore
