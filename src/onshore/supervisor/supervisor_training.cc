// Whether the trainer that the gate wants may run, and what is known of its job.
#include <cstring>

#include "base/log.h"
#include "onshore/supervisor/supervisor.h"

namespace tidegate::onshore {
namespace {

// An optimizer step of a large model may take minutes, and it saves its state after it.
constexpr int64_t kPauseMillis = 1'800'000;
// One that trains nothing has nothing to save, and must not stay for a client that holds it up.
constexpr int64_t kOutsideMillis = 10'000;
constexpr size_t kNameBytesAtOnce = 32;

int64_t MonotonicNow() { return SystemClock().MonotonicMillis(); }

uint32_t Number(int64_t value) {
  return value < 0 || value >= UINT32_MAX ? api::kNoNumber : static_cast<uint32_t>(value);
}

}  // namespace

void Supervisor::Remember(Source source, EventCode code, std::array<int64_t, 4> arguments) {
  ring_.Add(SystemClock().UnixMillis(), source, static_cast<uint32_t>(code), arguments);
}

void Supervisor::Note(EventCode code, std::array<int64_t, 4> arguments) {
  LogInfo("{}", EventText(static_cast<uint32_t>(code), arguments));
  Remember(Source::kSupervisor, code, arguments);
}

// What it says is acted upon even where its budget of lines is used up; the supervisor's own codes
// are not a child's to say.
void Supervisor::OnEvent(Process& process, const ControlMessage& message) {
  const auto& arguments = message.arguments;
  if (message.code >= kFirstOwnEvent) return;
  if (Log(process, EventText(message.code, arguments))) {
    Remember(static_cast<Source>(process.kind), static_cast<EventCode>(message.code),
             NamedArguments(message.code, arguments));
  }
  const bool of_gate = process.kind == Kind::kGate, of_link = process.kind == Kind::kLink;
  const bool of_trainer = process.kind == Kind::kTrainer;
  switch (static_cast<EventCode>(message.code)) {
    case EventCode::kConnected:
    case EventCode::kLeaseAnswered:
      if (!of_link) return;
      lost_since_.reset();
      ClearHold(Hold::kCoordinatorLost);
      return;
    case EventCode::kDisconnected:
    case EventCode::kLeaseUnanswered:
      if (of_link) CoordinatorLost();
      return;
    case EventCode::kRoundStarted:
      if (of_gate) job_.round = Number(arguments[0]);
      return;
    case EventCode::kTrained:
      if (of_trainer) job_.train_loss_milli = arguments[2];
      return;
    case EventCode::kEvaluated:
      if (of_trainer) job_.heldout_loss_milli = arguments[2];
      return;
    default:
      return;
  }
}

void Supervisor::OnJob(const ControlMessage& message) {
  const auto& arguments = message.arguments;
  if (message.type == ControlType::kJobIs) {
    std::array<uint8_t, 16> id;
    std::memcpy(id.data(), arguments.data(), id.size());
    if (id != job_.id) job_ = JobView{};
    job_.id = id;
    job_.rounds = Number(arguments[2]);
    if (!state_.job_stopped || state_.stopped_job == id) return;
    // Another job: what was said of the one before does not hold for it.
    SiteState next = state_;
    next.job_stopped = false;
    if (const Status saved = SaveState(std::move(next)); !saved.ok()) {
      LogWarning("state_not_saved {}", saved.ToString());
      return;
    }
    ClearHold(Hold::kJobStopped);
  } else if (message.type == ControlType::kJobName) {
    const size_t at = message.code * kNameBytesAtOnce;
    if (message.code > 1) return;
    std::memcpy(job_.name.data() + at, arguments.data(), kNameBytesAtOnce);
    for (char& c : job_.name) {
      if (c != 0 && (c < 0x20 || c == 0x7f)) c = '?';
    }
    job_.name.back() = '\0';
  } else {
    // The gate's word is the last one on both: an event may have been lost.
    job_.round = Number(arguments[0]);
    job_.adapter_version = Number(arguments[1]);
    job_.spool_bytes = arguments[2] < 0 ? 0 : static_cast<uint64_t>(arguments[2]);
    job_.held_round = Number(arguments[3]);
    job_.open_exports = message.code;
  }
}

void Supervisor::SetHold(Hold hold) {
  if (IsHeld(hold)) return;
  holds_ |= 1u << static_cast<uint32_t>(hold);
  Note(EventCode::kHeld, {static_cast<int64_t>(hold)});
  Process& process = trainer();
  if (outside_) return;  // not the site's own training
  if (process.running()) return StopTrainer();
  if (!process.start_at) return;
  process.start_at.reset();
  Say(gate(), ControlType::kTrainerGone);
}

void Supervisor::ClearHold(Hold hold) {
  if (!IsHeld(hold)) return;
  holds_ &= ~(1u << static_cast<uint32_t>(hold));
  Note(EventCode::kReleased, {static_cast<int64_t>(hold)});
  Process& process = trainer();
  // One that still ends is started again at its end.
  if (holds_ == 0 && process.wanted && !process.running() && !process.start_at) {
    process.start_at = std::max(MonotonicNow(), process.not_before);
  }
}

// After the optimizer step at hand, with its state saved. One whose job has ended ends by itself,
// but one that a client holds up.
void Supervisor::StopTrainer() {
  Process& process = trainer();
  const bool ends_itself = job_ended_ && !process.outside;
  if (!process.running() || process.stop_by || ends_itself || !process.control.valid()) return;
  process.stop_by = MonotonicNow() + (process.outside ? kOutsideMillis : kPauseMillis);
  Say(process, ControlType::kStop);
}

void Supervisor::CoordinatorLost() {
  if (!lost_since_ && options_.folder.empty()) lost_since_ = MonotonicNow();
}

// Its memory is free for others until the coordinator is back.
void Supervisor::CheckCoordinator() {
  const int64_t most = int64_t{1000} * config_.free_trainer_seconds;
  if (lost_since_ && MonotonicNow() - *lost_since_ >= most) SetHold(Hold::kCoordinatorLost);
}

bool Supervisor::HasOwnDatasets() const {
  return std::any_of(state_.sources.begin(), state_.sources.end(),
                     [](DatasetSource source) { return source != DatasetSource::kSite; });
}

// What is on disk is what holds.
Status Supervisor::SaveState(SiteState state) {
  TG_RETURN_IF_ERROR(SaveSiteState(options_.site / "site-state", state));
  state_ = std::move(state);
  return OkStatus();
}

}  // namespace tidegate::onshore
