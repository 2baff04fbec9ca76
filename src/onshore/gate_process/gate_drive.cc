// What the gate says to its peers in the state of now (gate_core.h, Drive).
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/memory.h"
#include "onshore/gate_process/effects.h"
#include "onshore/gate_process/gate_core.h"
#include "onshore/sandbox/statement.h"
#include "protocols/messages.h"
#include "protocols/strategy.h"

namespace tidegate::onshore {
namespace {

// Adapter blocks asked for at once: 16 MiB.
constexpr uint32_t kWantAtOnce = 64;
// New statements of a peer that go into the ledger between two starts of the gate.
constexpr size_t kMaxStatements = 100;

// Why this statement is not enough for the policy; nothing if it is. Link may be one without a
// network.
std::optional<std::string> Lacking(const gate::Policy& policy, const std::string& text,
                                   bool trainer) {
  const auto statement = DecodeStatement(text);
  if (!statement) return "its isolation statement does not decode";
  const Role role = statement->report.role;
  const bool fits =
      trainer ? role == Role::kTrainer : role == Role::kLink || role == Role::kCarrier;
  if (!fits) return "its isolation statement is of another role";
  if (const Status open = CheckNoneOpen(statement->rows); !open.ok()) return open.message();
  for (const std::string& name : policy.walls) {
    const auto set = ParseWallSet(name);
    if (!set) return "the policy demands an unknown wall " + name;
    for (int i = 0; i < kWallCount; ++i) {
      const auto wall = static_cast<Wall>(i);
      const WallState state = statement->report.row(wall).state;
      if (set->Has(wall) && state != WallState::kUp && state != WallState::kNotForRole) {
        return "wall " + name + " is demanded by the policy and does not stand";
      }
    }
  }
  return std::nullopt;
}

}  // namespace

Result<GateEffects> GateCore::OnHello(To from) {
  GateEffects out;
  if (from == To::kTrainer) {
    trainer_up_ = true;
    trainer_has_job_ = trainer_stopped_ = dataset_told_ = false;
    outside_.reset();
    trainer_version_.reset();
    trainer_round_.reset();
    trainer_freed_.reset();
    trainer_walls_.reset();
  } else {
    link_up_ = true;
    link_walls_.reset();
    link_connected_.reset();
    link_asks_waiting_ = false;
    wanted_version_.reset();
    bases_->ForgetAsked();
    SayKnown(&out);
    TG_RETURN_IF_ERROR(OfferOpen(&out));
  }
  TG_RETURN_IF_ERROR(Drive(&out));
  return out;
}

Result<GateEffects> GateCore::OnIsolation(To from, const std::string& statement) {
  GateEffects out;
  const bool trainer = from == To::kTrainer;
  // One a generation, and not without end: they are stored, and a peer may be hostile. The other
  // peer is still heard then.
  size_t& taken = statements_[static_cast<size_t>(from)];
  if ((trainer ? trainer_walls_ : link_walls_) || taken >= kMaxStatements) return out;
  TG_ASSIGN_OR_RETURN(const bool fresh, KeepStatement(trainer ? "trainer" : "link", statement));
  if (fresh) ++taken;
  const auto lacking = Lacking(identity_.policy, statement, trainer);
  (trainer ? trainer_walls_ : link_walls_) = lacking.value_or("");
  if (lacking) {
    TG_RETURN_IF_ERROR(Refuse("walls", {}, 0, trainer ? "trainer" : "link", *lacking, &out));
  }
  if (!trainer && !lacking) TG_RETURN_IF_ERROR(OfferOpen(&out));
  TG_RETURN_IF_ERROR(Drive(&out));
  return out;
}

std::optional<std::string> GateCore::WallsMissing(To from) const {
  const auto& walls = from == To::kTrainer ? trainer_walls_ : link_walls_;
  if (!walls) return "no isolation statement yet";
  if (!walls->empty()) return *walls;
  return std::nullopt;
}

// Numbers and a name for status, each when it has changed.
void GateCore::TellState(GateEffects* out) {
  if (job_ && job_told_ != job_->id) {
    job_told_ = job_->id;
    TellSupervisor is{ControlType::kJobIs, 0, {0, 0, job_->manifest.rounds, 0}};
    std::memcpy(is.arguments.data(), job_->id.data(), job_->id.size());
    out->push_back(is);
    std::array<char, 2 * sizeof(is.arguments)> name{};
    job_->manifest.name.text.copy(name.data(), name.size());
    for (uint32_t part = 0; part < 2; ++part) {
      TellSupervisor says{ControlType::kJobName, part, {}};
      std::memcpy(says.arguments.data(), name.data() + part * sizeof(says.arguments),
                  sizeof(says.arguments));
      out->push_back(says);
    }
  }
  const bool round = round_ && !round_->closed;
  const std::pair<uint32_t, std::array<int64_t, 4>> state{
      static_cast<uint32_t>(open_.size()),
      {round ? round_->announcement.round : -1LL, adapter_ ? adapter_->manifest.version : -1LL,
       static_cast<int64_t>(spool_.spool().used_bytes()), held_ ? held_->key.round : -1LL}};
  if (state_told_ == state) return;
  state_told_ = state;
  out->push_back(TellSupervisor{ControlType::kGateState, state.first, state.second});
}

Result<GateEffects> GateCore::OnTrainerGone() {
  GateEffects out;
  trainer_up_ = trainer_asked_ = false;
  // The next one may be long in coming.
  if (adapter_ && adapter_->whole) adapter_->parameters = Bytes();
  TG_RETURN_IF_ERROR(Drive(&out));
  return out;
}

Status GateCore::Drive(GateEffects* out) {
  TellState(out);
  // A job that runs or not.
  if (link_up_ && link_connected_.value_or(false)) {
    for (const WantBlocks& want : bases_->Ask()) {
      out->push_back(Say(To::kLink, IpcType::kWantBlocks, want));
    }
  }
  if (!job_) {
    TellWaiting(out);
    return OkStatus();
  }
  // The last adapter is nothing to wait for when it was refused.
  if (adapter_ && adapter_->refused && adapter_->manifest.final && open_.empty()) job_ended_ = true;
  if (!job_ended_ && !trainer_up_ && !trainer_asked_) {
    trainer_asked_ = true;
    out->push_back(TellSupervisor{ControlType::kNeedTrainer, 0, {}});
  }
  if (link_up_ && !job_ended_) WantMissingBlocks(out);
  if (trainer_up_) TG_RETURN_IF_ERROR(DriveTrainer(out));
  if (job_ended_ && !end_told_) TellEnd(out);
  TellWaiting(out);
  return OkStatus();
}

// Whether everything that is to come depends on what the coordinator says next, or on people of the
// site. What a trainer does after its job's end is between it and the supervisor.
bool GateCore::WaitsForCoordinator() const {
  if (!job_ || job_ended_ || !adapter_) return true;
  if (trainer_walls_ && !trainer_walls_->empty()) return true;  // it will never be asked
  if (!adapter_->whole) return adapter_->refused;
  if (adapter_->manifest.final) return !open_.empty();
  if (!round_ || round_->closed || round_->announcement.adapter_manifest != adapter_->digest) {
    return true;
  }
  // For its approval, or for room that a receipt makes.
  if (held_ || (round_waits_ && !open_.empty())) return true;
  const protocols::RoundAnnouncement& round = round_->announcement;
  return RoundSpent(round.round, round.phase) || RoundRefused(round.round) ||
         (protocols::CarriesOver(job_->manifest) && AwaitsReceipt());
}

void GateCore::TellWaiting(GateEffects* out) {
  if (!link_asks_waiting_ || !WaitsForCoordinator()) return;
  link_asks_waiting_ = false;
  out->push_back(Say(To::kLink, IpcType::kWaiting, Waiting{KnownNow(), true}));
}

Result<GateEffects> GateCore::OnAskWaiting() {
  GateEffects out;
  link_asks_waiting_ = true;
  TG_RETURN_IF_ERROR(Drive(&out));
  if (link_asks_waiting_) {
    out.push_back(Say(To::kLink, IpcType::kWaiting, Waiting{KnownNow(), false}));
  }
  return out;
}

Result<GateEffects> GateCore::OnLinkState(bool connected) {
  GateEffects out;
  // What link was told before it said anything, it has asked for. It may have lost one connection
  // of several, and says that it is connected once more.
  if (connected && link_connected_.has_value()) {
    wanted_version_.reset();
    bases_->ForgetAsked();
  }
  link_connected_ = connected;
  TG_RETURN_IF_ERROR(Drive(&out));
  return out;
}

void GateCore::WantMissingBlocks(GateEffects* out) {
  if (!adapter_ || adapter_->whole || adapter_->refused) return;
  if (wanted_version_ == adapter_->manifest.version) return;
  wanted_version_ = adapter_->manifest.version;
  const auto& blocks = adapter_->manifest.blocks.items;
  const auto missing = [this](const Digest& id) { return adapter_->missing.contains(id); };
  for (uint32_t i = 0; i < blocks.size();) {
    if (!missing(blocks[i])) {
      ++i;
      continue;
    }
    uint32_t end = i + 1;
    while (end < blocks.size() && end - i < kWantAtOnce && missing(blocks[end])) ++end;
    out->push_back(
        Say(To::kLink, IpcType::kWantBlocks, WantBlocks{adapter_->manifest.content, i, end - i}));
    i = end;
  }
}

Result<Bytes> GateCore::AdapterParameters() {
  Bytes parameters = std::exchange(adapter_->parameters, {});
  if (parameters.size() == adapter_->manifest.content_bytes) return parameters;
  parameters = Bytes();
  parameters.reserve(adapter_->manifest.content_bytes);
  AdviseHugePages(parameters.data(), adapter_->manifest.content_bytes);
  for (const Digest& id : adapter_->manifest.blocks.items) {
    auto block = spool_.inbox().Get(id);
    if (!block) {
      // A damaged block is fetched again.
      adapter_->whole = false;
      adapter_->missing.insert(id);
      wanted_version_.reset();
      return Unexpected(block.error());
    }
    parameters.insert(parameters.end(), block->begin(), block->end());
  }
  return parameters;
}

void GateCore::TellEnd(GateEffects* out) {
  end_told_ = true;
  const uint32_t version = adapter_ ? adapter_->manifest.version : 0;
  out->push_back(TellSupervisor{ControlType::kJobEnded, 0, {version, 0, 0, 0}});
}

// The trainer ends now; the next one says hello.
void GateCore::EndJob(GateEffects* out) {
  const uint32_t version = adapter_ ? adapter_->manifest.version : 0;
  job_ended_ = trainer_stopped_ = true;
  trainer_up_ = false;
  out->push_back(Say(To::kTrainer, IpcType::kStop, Stop{job_->id, version}));
  TellEnd(out);
}

Status GateCore::DriveTrainer(GateEffects* out) {
  if (WallsMissing(To::kTrainer) || trainer_stopped_) return OkStatus();
  if (job_ended_ && !(adapter_ && adapter_->whole && adapter_->manifest.final)) {
    // Of a job that was given up, a trainer that was started again has nothing to do.
    EndJob(out);
    return OkStatus();
  }
  if (!trainer_has_job_) {
    trainer_has_job_ = true;
    out->push_back(SendBulkTo{To::kTrainer, BulkKind::kJob, {}, 0, job_->document.body.items});
  }
  if (!adapter_ || !adapter_->whole) return OkStatus();
  const uint32_t version = adapter_->manifest.version;
  if (trainer_version_ != version) {
    auto parameters = AdapterParameters();
    if (!parameters) {
      WantMissingBlocks(out);
      return parameters.error().code() == Code::kDataLoss ? OkStatus() : parameters.error();
    }
    trainer_version_ = version;
    out->push_back(SendBulkTo{To::kTrainer, BulkKind::kParameters, adapter_->digest, version,
                              std::move(*parameters)});
  }
  if (adapter_->manifest.final && open_.empty()) {
    EndJob(out);
    return OkStatus();
  }
  if (round_ && round_->closed && trainer_freed_ != round_->announcement.round) {
    trainer_freed_ = round_->announcement.round;
    out->push_back(Say(To::kTrainer, IpcType::kRoundResult,
                       RoundResult{job_->id, *trainer_freed_, RoundOutcome::kAbandoned,
                                   "the coordinator abandoned the round"}));
  }
  if (!round_ || round_->closed || round_waits_ || trainer_round_ == round_->announcement.round ||
      round_->announcement.adapter_version != version ||
      round_->announcement.adapter_manifest != adapter_->digest) {
    return OkStatus();
  }
  const protocols::RoundAnnouncement& round = round_->announcement;
  if (RoundSpent(round.round, round.phase) || RoundRefused(round.round)) return OkStatus();
  // It begins with what became of the one before: soon known, for an OFFER of a round that has
  // ended is answered with its receipt.
  if (protocols::CarriesOver(job_->manifest) && AwaitsReceipt()) return OkStatus();
  trainer_round_ = round.round;
  RoundStart start;
  start.job = job_->id;
  start.round = round.round;
  start.phase = round.phase;
  start.adapter_version = version;
  start.norm_clip = identity_.policy.norm_clip;
  start.train_loss = identity_.policy.train_loss;
  start.heldout_loss = identity_.policy.heldout_loss;
  start.counted_round = CountedRound();
  if (job_->manifest.norm_clip > 0) {
    start.norm_clip = std::min(start.norm_clip, job_->manifest.norm_clip);
  }
  out->push_back(Say(To::kTrainer, IpcType::kRoundStart, start));
  out->push_back(TellSupervisor{ControlType::kEvent,
                                static_cast<uint32_t>(EventCode::kRoundStarted),
                                {round.round, version, 0, 0}});
  return OkStatus();
}

Known GateCore::KnownNow() const {
  Known known;
  if (job_) known.job = job_->id;
  if (job_ && round_) known.round = round_->announcement.round;
  // A version that is not whole counts as the one before it, so that it is offered again.
  if (adapter_) {
    const uint32_t version = adapter_->manifest.version;
    const bool done = adapter_->whole || adapter_->refused;
    known.adapter_version = done ? version : version == 0 ? 0 : version - 1;
  }
  return known;
}

void GateCore::SayKnown(GateEffects* out) {
  // Without a job too: what the coordinator pushed before this gate could hear it, it pushes again
  // upon the LEASE that follows.
  if (link_up_) out->push_back(Say(To::kLink, IpcType::kKnown, KnownNow()));
}

Status GateCore::OfferOpen(GateEffects* out) {
  for (const auto& [name, manifest] : open_) TG_RETURN_IF_ERROR(Offer(manifest, out));
  return OkStatus();
}

Status GateCore::Offer(const protocols::ReleaseManifest& manifest, GateEffects* out) {
  // The link must be walled as the policy demands before anything is handed to it.
  if (WallsMissing(To::kLink)) return OkStatus();
  TG_ASSIGN_OR_RETURN(const protocols::Signed release,
                      gate::Sealing::Sign(identity_.key, *ledger_, manifest));
  const protocols::Offer offer{release, ledger_->head()};
  out->push_back(
      SendBulkTo{To::kLink, BulkKind::kOffer, manifest.content, 0, protocols::Encode(offer)});
  return OkStatus();
}

Result<GateEffects> GateCore::OnTick() {
  GateEffects out;
  trainer_asked_ = false;
  TG_RETURN_IF_ERROR(bases_->Look());
  if (round_waits_) {
    round_waits_ = false;
    trainer_round_.reset();
  }
  if (held_) {
    TG_ASSIGN_OR_RETURN(const bool decided, HeldIsDecided());
    if (decided) {
      held_.reset();
      trainer_round_.reset();
    }
  }
  const int64_t now = clock_.MonotonicMillis();
  for (const auto& [name, manifest] : open_) {
    const auto due = offer_again_.find(manifest.content);
    if (due == offer_again_.end() || due->second > now || !link_up_) continue;
    offer_again_.erase(due);
    TG_RETURN_IF_ERROR(Offer(manifest, &out));
  }
  TG_RETURN_IF_ERROR(Drive(&out));
  return out;
}

Result<GateEffects> GateCore::OnNeedBlock(const NeedBlock& need) {
  GateEffects out;
  if (WallsMissing(To::kLink)) return out;
  for (const auto& [name, manifest] : open_) {
    if (manifest.content != need.content || need.index >= manifest.blocks.size()) continue;
    TG_ASSIGN_OR_RETURN(Bytes block, spool_.spool().Get(manifest.blocks.items[need.index]));
    out.push_back(
        SendBulkTo{To::kLink, BulkKind::kBlock, need.content, need.index, std::move(block)});
    break;
  }
  return out;
}

}  // namespace tidegate::onshore
