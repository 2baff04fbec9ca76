#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "base/program.h"
#include "onshore/api/events.h"
#include "onshore/supervisor/generations.h"
#include "onshore/supervisor/supervisor.h"
#include "protocols/limits.h"

namespace tidegate::onshore {
namespace {

constexpr size_t kMaxLogLine = 2000;
constexpr size_t kLogBytesAtOnce = 64 << 10;  // what a pipe holds
constexpr int kAllMessages = 4096;            // more than a pair holds
constexpr int kUsage = 64;                    // docs/exit-codes.md

int64_t MonotonicNow() { return SystemClock().MonotonicMillis(); }

// A start of link dials its line for control and every stripe at once; where the network then cuts
// them all, so does the first try to come back, a tenth of a second later.
static_assert(AddressPin::kBurst >= 2 * (1 + protocols::kMaxStripes));

// Whether a process that exits so would do so again: it said what is wrong with its input.
bool IsRefusal(const ChildEnd& end) {
  if (end.end != End::kCrash || end.signal != 0) return false;
  switch (static_cast<Code>(end.exit_status)) {
    case Code::kInvalidArgument:
    case Code::kNotFound:
    case Code::kAlreadyExists:
    case Code::kFailedPrecondition:
    case Code::kResourceExhausted:
    case Code::kPermissionDenied:
    case Code::kUnauthenticated:
    case Code::kDataLoss:
    case Code::kUnsupported:
      return true;
    default:
      return end.exit_status == kUsage;
  }
}

}  // namespace

SpawnSpec Supervisor::SpecOf(const Process& process) const {
  SpawnSpec spec;
  spec.program = options_.programs / ("tidegate-" + process.name);
  const bool outside = process.kind == Kind::kTrainer && outside_.has_value();
  if (process.kind == Kind::kTrainer) spec.arguments.push_back(outside ? "outside" : "federated");
  const auto add = [&spec](const char* name, const std::string& value) {
    spec.arguments.push_back(name);
    spec.arguments.push_back(value);
  };
  add("--generation", std::to_string(process.generation));
  add("--dir", options_.site.native());
  add("--walls", config_.walls);
  if (config_.separate_uids) {
    const auto& [trainer, gate, link] = *config_.separate_uids;
    add("--uid", std::to_string(process.kind == Kind::kTrainer ? trainer
                                : process.kind == Kind::kGate  ? gate
                                                               : link));
  }
  if (process.kind == Kind::kLink && !options_.folder.empty()) {
    add("--folder", options_.folder.native());
  } else if (process.kind == Kind::kLink) {
    add("--address", "tcp://" + way_.coordinator);
    if (way_.proxy) add("--proxy", FormatAddress(way_.address));
    add("--stripes", std::to_string(config_.stripes));
  }
  if (process.kind == Kind::kGate && config_.max_spool_bytes != 0) {
    add("--spool_bytes", std::to_string(config_.max_spool_bytes));
  }
  if (process.kind == Kind::kTrainer) {
    if (!outside) AddDatasets(&spec);  // whoever trains outside has its own
    add("--name", config_.name);
    add("--base", config_.base.native());
  }
  if (outside) {
    add("--outside_uid", std::to_string(outside_->uid));
  } else if (process.kind == Kind::kTrainer) {
    add("--threads", std::to_string(config_.threads));
    add("--dtype", config_.dtype);
    add("--device", config_.device);
  } else {
    // They try that they cannot read them.
    const bool by_path = state_.sources[0] == DatasetSource::kPath;
    add("--records", by_path ? state_.paths[0].native() : config_.records.native());
  }
  spec.environment = Environment();
  return spec;
}

// As paths, or as descriptors behind those of control and gate.
void Supervisor::AddDatasets(SpawnSpec* spec) const {
  const std::filesystem::path* of_site[] = {&config_.records, &config_.heldout};
  constexpr const char* kFlags[] = {"--records", "--heldout"};
  int next = kFirstPeerFd + 1;
  for (size_t i = 0; i < kDatasets; ++i) {
    std::string path = of_site[i]->native();
    if (state_.sources[i] == DatasetSource::kPath) path = state_.paths[i].native();
    if (dataset_fds_[i].valid()) path = fmt::format("/dev/fd/{}", next++);
    if (path.empty()) continue;
    spec->arguments.push_back(kFlags[i]);
    spec->arguments.push_back(std::move(path));
  }
}

std::vector<std::string> Supervisor::Environment() const {
  // Sanitizers must not fork or ptrace behind the walls.
  std::vector<std::string> out = {"LC_ALL=C", "ASAN_OPTIONS=detect_leaks=0",
                                  fmt::format("{}={}", kOpenMpSpins[0], kOpenMpSpins[1])};
  // Which of a machine's GPUs is the site's.
  constexpr const char* kGpus = "CUDA_VISIBLE_DEVICES";
  if (const char* gpus = std::getenv(kGpus)) out.push_back(fmt::format("{}={}", kGpus, gpus));
  return out;
}

Status Supervisor::Start(Process& process) {
  TG_ASSIGN_OR_RETURN(process.generation, NextGeneration(options_.site / "generation"));
  TG_ASSIGN_OR_RETURN(Channel control, MakeChannel());
  SpawnSpec spec = SpecOf(process);
  Channel pin;
  spec.fds.push_back(control.child.get());
  if (process.kind == Kind::kTrainer) {
    spec.fds.push_back(trainer_gate_.supervisor.get());
    for (const Fd& dataset : dataset_fds_) {
      if (dataset.valid() && !outside_) spec.fds.push_back(dataset.get());
    }
    if (outside_) {
      spec.input_fd = outside_->from.get();
      spec.output_fd = outside_->to.get();
    }
  }
  if (process.kind == Kind::kGate) {
    spec.fds.push_back(trainer_gate_.child.get());
    spec.fds.push_back(gate_link_.supervisor.get());
  }
  const bool pinned = process.kind == Kind::kLink && options_.folder.empty();
  if (process.kind == Kind::kLink) spec.fds.push_back(gate_link_.child.get());
  if (pinned) {
    TG_ASSIGN_OR_RETURN(pin, MakeChannel());
    spec.fds.push_back(pin.child.get());
  }
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return ErrnoStatus("make", "a log pipe", errno);
  Fd log_read(pipe_fds[0]), log_write(pipe_fds[1]);
  ::fcntl(log_read.get(), F_SETFL, O_NONBLOCK);
  // A trainer's own words could be a record's: they go nowhere, its events are numbers.
  if (process.kind != Kind::kTrainer) spec.log_fd = log_write.get();
  TG_ASSIGN_OR_RETURN(process.child, Spawn(spec));
  if (process.kind == Kind::kTrainer && outside_) {
    process.outside = true;
    // The client is to see the ends of the trainer's.
    outside_->from.reset();
    outside_->to.reset();
  }
  process.control = std::move(control.supervisor);
  process.log = process.kind == Kind::kTrainer ? Fd() : std::move(log_read);
  process.start_at.reset();
  process.policy.Started(MonotonicNow());
  process.ready_by = MonotonicNow() + int64_t{1000} * config_.ready_seconds;
  if (pinned) {
    pin_channel_ = std::move(pin.supervisor);
    pin_listener_.reset();
    if (way_.proxy) {
      pin_.emplace(way_.proxy);
    } else {
      pin_.emplace(way_.address);
    }
  }
  ++process.starts;
  process.stop_by.reset();
  Note(EventCode::kProcessStarted,
       {static_cast<int64_t>(process.kind), process.child.pid, process.generation});
  return OkStatus();
}

Status Supervisor::StartDue() {
  for (Process& process : processes_) {
    if (stopping_ || !process.start_at || *process.start_at > MonotonicNow()) continue;
    const Status status = Start(process);
    if (!status.ok()) return status.WithContext("starting " + process.name);
  }
  return OkStatus();
}

void Supervisor::OnPin() {
  if (pin_listener_.valid()) {
    if (!pin_->HandleNotification(pin_listener_.get()).ok()) {
      pin_listener_.reset();  // link is gone; its end is seen by its pidfd
      pin_.reset();
    }
    return;
  }
  auto listener = ReceiveListener(pin_channel_.get(), 0);
  pin_channel_.reset();
  if (listener) {
    pin_listener_ = std::move(*listener);
    return;
  }
  const Process& link = processes_[static_cast<size_t>(Kind::kLink)];
  if (!link.running()) return;
  // Without it link could never reach the coordinator.
  LogWarning("pin_refused {}", listener.error().ToString());
  [[maybe_unused]] const Status killed = Kill(link.child);
}

bool Supervisor::Log(Process& process, std::string_view text) {
  if (!process.budget.Take(MonotonicNow())) return false;
  if (const uint64_t dropped = process.budget.TakeDropped(); dropped != 0) {
    LogWarning("log_lines_dropped name={} count={}", process.name, dropped);
  }
  LogInfo("{}: {}", process.name, text);
  return true;
}

void Supervisor::OnLog(Process& process) {
  char buffer[4096];
  for (size_t taken = 0; taken < kLogBytesAtOnce;) {
    const ssize_t n = ::read(process.log.get(), buffer, sizeof(buffer));
    if (n < 0) return;
    if (n == 0) {
      process.log.reset();
      return;
    }
    taken += static_cast<size_t>(n);
    for (ssize_t i = 0; i < n; ++i) {
      const char c = buffer[i];
      if (c == '\n' || process.log_line.size() == kMaxLogLine) {
        Log(process, process.log_line);
        process.log_line.clear();
      }
      if (c != '\n') process.log_line.push_back(c >= 0x20 && c < 0x7f ? c : '?');
    }
  }
}

void Supervisor::Say(Process& process, ControlType type) {
  if (!process.control.valid()) return;
  ControlMessage message;
  message.type = type;
  if (!SayAll(process, message)) {
    LogWarning("process_lost name={} said={}", process.name, static_cast<uint32_t>(type));
  }
}

bool Supervisor::SayAll(Process& process, ControlMessage message) {
  message.generation = process.generation;
  return ::send(process.control.get(), &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

void Supervisor::OnControl(Process& process, int most) {
  for (int i = 0; i < most; ++i) {
    ControlMessage message;
    const ssize_t n = ::recv(process.control.get(), &message, sizeof(message), MSG_DONTWAIT);
    if (n < 0) return;
    if (n == 0) {
      process.control.reset();  // the pidfd tells the rest
      return;
    }
    if (n == static_cast<ssize_t>(sizeof(message)) && message.generation == process.generation) {
      OnMessage(process, message);
    }
  }
}

void Supervisor::OnMessage(Process& process, const ControlMessage& message) {
  const bool is_gate = process.kind == Kind::kGate;
  switch (message.type) {
    case ControlType::kReady:
      if (!process.ready_by) return;  // once a start
      process.ready_by.reset();
      process.walls = message.code;
      Note(EventCode::kProcessReady, {static_cast<int64_t>(process.kind), message.code});
      Say(process, ControlType::kGo);
      return;
    case ControlType::kNeedTrainer:
      if (!is_gate) return;
      job_ended_ = false;
      trainer().wanted = true;
      if (!trainer().running() && !trainer().start_at && MayTrain()) {
        trainer().start_at = std::max(MonotonicNow(), trainer().not_before);
      }
      return;
    case ControlType::kJobEnded:
      if (!is_gate) return;
      Note(EventCode::kJobEnded, {message.arguments[0]});
      job_ended_ = true;
      // One that has died and is to start again does so: it has not heard of the end yet.
      trainer().wanted = false;
      return;
    case ControlType::kEvent:
      OnEvent(process, message);
      return;
    case ControlType::kJobIs:
    case ControlType::kJobName:
    case ControlType::kGateState:
      if (is_gate) OnJob(message);
      return;
    default:
      return;
  }
}

void Supervisor::CheckDeadlines(Process& process) {
  const int64_t now = MonotonicNow();
  const bool not_ready = process.ready_by && *process.ready_by <= now;
  const bool not_stopped = process.stop_by && *process.stop_by <= now;
  if (!process.running() || (!not_ready && !not_stopped)) return;
  process.ready_by.reset();
  process.stop_by.reset();
  if (not_ready) {
    LogWarning("process_killed name={}: not ready after {} s (ready_seconds of site.toml)",
               process.name, config_.ready_seconds);
  } else {
    LogWarning("process_killed name={}: not ended when it was told to", process.name);
  }
  Remember(Source::kSupervisor, EventCode::kProcessKilled, {static_cast<int64_t>(process.kind)});
  [[maybe_unused]] const Status killed = Kill(process.child);
}

void Supervisor::Forget(Process& process) {
  process.child = Child();
  process.control.reset();
  process.log.reset();
  process.ready_by.reset();
  process.walls = 0;
  if (process.kind != Kind::kLink) return;
  CoordinatorLost();
  pin_channel_.reset();
  pin_listener_.reset();
  pin_.reset();  // with the dials of what has ended
}

Status Supervisor::OnEnd(Process& process) {
  TG_ASSIGN_OR_RETURN(const std::optional<ChildEnd> end, Reap(process.child, false));
  if (!end) return OkStatus();
  // Its last words are why it ended.
  OnControl(process, kAllMessages);
  OnLog(process);
  if (!process.log_line.empty()) Log(process, process.log_line);
  process.log_line.clear();
  Note(EventCode::kProcessEnded, {static_cast<int64_t>(process.kind),
                                  static_cast<int64_t>(end->end), end->signal, end->exit_status});
  Forget(process);
  if (end->end == End::kWallHit) {
    return Internal(
        "{} made a forbidden system call (SIGSYS) and was ended by its walls; the kernel's audit "
        "log has its number",
        process.name);
  }
  if (stopping_) return OkStatus();
  if (process.kind == Kind::kLink && !options_.folder.empty()) {
    carried_ = end->end == End::kClean;
    if (carried_) return OkStatus();
    if (IsRefusal(*end)) {
      return MakeError(static_cast<Code>(end->exit_status),
                       "the folder cannot be carried as it is; link's last lines say why");
    }
  }
  return AfterEnd(process, *end);
}

// Whether it is started again, and when.
Status Supervisor::AfterEnd(Process& process, const ChildEnd& end) {
  const int64_t now = MonotonicNow();
  const bool is_trainer = process.kind == Kind::kTrainer;
  const bool told = process.stop_by.has_value() && end.end == End::kClean;
  process.stop_by.reset();
  const bool outside = process.outside;
  if (outside) OnOutsideEnd(process, end);
  if (is_trainer && (told || outside)) {
    // Not its fault, and no reason to wait longer before the next start.
    process.not_before = now + RestartPolicy::kFirstDelayMillis;
    if (process.wanted && MayTrain()) process.start_at = process.not_before;
    if (!MayTrain()) Say(gate(), ControlType::kTrainerGone);
    return OkStatus();
  }
  if (process.policy.Hopeless(now, IsRefusal(end)) && is_trainer && HasOwnDatasets()) {
    // Whoever set them is to look, and the site goes on.
    process.policy = RestartPolicy();
    SetHold(Hold::kDatasetRefused);
    return OkStatus();
  }
  if (process.policy.hopeless()) {
    const Code code =
        end.exit_status == kUsage ? Code::kInternal : static_cast<Code>(end.exit_status);
    return MakeError(code, "{} cannot run: it ended {} times in a row with {}; {}", process.name,
                     RestartPolicy::kMaxRefusals, CodeName(code),
                     is_trainer
                         ? "a trainer's words are not logged: check base, records and heldout of "
                           "site.toml with tidegate data check"
                         : "its last lines say why");
  }
  const std::optional<int64_t> delay = process.policy.Ended(now);
  if (!delay) {
    return ResourceExhausted("{} ended more than {} times in {} minutes; see the log for why",
                             process.name, RestartPolicy::kMaxInWindow,
                             RestartPolicy::kWindowMillis / 60'000);
  }
  process.not_before = now + *delay;
  // A trainer that was cut off while its job ended has not kept what the last version gave it.
  const bool cut_off = is_trainer && job_ended_ && end.end != End::kClean;
  if (is_trainer && holds_ != 0 && !cut_off) {
    Say(gate(), ControlType::kTrainerGone);
  } else if (process.wanted || cut_off) {
    process.start_at = process.not_before;
  }
  return OkStatus();
}

}  // namespace tidegate::onshore
