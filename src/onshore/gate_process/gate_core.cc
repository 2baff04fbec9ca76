#include "onshore/gate_process/gate_core.h"

#include <algorithm>

#include "base/log.h"
#include "crypto/document.h"
#include "crypto/seal.h"
#include "gate/sealing.h"
#include "onshore/gate_process/effects.h"
#include "onshore/gate_process/held.h"
#include "protocols/header.h"

namespace tidegate::onshore {
namespace {

// Leaves of a kind that are kept. What link brings must not use up the room for what the rules say
// of the site's own updates.
size_t MaxRefusals(std::string_view what) {
  return what == "update" || what == "release" || what == "walls" ? 10'000 : 1'000;
}
// An update that the coordinator can not take now.
constexpr int64_t kOfferAgainMillis = 30'000;

gate::OpenedLeaf OpenedOf(const GateIdentity& identity) {
  gate::OpenedLeaf opened;
  opened.federation = identity.approval.federation;
  opened.site = identity.approval.site;
  opened.site_key = identity.approval.site_sign_key;
  opened.coordinator_key = identity.approval.coordinator_sign_key;
  return opened;
}

}  // namespace

Result<std::unique_ptr<GateCore>> GateCore::Create(const std::filesystem::path& dir,
                                                   GateIdentity identity,
                                                   const std::string& own_statement,
                                                   const Clock& clock, uint64_t spool_bytes) {
  TG_ASSIGN_OR_RETURN(GateSpool spool, GateSpool::Open(dir, spool_bytes));
  std::unique_ptr<GateCore> core(new GateCore(std::move(identity), std::move(spool), clock));
  TG_RETURN_IF_ERROR(core->Load(dir, own_statement));
  return core;
}

Status GateCore::Load(const std::filesystem::path& dir, const std::string& own_statement) {
  TG_ASSIGN_OR_RETURN(
      ledger_, gate::Ledger::Open(dir / "ledger", identity_.key, OpenedOf(identity_), clock_));
  Digest last{};
  for (const gate::LedgerLeaf& leaf : ledger_->leaves()) {
    if (leaf.entry.type == gate::LeafType::kPolicy) {
      const auto policy = protocols::Decode<gate::PolicyLeaf>(leaf.entry.body.items);
      if (policy) last = policy->digest;
    }
    if (leaf.entry.type == gate::LeafType::kRefusal) {
      const auto refusal = protocols::Decode<gate::RefusalLeaf>(leaf.entry.body.items);
      if (refusal) CountRefusal(*refusal);
    }
  }
  if (last != identity_.policy.digest) {
    gate::PolicyLeaf leaf;
    leaf.digest = identity_.policy.digest;
    leaf.text.items.assign(identity_.policy.text.begin(), identity_.policy.text.end());
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const uint64_t index,
                        ledger_->Append(gate::LeafType::kPolicy, leaf));
  }
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const bool fresh, KeepStatement("gate", own_statement));
  TG_ASSIGN_OR_RETURN(open_, spool_.Recover(*ledger_));
  TG_ASSIGN_OR_RETURN(bases_, BaseIntake::Open(dir / "bases", identity_, clock_));
  TG_RETURN_IF_ERROR(LoadState());
  return WithdrawRefused();
}

// What another policy let out and nobody has taken yet is let out no longer unless the policy of
// now allows it too. The debit stands: part of it may have left.
Status GateCore::WithdrawRefused() {
  GateEffects ignored;
  for (auto it = open_.begin(); it != open_.end();) {
    const protocols::ReleaseManifest& manifest = it->second;
    std::optional<gate::Refusal> refusal;
    if (manifest.policy != identity_.policy.digest) {
      const auto intent = protocols::Decode<gate::IntentLeaf>(
          ledger_->leaves()[manifest.ledger_index].entry.body.items);
      if (!job_ || job_->id != manifest.key.job || !intent) {
        refusal =
            gate::Refusal{"job", "the policy in force does not allow its job, or ran another"};
      } else {
        refusal = gate::ReviewExport(identity_.policy, *intent);
      }
    }
    if (!refusal) {
      ++it;
      continue;
    }
    LogWarning("release_withdrawn round={} rule={}", manifest.key.round, refusal->rule);
    TG_RETURN_IF_ERROR(Refuse(
        "release", manifest.key.job, manifest.key.round, refusal->rule,
        fmt::format("{} is withdrawn: {}", ToHex(manifest.content), refusal->reason), &ignored));
    TG_RETURN_IF_ERROR(spool_.Remove(manifest));
    it = open_.erase(it);
  }
  return OkStatus();
}

// The stored documents were verified when they came; the policy may have changed since, so they are
// judged again.
Status GateCore::LoadState() {
  GateEffects ignored;
  TG_ASSIGN_OR_RETURN(const auto job, spool_.LoadDocument("job"));
  if (job) TG_RETURN_IF_ERROR(TakeJob(*job, &ignored));
  if (!job_) return OkStatus();
  TG_ASSIGN_OR_RETURN(const auto adapter, spool_.LoadDocument("adapter"));
  if (adapter) TG_RETURN_IF_ERROR(TakeAdapter(*adapter, &ignored));
  TG_ASSIGN_OR_RETURN(const auto round, spool_.LoadDocument("round"));
  if (round) TG_RETURN_IF_ERROR(TakeRound(*round, &ignored));
  TG_ASSIGN_OR_RETURN(const auto abandon, spool_.LoadDocument("abandon"));
  return abandon ? TakeAbandon(*abandon, &ignored) : OkStatus();
}

Status GateCore::Refuse(const std::string& what, const Id16& job, uint32_t round,
                        const std::string& rule, const std::string& reason, GateEffects* out) {
  gate::RefusalLeaf leaf{what, job, round, rule, reason.substr(0, protocols::kMaxReason)};
  for (char& c : leaf.reason.text) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  if (refused_.contains(crypto::Sha256::Of(protocols::Encode(leaf)))) return OkStatus();
  out->push_back(Event(EventCode::kInputRefused, {static_cast<int64_t>(round), 0, 0, 0}));
  if (refusals_[leaf.what.text] >= MaxRefusals(leaf.what.text)) return OkStatus();
  const auto index = ledger_->Append(gate::LeafType::kRefusal, leaf);
  if (!index) return index.error();
  CountRefusal(leaf);
  return OkStatus();
}

void GateCore::CountRefusal(const gate::RefusalLeaf& leaf) {
  refused_.insert(crypto::Sha256::Of(protocols::Encode(leaf)));
  ++refusals_[leaf.what.text];
}

Result<bool> GateCore::KeepStatement(const std::string& process, const std::string& statement) {
  const gate::IsolationLeaf leaf{process, statement};
  if (statement.size() > decltype(leaf.statement)::kMaxSize) {
    return InvalidArgument("an isolation statement of {} bytes is too long", statement.size());
  }
  return AppendOnce(gate::LeafType::kIsolation, leaf);
}

bool IsFinal(const OfferRefused& refused) {
  const bool commit = refused.about == static_cast<uint16_t>(protocols::MessageType::kCommit);
  switch (static_cast<Code>(refused.code)) {
    case Code::kNotFound:
      // To an OFFER: a job or round that was never announced. To a COMMIT: offer it again.
      return !commit;
    case Code::kInvalidArgument:
    case Code::kAlreadyExists:
    case Code::kFailedPrecondition:
    case Code::kPermissionDenied:
    case Code::kUnauthenticated:
    case Code::kDataLoss:
    case Code::kUnsupported:
      return true;
    default:
      return false;
  }
}

// Closed as by a receipt: the leaf first, so that a crash in between only asks once more. The debit
// of its intent stands, for what left may have been read.
Result<GateEffects> GateCore::OnOfferRefused(const OfferRefused& refused) {
  GateEffects out;
  const auto it = std::find_if(open_.begin(), open_.end(), [&refused](const auto& entry) {
    return entry.second.content == refused.content;
  });
  if (it == open_.end() || WallsMissing(To::kLink)) return out;
  if (!IsFinal(refused)) {
    offer_again_[refused.content] = clock_.MonotonicMillis() + kOfferAgainMillis;
    return out;
  }
  const protocols::ReleaseManifest& manifest = it->second;
  const std::string code(CodeName(static_cast<Code>(refused.code)));
  TG_RETURN_IF_ERROR(Refuse(
      "release", manifest.key.job, manifest.key.round, "coordinator",
      fmt::format("the coordinator will never take {}: {}", ToHex(manifest.content), code), &out));
  out.push_back(Event(EventCode::kReleaseRefused, {manifest.key.round, refused.code, 0, 0}));
  TG_RETURN_IF_ERROR(spool_.Remove(manifest));
  offer_again_.erase(refused.content);
  open_.erase(it);
  trainer_round_.reset();  // asked again where policy allows the round another export
  TG_RETURN_IF_ERROR(Drive(&out));
  return out;
}

// An export of the round is on its way or was taken; or there were as many as policy allows, those
// counted that the coordinator will never take.
bool GateCore::RoundSpent(uint32_t round, uint8_t phase) const {
  std::set<Hash32> exports;
  for (const gate::LedgerLeaf& leaf : ledger_->leaves()) {
    if (leaf.entry.type != gate::LeafType::kIntent) continue;
    const auto intent = protocols::Decode<gate::IntentLeaf>(leaf.entry.body.items);
    if (intent && intent->key.job == job_->id && intent->key.round == round &&
        intent->key.phase == phase) {
      exports.insert(intent->content);
    }
  }
  if (exports.size() >= identity_.policy.max_exports_per_round) return true;
  return std::any_of(exports.begin(), exports.end(), [this, round](const Hash32& content) {
    return !RefusedForGood(round, content);
  });
}

bool GateCore::RefusedForGood(uint32_t round, const Hash32& content) const {
  const std::string hex = ToHex(content);
  const auto& leaves = ledger_->leaves();
  return std::any_of(leaves.begin(), leaves.end(), [&](const gate::LedgerLeaf& leaf) {
    if (leaf.entry.type != gate::LeafType::kRefusal) return false;
    const auto refusal = protocols::Decode<gate::RefusalLeaf>(leaf.entry.body.items);
    return refusal && refusal->what.text == "release" && refusal->job == job_->id &&
           refusal->round == round && refusal->reason.text.find(hex) != std::string::npos;
  });
}

// Whoever allows a name does not know how many jobs will have it: its limits are for them all. An
// id is one job's.
gate::Spent GateCore::SpentNow() const {
  const auto& allowed = identity_.policy.jobs;
  const bool by_id = std::find(allowed.begin(), allowed.end(), ToHex(job_->id)) != allowed.end();
  return ledger_->SpentOn(job_->id, round_->announcement.round,
                          by_id ? "" : job_->manifest.name.text);
}

std::optional<std::string> GateCore::RoundRefused(uint32_t round) const {
  for (const gate::LedgerLeaf& leaf : ledger_->leaves()) {
    if (leaf.entry.type != gate::LeafType::kRefusal) continue;
    const auto refusal = protocols::Decode<gate::RefusalLeaf>(leaf.entry.body.items);
    if (refusal && refusal->what.text == "update" && refusal->job == job_->id &&
        refusal->round == round) {
      return refusal->rule.text + ": " + refusal->reason.text;
    }
  }
  return std::nullopt;
}

bool GateCore::AwaitsReceipt() const {
  return std::any_of(open_.begin(), open_.end(),
                     [this](const auto& entry) { return entry.second.key.job == job_->id; });
}

uint32_t GateCore::CountedRound() const {
  uint32_t round = 0;
  for (const gate::LedgerLeaf& leaf : ledger_->leaves()) {
    if (leaf.entry.type != gate::LeafType::kReceipt) continue;
    // It was verified before it became a leaf.
    const auto document = protocols::Decode<gate::ReceiptLeaf>(leaf.entry.body.items);
    if (!document) continue;
    const auto receipt = protocols::Decode<protocols::Receipt>(document->receipt.body.items);
    if (receipt && receipt->key.job == job_->id &&
        receipt->outcome == protocols::ReceiptOutcome::kCounted) {
      round = std::max(round, receipt->key.round);
    }
  }
  return round;
}

Status GateCore::TakeUpdate(ByteSpan update, GateEffects* out) {
  if (!job_ || !round_ || round_->closed || job_ended_) return OkStatus();
  const uint32_t round = round_->announcement.round;
  // Of a round that ended while it was trained: nothing to judge, and no fault of the open round's.
  const auto header = protocols::ReadUpdateHeader(update);
  if (header && header->job == job_->id && header->round < round) return OkStatus();
  if (RoundSpent(round, round_->announcement.phase)) {
    out->push_back(Say(To::kTrainer, IpcType::kRoundResult,
                       RoundResult{job_->id, round, RoundOutcome::kReleased, ""}));
    return OkStatus();
  }
  if (const auto lacking = WallsMissing(To::kTrainer)) {
    return Refuse("walls", job_->id, round, "trainer", *lacking, out);
  }
  const protocols::UpdateKey key{job_->id, round, round_->announcement.phase,
                                 identity_.approval.site.text};
  TG_ASSIGN_OR_RETURN(const std::vector<protocols::Signed> approvals,
                      spool_.Approvals(GateSpool::NameOf(key)));
  const std::vector<gate::Said> said = SaidOf(key);
  auto verdict =
      gate::Review::JudgeUpdate({identity_.policy, job_->manifest, round_->announcement, job_->id,
                                 identity_.approval.site.text, job_->layout_digest, update,
                                 crypto::SealedSizeOf(update.size()).bytes, SpentNow(), false,
                                 std::nullopt, approvals, said, clock_.UnixMillis()});
  if (verdict.held) return HoldUpdate(*verdict.held, update, out);
  held_.reset();
  if (!verdict.refusal) return Release(std::move(verdict), update, out);
  TG_RETURN_IF_ERROR(
      Refuse("update", job_->id, round, verdict.refusal->rule, verdict.refusal->reason, out));
  out->push_back(Event(EventCode::kUpdateRefused, {round, 0, 0, 0}));
  out->push_back(Say(To::kTrainer, IpcType::kRoundResult,
                     RoundResult{job_->id, round, RoundOutcome::kRefused,
                                 verdict.refusal->rule + ": " + verdict.refusal->reason}));
  return OkStatus();
}

Status GateCore::HoldUpdate(const gate::IntentLeaf& intent, ByteSpan update, GateEffects* out) {
  const auto view = protocols::UpdateView::Parse(update, job_->manifest.layout);
  if (!view) return Internal("a judged update does not parse: {}", view.error().reason);
  const uint64_t sealed = crypto::SealedSizeOf(update.size()).bytes;
  TG_RETURN_IF_ERROR(spool_.StoreHeld(
      GateSpool::NameOf(intent.key),
      HeldJson(identity_.policy, job_->manifest, intent, *view, sealed, clock_.UnixMillis())));
  held_ = intent;
  out->push_back(
      Event(EventCode::kUpdateHeld, {intent.key.round, static_cast<int64_t>(sealed), 0, 0}));
  return OkStatus();
}

Result<bool> GateCore::HeldIsDecided() const {
  TG_ASSIGN_OR_RETURN(const std::vector<protocols::Signed> approvals,
                      spool_.Approvals(GateSpool::NameOf(held_->key)));
  const std::vector<gate::Said> said = SaidOf(held_->key);
  const gate::Standing standing = gate::StandingOf(identity_.policy, held_->key, held_->plaintext,
                                                   approvals, said, clock_.UnixMillis());
  return standing.refusal || standing.released >= identity_.policy.approvals_needed;
}

Result<GateEffects> GateCore::OnDataset(const Dataset& dataset) {
  if (!job_ || dataset.job != job_->id || std::exchange(dataset_told_, true)) return GateEffects{};
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const bool fresh,
                      AppendOnce(gate::LeafType::kDataset,
                                 gate::DatasetLeaf{dataset.job, dataset.records, dataset.heldout,
                                                   dataset.records_bytes}));
  return GateEffects{};
}

Result<GateEffects> GateCore::OnNoUpdate(const NoUpdate& none) {
  GateEffects out;
  if (none.round == kWholeJob) {
    TG_RETURN_IF_ERROR(RefuseJob(none, &out));
    return out;
  }
  const bool open = job_ && round_ && !round_->closed && !job_ended_ && none.job == job_->id &&
                    none.round == round_->announcement.round;
  // One leaf a round, however often a trainer says so.
  if (!open || RoundSpent(none.round, round_->announcement.phase) || RoundRefused(none.round)) {
    return out;
  }
  const bool numbers = none.code == static_cast<uint8_t>(Code::kFailedPrecondition);
  TG_RETURN_IF_ERROR(Refuse("update", none.job, none.round, "trainer",
                            numbers ? "the trainer made none: a loss or a delta is not finite, or "
                                      "the codec cannot hold it"
                                    : "the trainer made none",
                            &out));
  out.push_back(Event(EventCode::kUpdateRefused, {none.round, 0, 0, 0}));
  TG_RETURN_IF_ERROR(Drive(&out));
  return out;
}

// As if it had been refused when it came; until the gate's next start, for by then the base may be
// another. The next job is taken as ever.
Status GateCore::RefuseJob(const NoUpdate& none, GateEffects* out) {
  if (!job_ || job_ended_ || none.job != job_->id) return OkStatus();
  TG_RETURN_IF_ERROR(
      Refuse("job", none.job, 0, "trainer",
             "the trainer cannot run it on the base and records of site.toml: its layout, LoRA "
             "shape, lengths or base hash are not theirs; put the job's base there, or wait for "
             "another job",
             out));
  out->push_back(Event(EventCode::kJobRefused));
  held_.reset();
  if (trainer_up_) {
    EndJob(out);
  } else {
    job_ended_ = true;
  }
  return Drive(out);
}

// Seal, spool, debit, offer: each durable before the next.
Status GateCore::Release(gate::Review::Verdict verdict, ByteSpan update, GateEffects* out) {
  // Who let it out stands before it in the ledger.
  for (const protocols::Signed& approval : verdict.approvals) {
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const bool fresh,
                        AppendOnce(gate::LeafType::kApproval, gate::ApprovalLeaf{approval}));
  }
  if (outside_) {
    const protocols::UpdateKey key{job_->id, round_->announcement.round, round_->announcement.phase,
                                   identity_.approval.site.text};
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const bool fresh,
                        AppendOnce(gate::LeafType::kOutside,
                                   gate::OutsideLeaf{key, crypto::Sha256::Of(update), *outside_}));
  }
  TG_ASSIGN_OR_RETURN(
      const gate::SealedUpdate sealed,
      gate::Sealing::Seal(std::move(*verdict.cleared),
                          {identity_.approval.site.text, job_->manifest, round_->announcement,
                           update, ledger_->size(), clock_.UnixMillis()}));
  const protocols::ReleaseManifest& manifest = sealed.manifest();
  Status debited = spool_.Store(sealed);
  if (debited.ok()) debited = gate::Sealing::Debit(*ledger_, sealed);
  if (debited.code() == Code::kResourceExhausted) {
    // Nothing is debited: the round is asked for again when there may be room.
    LogWarning("update_waits round={} {}", round_->announcement.round, debited.ToString());
    round_waits_ = true;
    return spool_.Remove(manifest);
  }
  TG_RETURN_IF_ERROR(debited);
  open_.emplace(GateSpool::NameOf(manifest.key), manifest);
  const uint32_t round = round_->announcement.round;
  out->push_back(
      Event(EventCode::kUpdateReleased,
            {round, static_cast<int64_t>(manifest.ciphertext_bytes),
             static_cast<int64_t>(manifest.ledger_index), static_cast<int64_t>(update.size())}));
  out->push_back(Say(To::kTrainer, IpcType::kRoundResult,
                     RoundResult{job_->id, round, RoundOutcome::kReleased, ""}));
  return link_up_ ? Offer(manifest, out) : OkStatus();
}

Result<GateEffects> GateCore::OnBulk(To from, BulkKind kind, const Hash32& content, uint32_t index,
                                     ByteSpan bytes) {
  GateEffects out;
  if (from == To::kTrainer) {
    if (kind == BulkKind::kUpdate) TG_RETURN_IF_ERROR(TakeUpdate(bytes, &out));
    TG_RETURN_IF_ERROR(Drive(&out));
    return out;
  }
  if (kind == BulkKind::kBlock) {
    TG_RETURN_IF_ERROR(TakeBlock(content, index, bytes, &out));
    TG_RETURN_IF_ERROR(Drive(&out));
    return out;
  }
  auto document = protocols::Decode<protocols::Signed>(bytes);
  if (!document) {
    out.push_back(Event(EventCode::kInputRefused, {static_cast<int64_t>(kind), 0, 0, 0}));
    return out;
  }
  switch (kind) {
    case BulkKind::kJob:
      TG_RETURN_IF_ERROR(TakeJob(*document, &out));
      break;
    case BulkKind::kRound:
      TG_RETURN_IF_ERROR(TakeRound(*document, &out));
      break;
    case BulkKind::kAdapter:
      TG_RETURN_IF_ERROR(TakeAdapter(*document, &out));
      break;
    case BulkKind::kReceipt:
      TG_RETURN_IF_ERROR(TakeReceipt(*document, &out));
      break;
    case BulkKind::kAbandon:
      TG_RETURN_IF_ERROR(TakeAbandon(*document, &out));
      break;
    case BulkKind::kBase:
      TG_RETURN_IF_ERROR(TakeBase(*document, &out));
      break;
    case BulkKind::kRevoke:
      TG_RETURN_IF_ERROR(TakeRevocation(*document, &out));
      break;
    default:
      break;
  }
  TG_RETURN_IF_ERROR(Drive(&out));
  return out;
}

}  // namespace tidegate::onshore
