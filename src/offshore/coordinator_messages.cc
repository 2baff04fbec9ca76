// What sites say. Everything here came from a peer: it is answered with ERROR, never with a crash.
#include <algorithm>

#include "base/log.h"
#include "crypto/document.h"
#include "offshore/coordinator.h"

namespace tidegate::offshore {
namespace {

using protocols::Channel;
using protocols::MessageType;

Status BadBody(const protocols::DecodeError& error) {
  return InvalidArgument("the message's body: {}", error.reason);
}

}  // namespace

Status Coordinator::OnMessage(const std::string& name, MessageType type, ByteSpan body) {
  const auto it = sites_.find(name);
  if (it == sites_.end()) return OkStatus();
  Site& site = it->second;
  site.seen_unix_millis = clock_.UnixMillis();
  // A block asks for no more than credit, and credit for no more than blocks of what was published.
  rests_on_blocks_ =
      rests_on_blocks_ ||
      (type != MessageType::kChunk && type != MessageType::kCredit && type != MessageType::kLease);
  switch (type) {
    case MessageType::kOffer:
      return OnOffer(site, body);
    case MessageType::kChunk:
      return OnChunk(site, body);
    case MessageType::kCommit:
      return OnCommit(site, body);
    case MessageType::kWant:
      return OnWant(site, body);
    case MessageType::kCredit:
      return OnCredit(site, body);
    case MessageType::kLease:
      return OnLease(site, body);
    case MessageType::kHave:
      return OkStatus();  // we send what WANT asks for
    case MessageType::kError: {
      const auto error = protocols::Decode<protocols::ErrorMessage>(body);
      if (error && IsSaid(++site.said_errors)) {
        LogWarning("site_error site={} code={} about={} times={}", name, error->code, error->about,
                   site.said_errors);
      }
      return OkStatus();
    }
    default:
      SendError(name, type, {}, InvalidArgument("a site does not send this message"));
      return OkStatus();
  }
}

void Coordinator::Site::Remember(const protocols::ReleaseManifest& release) {
  taken.emplace_back(release.content, release.key);
  if (taken.size() > kTakenRemembered) taken.pop_front();
}

Result<protocols::Signed> Coordinator::SignReceipt(const protocols::ReleaseManifest& release,
                                                   const std::string& head,
                                                   protocols::ReceiptOutcome outcome, int64_t now) {
  protocols::Receipt receipt;
  receipt.federation = config_.federation;
  receipt.key = release.key;
  receipt.content = release.content;
  receipt.outcome = outcome;
  receipt.accepted_unix_millis = now;
  receipt.ledger_head = head;
  return crypto::SignDocument(keys_.sign, crypto::domains::kReceipt, receipt);
}

Result<bool> Coordinator::AnswerFromStore(Site& site, const protocols::ReleaseManifest& release) {
  TG_ASSIGN_OR_RETURN(const auto known, store_->Update(release.key));
  if (!known) return false;
  const std::string& name = site.stored.name;
  if (known->content != release.content) {
    TG_RETURN_IF_ERROR(store_->LogEquivocation(release.key, release.content, clock_.UnixMillis()));
    SendError(name, MessageType::kOffer, release.content,
              AlreadyExists("equivocation: another update of round {} was taken from this site",
                            release.key.round));
    return true;
  }
  TG_ASSIGN_OR_RETURN(const auto receipt, store_->ReceiptOf(release.key));
  if (!receipt) return DataLoss("the store has an update without its receipt");
  Send(name, Channel::kControl, MessageType::kReceipt,
       protocols::Encode(protocols::ReceiptMessage{*receipt}));
  return true;
}

Status Coordinator::OnOffer(Site& site, ByteSpan body) {
  const std::string& name = site.stored.name;
  const auto refuse = [&](const Digest& content, const Status& why) {
    SendError(name, MessageType::kOffer, content, why);
    return OkStatus();
  };
  const auto offer = protocols::Decode<protocols::Offer>(body);
  if (!offer) return refuse({}, BadBody(offer.error()));
  auto release = protocols::Decode<protocols::ReleaseManifest>(offer->release.body.items);
  if (!release) return refuse({}, BadBody(release.error()));
  JobRun* job = FindJob(release->key.job);
  if (job == nullptr) return refuse(release->content, NotFound("the job is not known here"));
  const Status status = CheckRelease(offer->release, *release, job->facts, name, site.key);
  if (!status.ok()) return refuse(release->content, status);
  const auto head = CheckLedgerHead(offer->ledger_head.text, *release, site.key);
  if (!head) return refuse(release->content, head.error());
  TG_ASSIGN_OR_RETURN(const Status in_order, JudgeHead(site, *head));
  if (!in_order.ok()) return refuse(release->content, in_order);
  TG_ASSIGN_OR_RETURN(const bool answered, AnswerFromStore(site, *release));
  if (answered) return OkStatus();
  TG_ASSIGN_OR_RETURN(const auto round, store_->Round(job->facts.id, release->key.round));
  if (!round) {
    return refuse(release->content, NotFound("round {} was never announced", release->key.round));
  }
  const auto announcement =
      protocols::Decode<protocols::RoundAnnouncement>(round->announcement.body.items);
  if (!announcement) return DataLoss("a stored announcement: {}", announcement.error().reason);
  if (announcement->recipient != release->recipient) {
    return refuse(
        release->content,
        InvalidArgument("the update is sealed to another key than round {}'s", release->key.round));
  }
  if (!job->collecting() || federation::CurrentRound(job->state) != release->key.round) {
    return AcceptLate(site, *release, offer->release, offer->ledger_head.text);
  }
  if (!job->Asks(name)) {
    return refuse(release->content,
                  PermissionDenied("round {} does not ask this site", release->key.round));
  }
  return TakeOffer(site, *offer, std::move(*release));
}

Status Coordinator::TakeOffer(Site& site, const protocols::Offer& offer,
                              protocols::ReleaseManifest release) {
  const std::string& name = site.stored.name;
  // Until one is taken, the last offer under a key is the one that counts.
  std::erase_if(site.offers, [&](const auto& other) {
    const bool replaced =
        other.second.manifest.key == release.key && other.first != release.content;
    if (replaced) LeaveOff(site, other.second);
    return replaced;
  });
  if (site.offers.size() >= kMaxOffersPerSite && !site.offers.contains(release.content)) {
    SendError(name, MessageType::kOffer, release.content,
              ResourceExhausted("{} offers of this site are under way; finish one first",
                                site.offers.size()));
    return OkStatus();
  }
  const Digest content = release.content;
  std::erase_if(site.left_off, [&](const LeftOff& other) { return other.content == content; });
  std::vector<bool> have;
  for (const Digest& id : release.blocks.items) have.push_back(blocks_.Has(id));
  Incoming fresh(offer.release, std::move(release), offer.ledger_head.text, std::move(have));
  Incoming& incoming = site.offers.insert_or_assign(content, std::move(fresh)).first->second;
  Send(name, Channel::kControl, MessageType::kHave,
       protocols::Encode(incoming.receiver.HaveMessage()));
  incoming.announced = incoming.receiver.complete();
  for (const protocols::Want& want : incoming.receiver.Ask()) {
    Send(name, Channel::kControl, MessageType::kWant, protocols::Encode(want));
  }
  return OkStatus();
}

Status Coordinator::OnChunk(Site& site, ByteSpan body) {
  const std::string& name = site.stored.name;
  const auto chunk = protocols::DecodeChunk(body);
  if (!chunk) {
    SendError(name, MessageType::kChunk, {}, BadBody(chunk.error()));
    return OkStatus();
  }
  site.bytes_in += chunk->bytes.size();
  const auto it = site.offers.find(chunk->content);
  // Of an offer that was taken, refused or dropped: nothing to say.
  if (it == site.offers.end()) return OkStatus();
  Incoming& incoming = it->second;
  transport::BlockReceiver& receiver = incoming.receiver;
  if (!receiver.Fits(*chunk)) {
    SendError(name, MessageType::kChunk, chunk->content,
              InvalidArgument("block {} of {} bytes is not of this content", chunk->index,
                              chunk->bytes.size()));
    return OkStatus();
  }
  const Status put = blocks_.Put(incoming.manifest.blocks.items[chunk->index], chunk->bytes);
  if (put.code() == Code::kInvalidArgument) {
    SendError(name, MessageType::kChunk, chunk->content,
              DataLoss("block {} does not have the bytes of its id", chunk->index));
    return OkStatus();
  }
  if (put.code() == Code::kResourceExhausted) return RefuseUpdate(site, chunk->content, put);
  TG_RETURN_IF_ERROR(put);
  took_blocks_ = true;
  if (JobRun* job = FindJob(incoming.manifest.key.job); job != nullptr) {
    job->bytes_in += chunk->bytes.size();
  }
  if (const auto credit = receiver.Stored(chunk->index, chunk->bytes.size())) {
    Send(name, Channel::kBulk, MessageType::kCredit, protocols::Encode(*credit));
  }
  if (!receiver.complete()) return OkStatus();
  rests_on_blocks_ = true;
  if (!std::exchange(incoming.announced, true)) {
    Send(name, Channel::kControl, MessageType::kHave, protocols::Encode(receiver.HaveMessage()));
  }
  return incoming.commit_asked ? TakeUpdate(site, chunk->content) : OkStatus();
}

Status Coordinator::OnCommit(Site& site, ByteSpan body) {
  const std::string& name = site.stored.name;
  const auto commit = protocols::Decode<protocols::Commit>(body);
  if (!commit) {
    SendError(name, MessageType::kCommit, {}, BadBody(commit.error()));
    return OkStatus();
  }
  const auto it = site.offers.find(commit->content);
  if (it == site.offers.end()) return CommitAgain(site, commit->content);
  it->second.commit_asked = true;
  return it->second.receiver.complete() ? TakeUpdate(site, commit->content) : OkStatus();
}

// Not under way: taken already, or never offered on this connection.
Status Coordinator::CommitAgain(Site& site, const Digest& content) {
  const std::string& name = site.stored.name;
  for (const auto& [taken, key] : site.taken) {
    if (taken != content) continue;
    TG_ASSIGN_OR_RETURN(const auto receipt, store_->ReceiptOf(key));
    if (!receipt) return DataLoss("the store has an update without its receipt");
    Send(name, Channel::kControl, MessageType::kReceipt,
         protocols::Encode(protocols::ReceiptMessage{*receipt}));
    return OkStatus();
  }
  SendError(name, MessageType::kCommit, content,
            NotFound("no such content is offered; offer it (again)"));
  return OkStatus();
}

Status Coordinator::RefuseUpdate(Site& site, const Digest& content, const Status& why) {
  if (const auto it = site.offers.find(content); it != site.offers.end()) {
    RemoveLater(it->second.manifest.blocks.items);
    site.offers.erase(it);
  }
  SendError(site.stored.name, MessageType::kCommit, content, why);
  return OkStatus();
}

// No more of them than may be under way: or a site that offers again and again, and never ends,
// would fill the store.
void Coordinator::LeaveOff(Site& site, const Incoming& incoming) {
  const protocols::ReleaseManifest& release = incoming.manifest;
  site.left_off.push_back({release.key, release.content, release.blocks.items});
  if (site.left_off.size() <= kMaxOffersPerSite) return;
  RemoveLater(site.left_off.front().blocks);
  site.left_off.pop_front();
}

std::optional<Digest> Coordinator::FirstDamaged(const protocols::ReleaseManifest& release) {
  for (const Digest& id : release.blocks.items) {
    if (!blocks_.Get(id)) return id;
  }
  return std::nullopt;
}

Status Coordinator::TakeUpdate(Site& site, const Digest& content) {
  const std::string& name = site.stored.name;
  const Incoming& incoming = site.offers.at(content);
  const protocols::ReleaseManifest release = incoming.manifest;
  JobRun* job = FindJob(release.key.job);
  if (job == nullptr || !job->collecting() ||
      federation::CurrentRound(job->state) != release.key.round) {
    return Internal("an offer outlived its round");
  }
  TG_ASSIGN_OR_RETURN(const crypto::AgreeSecretKey key,
                      store_->RecipientKey(job->facts.id, release.key.round));
  std::optional<Digest> lost;
  const auto plain = OpenUpdate(release, job->facts, key, [&](const Digest& id) {
    auto block = blocks_.GetUnverified(id);
    if (!block) lost = id;
    return block;
  });
  // Each block was hashed when it came: if it does not open, whose fault is it?
  if (!plain && !lost) lost = FirstDamaged(release);
  if (lost) {
    // Damaged on our disk: fetched again.
    LogWarning("update_block_lost site={} block={}", name, ToHex(*lost));
    TG_RETURN_IF_ERROR(blocks_.Remove(*lost));
    return TakeOffer(site, {incoming.document, incoming.ledger_head}, release);
  }
  if (!plain) return RefuseUpdate(site, content, plain.error());
  const auto header = protocols::ReadUpdateHeader(*plain);
  if (!header) return Internal("a checked update has no header: {}", header.error().reason);
  federation::StoredUpdate update;
  update.key = release.key;
  update.content = release.content;
  update.weight = header->weight;
  update.release = incoming.document;
  update.accepted_unix_millis = clock_.UnixMillis();
  update.train_loss_milli = header->metrics.train_loss_milli;
  update.heldout_loss_milli = header->metrics.heldout_loss_milli;
  TG_ASSIGN_OR_RETURN(
      const protocols::Signed receipt,
      SignReceipt(release, incoming.ledger_head, protocols::ReceiptOutcome::kCounted,
                  update.accepted_unix_millis));
  const federation::UpdateAccepted event{
      name, release.key.round, {release.content, header->weight}};
  TG_RETURN_IF_ERROR(store_->AcceptUpdate(update, event, receipt));
  TG_RETURN_IF_ERROR(RememberHead(site, incoming.ledger_head));
  site.offers.erase(release.content);
  site.Remember(release);
  job->losses[name] = {release.key.round, update.train_loss_milli, update.heldout_loss_milli};
  job->history.Took(update, release.ciphertext_bytes);
  LogInfo("update_accepted job={} round={} site={} bytes={} weight={}",
          job->facts.manifest.name.text, release.key.round, name, release.ciphertext_bytes,
          header->weight);
  Send(name, Channel::kControl, MessageType::kReceipt,
       protocols::Encode(protocols::ReceiptMessage{receipt}));
  return Apply(*job, event);
}

Status Coordinator::AcceptLate(Site& site, const protocols::ReleaseManifest& release,
                               const protocols::Signed& document, const std::string& head) {
  federation::StoredUpdate update;
  update.key = release.key;
  update.content = release.content;
  update.release = document;
  update.accepted_unix_millis = clock_.UnixMillis();
  update.outcome = protocols::ReceiptOutcome::kLate;
  TG_ASSIGN_OR_RETURN(const protocols::Signed receipt,
                      SignReceipt(release, head, update.outcome, update.accepted_unix_millis));
  TG_RETURN_IF_ERROR(store_->AcceptUpdate(update, std::nullopt, receipt));
  TG_RETURN_IF_ERROR(RememberHead(site, head));
  site.Remember(release);
  LogInfo("update_late round={} site={}", release.key.round, site.stored.name);
  Send(site.stored.name, Channel::kControl, MessageType::kReceipt,
       protocols::Encode(protocols::ReceiptMessage{receipt}));
  return OkStatus();
}

Status Coordinator::OnWant(Site& site, ByteSpan body) {
  const std::string& name = site.stored.name;
  const auto want = protocols::Decode<protocols::Want>(body);
  if (!want) {
    SendError(name, MessageType::kWant, {}, BadBody(want.error()));
    return OkStatus();
  }
  auto it = site.outflows.find(want->content);
  if (it == site.outflows.end()) {
    const auto job = std::find_if(jobs_.rbegin(), jobs_.rend(), [&](const auto& j) {
      return j->version.content == want->content && j->Names(name);
    });
    const bool base = job == jobs_.rend();
    const auto blocks =
        base ? bases_->BlocksOf(want->content)
             : std::make_shared<const std::vector<Digest>>((*job)->version.blocks.items);
    if (blocks == nullptr) {
      SendError(name, MessageType::kWant, want->content,
                NotFound("this content is neither the newest adapter of a job of this site nor of "
                         "a base in force"));
      return OkStatus();
    }
    if (site.outflows.size() >= kMaxOutflowsPerSite) {
      site.outflows.erase(std::min_element(
          site.outflows.begin(), site.outflows.end(),
          [](const auto& a, const auto& b) { return a.second.wanted < b.second.wanted; }));
    }
    it = site.outflows.emplace(want->content, Outflow(want->content, blocks, base)).first;
  }
  it->second.wanted = ++site.wants;
  if (!it->second.sender.OnWant(*want)) {
    SendError(name, MessageType::kWant, want->content,
              InvalidArgument("blocks {} + {} are not of this content, or too many ranges wait",
                              want->first, want->count));
    return OkStatus();
  }
  return FillOutflow(site, it->second);
}

Status Coordinator::OnCredit(Site& site, ByteSpan body) {
  const auto credit = protocols::Decode<protocols::Credit>(body);
  if (!credit) {
    SendError(site.stored.name, MessageType::kCredit, {}, BadBody(credit.error()));
    return OkStatus();
  }
  const auto it = site.outflows.find(credit->content);
  if (it == site.outflows.end()) return OkStatus();
  if (!it->second.sender.OnCredit(*credit)) {
    SendError(site.stored.name, MessageType::kCredit, credit->content,
              InvalidArgument("credit of {} bytes; {} is the most", credit->bytes,
                              protocols::kMaxCreditBytes));
    return OkStatus();
  }
  return FillOutflow(site, it->second);
}

Status Coordinator::FillOutflow(Site& site, Outflow& outflow) {
  for (;;) {
    if (site.turn_bytes >= kMaxTurnBytes) {
      site.owed = true;
      return OkStatus();
    }
    const auto index = outflow.sender.Next();
    if (!index) return OkStatus();
    auto block = BlockOf(outflow, *index);
    if (!block) {
      LogError("{}_block_lost content={} block={} reason={}", outflow.base ? "base" : "adapter",
               ToHex(outflow.content), *index, block.error().ToString());
      SendError(site.stored.name, MessageType::kWant, outflow.content,
                DataLoss("block {} of this content was lost here", *index));
      return OkStatus();
    }
    SendChunk(site.stored.name, {outflow.content, *index, block->first}, std::move(block->second));
  }
}

// With what keeps its memory.
Result<std::pair<ByteSpan, std::shared_ptr<const void>>> Coordinator::BlockOf(
    const Outflow& outflow, uint32_t index) {
  if (kept_ != nullptr && kept_content_ == outflow.content) {
    const ByteSpan whole = BytesOf(*kept_);
    const size_t at = index * protocols::kBlockBytes;
    return std::pair(whole.subspan(at, std::min(protocols::kBlockBytes, whole.size() - at)),
                     std::shared_ptr<const void>(kept_));
  }
  const Digest& id = (*outflow.blocks)[index];
  auto read = outflow.base ? bases_->Block(id) : blocks_.Get(id);
  if (!read) return Unexpected(read.error());
  const auto block = std::make_shared<const Bytes>(std::move(*read));
  return std::pair(ByteSpan(*block), std::shared_ptr<const void>(block));
}

// What a turn before had no room for.
Status Coordinator::FillOwed() {
  for (auto& [name, site] : sites_) {
    if (!std::exchange(site.owed, false)) continue;
    for (auto& [content, outflow] : site.outflows) TG_RETURN_IF_ERROR(FillOutflow(site, outflow));
  }
  return OkStatus();
}

Status Coordinator::OnLease(Site& site, ByteSpan body) {
  const std::string& name = site.stored.name;
  const auto lease = protocols::Decode<protocols::Lease>(body);
  if (!lease) {
    SendError(name, MessageType::kLease, {}, BadBody(lease.error()));
    return OkStatus();
  }
  JobRun* job = FindJob(lease->job);
  if (job != nullptr && !job->Names(name)) job = nullptr;
  protocols::Lease answer;
  answer.session = lease->session;
  answer.come_back_millis = config_.lease_millis;
  if (job != nullptr) {
    answer.job = job->facts.id;
    answer.round = job->Asks(name) ? federation::CurrentRound(job->state) : lease->round;
    answer.adapter_version = job->version.version;
  }
  Send(name, Channel::kControl, MessageType::kLease, protocols::Encode(answer));
  site.works_for = job != nullptr && !job->ended() ? std::optional(job->facts.id) : std::nullopt;
  const bool behind = job != nullptr && (lease->adapter_version < answer.adapter_version ||
                                         lease->round < answer.round);
  if (job != nullptr && job->ended()) {
    if (behind) Push(name, *job);
    TG_ASSIGN_OR_RETURN(const auto notice, store_->Notice(job->facts.id, 0));
    if (notice && site.told_ended.insert(job->facts.id).second) {
      Send(name, Channel::kControl, MessageType::kAbandon,
           protocols::Encode(protocols::Abandon{*notice}));
    }
    if (behind && !notice) return OkStatus();  // it ends with its last adapter
  }
  if (job != nullptr && !job->ended()) {
    site.told_of = site.works_for;
    if (behind) Push(name, *job);
    return OkStatus();
  }
  // It works for no open job: tell it of the next one, or of the last one that it has missed.
  JobRun* last = nullptr;
  bool open = false;
  for (const auto& other : jobs_) {
    if (!other->Names(name)) continue;
    last = other.get();
    open = open || !other->ended();
  }
  // What it was told of may be lost, with a gate that was not up, or be under way: it is told
  // again, once, before its policy is taken to have refused it.
  JobRun* told = site.told_of ? FindJob(*site.told_of) : nullptr;
  if (told != nullptr && !told->ended() && ++site.leases_since <= 2) {
    if (site.leases_since == 2) Push(name, *told);
  } else if (open) {
    PushNext(site);
  }
  if (!open && job == nullptr && last != nullptr) Push(name, *last);
  return OkStatus();
}

}  // namespace tidegate::offshore
