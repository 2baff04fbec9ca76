#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "base/program.h"
#include "onshore/supervisor/events.h"
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
  if (process.kind == Kind::kTrainer) spec.arguments.push_back("federated");
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
  // The trainer's to read; gate and link try that they cannot.
  add("--records", config_.records.native());
  if (process.kind == Kind::kTrainer) {
    add("--name", config_.name);
    add("--base", config_.base.native());
    if (!config_.heldout.empty()) add("--heldout", config_.heldout.native());
    add("--threads", std::to_string(config_.threads));
    add("--dtype", config_.dtype);
  }
  // Sanitizers must not fork or ptrace behind the walls.
  spec.environment = {"LC_ALL=C", "ASAN_OPTIONS=detect_leaks=0",
                      fmt::format("{}={}", kOpenMpSpins[0], kOpenMpSpins[1])};
  return spec;
}

Status Supervisor::Start(Process& process) {
  TG_ASSIGN_OR_RETURN(process.generation, NextGeneration(options_.site / "generation"));
  TG_ASSIGN_OR_RETURN(Channel control, MakeChannel());
  SpawnSpec spec = SpecOf(process);
  Channel pin;
  spec.fds.push_back(control.child.get());
  if (process.kind == Kind::kTrainer) spec.fds.push_back(trainer_gate_.supervisor.get());
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
  LogInfo("process_started name={} pid={} generation={}", process.name, process.child.pid,
          process.generation);
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

void Supervisor::Log(Process& process, std::string_view text) {
  if (!process.budget.Take(MonotonicNow())) return;
  if (const uint64_t dropped = process.budget.TakeDropped(); dropped != 0) {
    LogWarning("log_lines_dropped name={} count={}", process.name, dropped);
  }
  LogInfo("{}: {}", process.name, text);
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
  ControlMessage message;
  message.type = type;
  message.generation = process.generation;
  if (::send(process.control.get(), &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    LogWarning("process_lost name={} said={}", process.name, static_cast<uint32_t>(type));
  }
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
      LogInfo("process_ready name={} walls={:#x}", process.name, message.code);
      Say(process, ControlType::kGo);
      return;
    case ControlType::kNeedTrainer:
      if (!is_gate) return;
      job_ended_ = false;
      trainer().wanted = true;
      if (!trainer().running() && !trainer().start_at) {
        trainer().start_at = std::max(MonotonicNow(), trainer().not_before);
      }
      return;
    case ControlType::kJobEnded:
      if (!is_gate) return;
      LogInfo("job_ended adapter_version={}", message.arguments[0]);
      job_ended_ = true;
      // One that has died and is to start again does so: it has not heard of the end yet.
      trainer().wanted = false;
      return;
    case ControlType::kEvent:
      Log(process, EventText(message.code, message.arguments));
      return;
    default:
      return;
  }
}

void Supervisor::CheckReady(Process& process) {
  if (!process.running() || !process.ready_by || *process.ready_by > MonotonicNow()) return;
  process.ready_by.reset();
  LogWarning("process_killed name={}: not ready after {} s (ready_seconds of site.toml)",
             process.name, config_.ready_seconds);
  [[maybe_unused]] const Status killed = Kill(process.child);
}

void Supervisor::Forget(Process& process) {
  process.child = Child();
  process.control.reset();
  process.log.reset();
  process.ready_by.reset();
  if (process.kind != Kind::kLink) return;
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
  LogInfo("process_ended name={} how={} signal={} status={}", process.name, EndName(end->end),
          end->signal, end->exit_status);
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
  const int64_t now = MonotonicNow();
  if (process.policy.Hopeless(now, IsRefusal(*end))) {
    const Code code =
        end->exit_status == kUsage ? Code::kInternal : static_cast<Code>(end->exit_status);
    return MakeError(code, "{} cannot run: it ended {} times in a row with {}; {}", process.name,
                     RestartPolicy::kMaxRefusals, CodeName(code),
                     process.kind == Kind::kTrainer
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
  const bool cut_off = process.kind == Kind::kTrainer && job_ended_ && end->end != End::kClean;
  if (process.wanted || cut_off) process.start_at = process.not_before;
  return OkStatus();
}

}  // namespace tidegate::onshore
