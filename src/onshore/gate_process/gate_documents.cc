// What the coordinator's documents do to the gate's state (gate_core.h, OnBulk): each is verified,
// judged, stored and only then acted upon.
#include <algorithm>
#include <set>

#include "base/log.h"
#include "base/memory.h"
#include "blocks/content.h"
#include "crypto/document.h"
#include "onshore/gate_process/effects.h"
#include "onshore/gate_process/gate_core.h"

namespace tidegate::onshore {
Status GateCore::TakeJob(const protocols::Signed& document, GateEffects* out) {
  const Digest digest = crypto::DocumentDigest(document);
  if (job_ && crypto::DocumentDigest(job_->document) == digest) return OkStatus();
  auto manifest = crypto::OpenDocument<protocols::JobManifest>(
      *identity_.policy.coordinator_key, crypto::domains::kJob, document, "job");
  const Id16 id = crypto::JobIdOf(document);
  if (!manifest) return Refuse("job", id, 0, "signature", manifest.error().message(), out);
  if (const auto refusal =
          gate::ReviewJob({identity_.policy, *manifest, id, identity_.approval.site.text})) {
    out->push_back(Event(EventCode::kJobRefused));
    return Refuse("job", id, 0, refusal->rule, refusal->reason, out);
  }
  if (bases_->Revoked(manifest->base_hash)) {
    out->push_back(Event(EventCode::kJobRefused));
    return Refuse("job", id, 0, "base", "the coordinator has revoked its base", out);
  }
  // One job at a time: this one is told of again when the one that runs here has ended.
  if (job_ && !job_ended_) return OkStatus();
  const std::set<Id16> jobs = ledger_->JobsNamed("");
  if (!jobs.contains(id) && jobs.size() >= protocols::kMaxLedgerJobs) {
    out->push_back(Event(EventCode::kJobRefused));
    return Refuse("job", id, 0, "ledger",
                  fmt::format("the ledger has {} jobs, the most that it takes; keep it, and enrol "
                              "the site under another name for more",
                              jobs.size()),
                  out);
  }
  TG_RETURN_IF_ERROR(spool_.StoreDocument("job", document));
  job_ = Job{document, std::move(*manifest), id, {}, ledger_->ProgressOf(id)};
  job_->layout_digest = crypto::Sha256::Of(protocols::Encode(job_->manifest.layout));
  adapter_.reset();
  round_.reset();
  job_ended_ = end_told_ = trainer_stopped_ = trainer_asked_ = trainer_has_job_ = false;
  trainer_version_.reset();
  trainer_round_.reset();
  trainer_freed_.reset();
  wanted_version_.reset();
  out->push_back(Event(EventCode::kJobAccepted, {job_->manifest.rounds, 0, 0, 0}));
  SayKnown(out);
  const gate::JobLeaf leaf{id,
                           job_->manifest.name,
                           job_->manifest.base_hash,
                           job_->layout_digest,
                           identity_.policy.digest,
                           job_->manifest.rounds};
  const auto appended = AppendOnce(gate::LeafType::kJob, leaf);
  return appended ? OkStatus() : appended.error();
}

Status GateCore::TakeAdapter(const protocols::Signed& document, GateEffects* out) {
  auto manifest = crypto::OpenDocument<protocols::AdapterManifest>(
      *identity_.policy.coordinator_key, crypto::domains::kAdapter, document, "adapter");
  const Id16 id = job_ ? job_->id : Id16{};
  const auto refuse = [&](const std::string& rule, const std::string& reason) {
    return Refuse("adapter", id, manifest ? manifest->version : 0, rule, reason, out);
  };
  if (!manifest) return refuse("signature", manifest.error().message());
  if (!job_ || manifest->job != id) return OkStatus();  // of a job that is not this site's now
  const Digest digest = crypto::DocumentDigest(document);
  if (adapter_ && adapter_->digest == digest) return OkStatus();
  if (adapter_ && manifest->version <= adapter_->manifest.version) {
    return refuse("version", fmt::format("adapter version {} is not above {}", manifest->version,
                                         adapter_->manifest.version));
  }
  const gate::JobProgress& before = job_->before;
  if (!adapter_ && before.version &&
      (manifest->version < *before.version ||
       (manifest->version == *before.version && digest != before.adapter))) {
    return refuse("version", fmt::format("adapter version {} is not above {}, which this site has "
                                         "had, nor that one",
                                         manifest->version, *before.version));
  }
  uint64_t values = 0;
  for (const auto& t : job_->manifest.layout.tensors.items) {
    values += static_cast<uint64_t>(t.rows) * t.cols;
  }
  const uint64_t blocks = (values * 4 + protocols::kBlockBytes - 1) / protocols::kBlockBytes;
  if (manifest->base_hash != job_->manifest.base_hash) return refuse("base", "another base");
  if (manifest->layout_digest != job_->layout_digest) return refuse("layout", "another layout");
  if (manifest->version > job_->manifest.rounds || manifest->content_bytes != values * 4 ||
      manifest->blocks.size() != blocks ||
      manifest->content != blocks::ContentId(manifest->blocks.items)) {
    return refuse("layout", "the adapter's version, size or blocks are not those of its layout");
  }
  TG_RETURN_IF_ERROR(spool_.StoreDocument("adapter", document));
  TG_RETURN_IF_ERROR(spool_.TrimInbox(*manifest));
  adapter_ = Adapter{document, std::move(*manifest), digest};
  for (const Digest& block : adapter_->manifest.blocks.items) {
    if (!spool_.inbox().Has(block)) adapter_->missing.insert(block);
  }
  adapter_->whole = adapter_->missing.empty();
  wanted_version_.reset();
  // At a start: a crash may have come between the last block and the leaf.
  return adapter_->whole ? NoteAdapter(out) : OkStatus();
}

Status GateCore::NoteAdapter(GateEffects* out) {
  const protocols::AdapterManifest& manifest = adapter_->manifest;
  TG_ASSIGN_OR_RETURN(const bool appended,
                      AppendOnce(gate::LeafType::kAdapter,
                                 gate::AdapterLeaf{manifest.job, manifest.version, manifest.final,
                                                   adapter_->digest, manifest.content}));
  if (appended) out->push_back(Event(EventCode::kAdapterStored, {manifest.version, 0, 0, 0}));
  return OkStatus();
}

Status GateCore::TakeRound(const protocols::Signed& document, GateEffects* out) {
  auto announcement = crypto::OpenDocument<protocols::RoundAnnouncement>(
      *identity_.policy.coordinator_key, crypto::domains::kRound, document, "round");
  const Id16 id = job_ ? job_->id : Id16{};
  const auto refuse = [&](const std::string& rule, const std::string& reason) {
    return Refuse("round", id, announcement ? announcement->round : 0, rule, reason, out);
  };
  if (!announcement) return refuse("signature", announcement.error().message());
  if (!job_ || announcement->job != id) return OkStatus();  // of a job that is not this site's now
  if (round_ && *announcement == round_->announcement) return OkStatus();
  if (round_ && announcement->round <= round_->announcement.round) {
    return refuse("round", fmt::format("round {} is not above {}", announcement->round,
                                       round_->announcement.round));
  }
  if (!round_ && announcement->round < job_->before.round) {
    return refuse("round", fmt::format("round {} is below {}, which this site has worked in",
                                       announcement->round, job_->before.round));
  }
  const auto& phases = job_->manifest.phase_groups.items;
  if (announcement->round < 1 || announcement->round > protocols::kMaxRounds ||
      announcement->phase != (announcement->round - 1) % phases.size() ||
      announcement->adapter_version >= job_->manifest.rounds) {
    return refuse("round", "the round's number, phase or adapter version is not the job's");
  }
  // Nothing could be sealed to it, after the training.
  if (const auto key = crypto::AgreePublicKey::FromBytes(announcement->recipient); !key) {
    return refuse("recipient", key.error().message());
  }
  TG_RETURN_IF_ERROR(spool_.StoreDocument("round", document));
  held_.reset();
  TG_RETURN_IF_ERROR(spool_.ForgetHeld(GateSpool::NameOf(
      {id, announcement->round, announcement->phase, identity_.approval.site.text})));
  round_ = OpenRound{document, std::move(*announcement), false};
  return OkStatus();
}

Status GateCore::TakeReceipt(const protocols::Signed& document, GateEffects* out) {
  auto receipt = crypto::OpenDocument<protocols::Receipt>(
      *identity_.policy.coordinator_key, crypto::domains::kReceipt, document, "receipt");
  if (!receipt) return Refuse("receipt", {}, 0, "signature", receipt.error().message(), out);
  const auto it = open_.find(GateSpool::NameOf(receipt->key));
  if (it == open_.end()) return OkStatus();  // of an update that has its receipt
  if (receipt->federation != identity_.approval.federation || receipt->key != it->second.key ||
      receipt->content != it->second.content) {
    return Refuse("receipt", receipt->key.job, receipt->key.round, "receipt",
                  "the receipt is for another update", out);
  }
  // The auditor holds the ledger against it: a head of somebody else's would speak against the
  // site.
  const Status head = ledger_->CheckHead(receipt->ledger_head.text, it->second.ledger_index);
  if (!head.ok()) {
    return Refuse("receipt", receipt->key.job, receipt->key.round, "head", head.message(), out);
  }
  // The ledger has the receipt too, in space of its own: a full disk must not keep it from there.
  if (const Status kept = spool_.StoreReceipt(receipt->key, document); !kept.ok()) {
    if (kept.code() != Code::kResourceExhausted) return kept;
    LogWarning("receipt_file_missing {}", kept.ToString());
  }
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const uint64_t index,
                      ledger_->Append(gate::LeafType::kReceipt, gate::ReceiptLeaf{document}));
  TG_RETURN_IF_ERROR(spool_.Remove(it->second));
  offer_again_.erase(receipt->content);
  open_.erase(it);
  out->push_back(Event(EventCode::kReceiptStored,
                       {receipt->key.round, static_cast<int64_t>(receipt->outcome), 0, 0}));
  return OkStatus();
}

Status GateCore::TakeAbandon(const protocols::Signed& document, GateEffects* out) {
  auto notice = crypto::OpenDocument<protocols::AbandonNotice>(
      *identity_.policy.coordinator_key, crypto::domains::kAbandon, document, "abandon");
  if (!notice) return Refuse("abandon", {}, 0, "signature", notice.error().message(), out);
  if (!job_ || notice->job != job_->id || job_ended_) return OkStatus();
  const bool all = notice->round == 0;
  if (!all && !(round_ && notice->round == round_->announcement.round)) return OkStatus();
  // Durable first: after a restart nothing is trained or let out for what is gone. An update that
  // is out already waits for its receipt, which says that it came too late.
  TG_RETURN_IF_ERROR(spool_.StoreDocument("abandon", document));
  if (round_) round_->closed = true;
  job_ended_ = all;
  return OkStatus();
}

Status GateCore::TakeBase(const protocols::Signed& document, GateEffects* out) {
  TG_ASSIGN_OR_RETURN(const auto refusal, bases_->TakeBase(document));
  return refusal ? Refuse("base", {}, 0, refusal->rule, refusal->reason, out) : OkStatus();
}

// A job on it ends as one that the coordinator has stopped; after a restart it is refused.
Status GateCore::TakeRevocation(const protocols::Signed& document, GateEffects* out) {
  TG_ASSIGN_OR_RETURN(const auto refusal, bases_->TakeRevocation(document));
  if (refusal) return Refuse("base", {}, 0, refusal->rule, refusal->reason, out);
  if (!job_ || job_ended_ || !bases_->Revoked(job_->manifest.base_hash)) return OkStatus();
  if (round_) round_->closed = true;
  job_ended_ = true;
  return Refuse("job", job_->id, 0, "base", "the coordinator has revoked its base", out);
}

Status GateCore::TakeBlock(const Hash32& content, uint32_t index, ByteSpan bytes,
                           GateEffects* out) {
  if (bases_->Wants(content)) {
    TG_ASSIGN_OR_RETURN(const auto refusal, bases_->TakeBlock(content, index, bytes));
    return refusal ? Refuse("base", {}, 0, refusal->rule, refusal->reason, out) : OkStatus();
  }
  if (!adapter_ || adapter_->whole || content != adapter_->manifest.content) return OkStatus();
  const protocols::AdapterManifest& manifest = adapter_->manifest;
  if (!blocks::BlockSizeFits(manifest.content_bytes, manifest.blocks.size(), index, bytes.size()) ||
      blocks::BlockId(bytes) != manifest.blocks.items[index]) {
    return Refuse("adapter", manifest.job, manifest.version, "block",
                  fmt::format("block {} does not have the bytes of its id", index), out);
  }
  if (const auto refusal = gate::ParametersRule(bytes)) {
    adapter_->refused = true;
    adapter_->parameters = Bytes();
    SayKnown(out);
    return Refuse("adapter", manifest.job, manifest.version, refusal->rule,
                  fmt::format("block {}: {}", index, refusal->reason), out);
  }
  // Hashed above.
  TG_RETURN_IF_ERROR(spool_.inbox().PutHashed(manifest.blocks.items[index], bytes));
  Bytes& parameters = adapter_->parameters;
  if (index * protocols::kBlockBytes == parameters.size()) {
    if (parameters.empty()) {
      parameters.reserve(manifest.content_bytes);
      AdviseHugePages(parameters.data(), manifest.content_bytes);
    }
    parameters.insert(parameters.end(), bytes.begin(), bytes.end());
  }
  adapter_->missing.erase(manifest.blocks.items[index]);
  if (!adapter_->missing.empty()) return OkStatus();
  TG_RETURN_IF_ERROR(spool_.inbox().Sync());
  adapter_->whole = true;
  TG_RETURN_IF_ERROR(NoteAdapter(out));
  SayKnown(out);
  return OkStatus();
}

}  // namespace tidegate::onshore
