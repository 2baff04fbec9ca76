#include "onshore/supervisor/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>

#include "base/file.h"
#include "base/log.h"
#include "onshore/supervisor/events.h"
#include "onshore/supervisor/generations.h"

namespace tidegate::onshore {
namespace {

constexpr int64_t kStopMillis = 10'000;
constexpr size_t kMaxLogLine = 2000;
constexpr const char* kNames[] = {"gate", "link", "trainer"};

Result<Fd> Lock(const std::filesystem::path& path) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return Unexpected(ErrnoStatus("open", path.native(), errno));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return FailedPrecondition("{} is held: another tidegate-onshore runs for this site",
                              path.native());
  }
  return fd;
}

Result<Fd> BlockSignals() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  ::sigaddset(&set, SIGINT);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  Fd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return Unexpected(ErrnoStatus("make", "a signal descriptor", errno));
  return fd;
}

int64_t Now() { return SystemClock().MonotonicMillis(); }

}  // namespace

Result<std::unique_ptr<Supervisor>> Supervisor::Create(const SupervisorOptions& options) {
  TG_ASSIGN_OR_RETURN(SiteConfig config, LoadSiteConfig(options.site));
  TG_ASSIGN_OR_RETURN(const sockaddr_storage address, ResolveCoordinator(config.coordinator));
  std::unique_ptr<Supervisor> supervisor(new Supervisor(options, std::move(config), address));
  TG_ASSIGN_OR_RETURN(supervisor->lock_, Lock(options.site / "lock"));
  TG_ASSIGN_OR_RETURN(supervisor->signals_, BlockSignals());
  TG_RETURN_IF_ERROR(supervisor->MakePairs());
  for (const Kind kind : {Kind::kGate, Kind::kLink, Kind::kTrainer}) {
    Process process;
    process.kind = kind;
    process.name = kNames[static_cast<int>(kind)];
    process.wanted = kind != Kind::kTrainer;
    if (process.wanted) process.start_at = Now();
    supervisor->processes_.push_back(std::move(process));
  }
  return supervisor;
}

Supervisor::~Supervisor() {
  for (Process& process : processes_) {
    if (process.running()) {
      [[maybe_unused]] const Status killed = Kill(process.child);
      [[maybe_unused]] const auto end = Reap(process.child, true);
    }
  }
}

Status Supervisor::MakePairs() {
  TG_ASSIGN_OR_RETURN(trainer_gate_, MakeChannel());
  TG_ASSIGN_OR_RETURN(gate_link_, MakeChannel());
  return OkStatus();
}

std::vector<pid_t> Supervisor::children() const {
  std::vector<pid_t> pids;
  for (const Process& process : processes_) {
    if (process.running()) pids.push_back(process.child.pid);
  }
  return pids;
}

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
  if (process.kind == Kind::kLink) add("--address", "tcp://" + FormatAddress(address_));
  if (process.kind == Kind::kTrainer) {
    add("--name", config_.name);
    add("--base", config_.base.native());
    add("--records", config_.records.native());
    if (!config_.heldout.empty()) add("--heldout", config_.heldout.native());
    add("--threads", std::to_string(config_.threads));
    add("--dtype", config_.dtype);
  }
  // Sanitizers must not fork or ptrace behind the walls.
  spec.environment = {"LC_ALL=C", "ASAN_OPTIONS=detect_leaks=0"};
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
  if (process.kind == Kind::kLink) {
    TG_ASSIGN_OR_RETURN(pin, MakeChannel());
    spec.fds.push_back(gate_link_.child.get());
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
  process.policy.Started(Now());
  if (process.kind == Kind::kLink) {
    pin_channel_ = std::move(pin.supervisor);
    pin_listener_.reset();
    pin_.emplace(address_);
  }
  LogInfo("process_started name={} pid={} generation={}", process.name, process.child.pid,
          process.generation);
  return OkStatus();
}

Status Supervisor::StartDue() {
  for (Process& process : processes_) {
    if (stopping_ || !process.start_at || *process.start_at > Now()) continue;
    const Status status = Start(process);
    if (!status.ok()) return status.WithContext("starting " + process.name);
  }
  return OkStatus();
}

int Supervisor::NextTimeout() const {
  int64_t timeout = 60'000;
  for (const Process& process : processes_) {
    if (process.start_at)
      timeout = std::min(timeout, std::max<int64_t>(*process.start_at - Now(), 0));
  }
  return static_cast<int>(timeout);
}

Status Supervisor::Run() {
  while (!stopping_) {
    TG_RETURN_IF_ERROR(StartDue());
    TG_RETURN_IF_ERROR(PollOnce());
    if (options_.once && job_ended_ && !processes_[static_cast<size_t>(Kind::kTrainer)].running()) {
      break;
    }
  }
  StopChildren();
  return OkStatus();
}

Status Supervisor::PollOnce() {
  std::vector<pollfd> fds = {{signals_.get(), POLLIN, 0},
                             {pin_channel_.get(), POLLIN, 0},
                             {pin_listener_.get(), POLLIN, 0}};
  for (const Process& process : processes_) {
    fds.push_back({process.running() ? process.child.pidfd.get() : -1, POLLIN, 0});
    fds.push_back({process.running() ? process.control.get() : -1, POLLIN, 0});
    fds.push_back({process.log.get(), POLLIN, 0});
  }
  if (::poll(fds.data(), fds.size(), NextTimeout()) < 0 && errno != EINTR) {
    return ErrnoStatus("poll", "the children", errno);
  }
  if (fds[0].revents != 0) stopping_ = true;
  if (fds[1].revents != 0 || fds[2].revents != 0) OnPin();
  for (size_t i = 0; i < processes_.size(); ++i) {
    Process& process = processes_[i];
    if (fds[3 + 3 * i + 2].revents != 0) OnLog(process);
    if (fds[3 + 3 * i + 1].revents != 0) TG_RETURN_IF_ERROR(OnControl(process));
    if (fds[3 + 3 * i].revents != 0) TG_RETURN_IF_ERROR(OnEnd(process));
  }
  return OkStatus();
}

void Supervisor::OnPin() {
  if (!pin_listener_.valid() && pin_channel_.valid()) {
    auto listener = ReceiveListener(pin_channel_.get(), 0);
    pin_channel_.reset();
    if (listener) {
      pin_listener_ = std::move(*listener);
    } else {
      LogWarning("pin_refused {}", listener.error().ToString());
    }
    return;
  }
  if (pin_listener_.valid() && !pin_->HandleNotification(pin_listener_.get()).ok()) {
    pin_listener_.reset();  // link is gone; its end is seen by its pidfd
  }
}

void Supervisor::OnLog(Process& process) {
  char buffer[4096];
  const ssize_t n = ::read(process.log.get(), buffer, sizeof(buffer));
  if (n <= 0) {
    if (n == 0) process.log.reset();
    return;
  }
  for (ssize_t i = 0; i < n; ++i) {
    const char c = buffer[i];
    if (c == '\n' || process.log_line.size() == kMaxLogLine) {
      LogInfo("{}: {}", process.name, process.log_line);
      process.log_line.clear();
    }
    if (c != '\n') process.log_line.push_back(c >= 0x20 && c < 0x7f ? c : '?');
  }
}

Status Supervisor::OnControl(Process& process) {
  for (;;) {
    ControlMessage message;
    const ssize_t n = ::recv(process.control.get(), &message, sizeof(message), MSG_DONTWAIT);
    if (n < 0) return OkStatus();
    if (n == 0) {
      process.control.reset();  // the pidfd tells the rest
      return OkStatus();
    }
    if (n != static_cast<ssize_t>(sizeof(message)) || message.generation != process.generation) {
      continue;
    }
    TG_RETURN_IF_ERROR(OnMessage(process, message));
  }
}

Status Supervisor::OnMessage(Process& process, const ControlMessage& message) {
  Process& trainer = processes_[static_cast<size_t>(Kind::kTrainer)];
  switch (message.type) {
    case ControlType::kReady: {
      LogInfo("process_ready name={} walls={:#x}", process.name, message.code);
      ControlMessage go;
      go.type = ControlType::kGo;
      go.generation = process.generation;
      if (::send(process.control.get(), &go, sizeof(go), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        LogWarning("process_lost name={} before GO", process.name);
      }
      return OkStatus();
    }
    case ControlType::kNeedTrainer:
      if (process.kind != Kind::kGate) return OkStatus();
      job_ended_ = false;
      trainer.wanted = true;
      if (!trainer.running() && !trainer.start_at) trainer.start_at = Now();
      return OkStatus();
    case ControlType::kJobEnded:
      if (process.kind != Kind::kGate) return OkStatus();
      LogInfo("job_ended adapter_version={}", message.arguments[0]);
      job_ended_ = true;
      trainer.wanted = false;
      trainer.start_at.reset();
      return OkStatus();
    case ControlType::kEvent:
      LogInfo("{} {}", process.name, EventText(message.code, message.arguments));
      return OkStatus();
    default:
      return OkStatus();
  }
}

Status Supervisor::OnEnd(Process& process) {
  TG_ASSIGN_OR_RETURN(const std::optional<ChildEnd> end, Reap(process.child, false));
  if (!end) return OkStatus();
  OnLog(process);
  LogInfo("process_ended name={} how={} signal={} status={}", process.name, EndName(end->end),
          end->signal, end->exit_status);
  process.child = Child();
  process.control.reset();
  process.log.reset();
  process.log_line.clear();
  if (process.kind == Kind::kLink) {
    pin_channel_.reset();
    pin_listener_.reset();
  }
  if (end->end == End::kWallHit) {
    return FailedPrecondition(
        "{} made a forbidden system call (SIGSYS) and was ended by its "
        "walls; the kernel's audit log has its number",
        process.name);
  }
  if (stopping_) return OkStatus();
  if (!process.wanted) return OkStatus();
  const std::optional<int64_t> delay = process.policy.Ended(Now());
  if (!delay) {
    return ResourceExhausted("{} ended more than {} times in {} minutes; see the log for why",
                             process.name, RestartPolicy::kMaxInWindow,
                             RestartPolicy::kWindowMillis / 60'000);
  }
  process.start_at = Now() + *delay;
  return OkStatus();
}

bool Supervisor::AllStopped() const {
  return std::none_of(processes_.begin(), processes_.end(),
                      [](const Process& process) { return process.running(); });
}

void Supervisor::StopChildren() {
  stopping_ = true;
  for (Process& process : processes_) {
    ControlMessage stop;
    stop.type = ControlType::kStop;
    stop.generation = process.generation;
    if (process.running() && process.control.valid()) {
      [[maybe_unused]] const ssize_t n =
          ::send(process.control.get(), &stop, sizeof(stop), MSG_NOSIGNAL | MSG_DONTWAIT);
    }
  }
  const int64_t deadline = Now() + kStopMillis;
  while (!AllStopped() && Now() < deadline) {
    std::vector<pollfd> fds;
    for (const Process& process : processes_) {
      fds.push_back({process.running() ? process.child.pidfd.get() : -1, POLLIN, 0});
    }
    ::poll(fds.data(), fds.size(), 100);
    for (Process& process : processes_) {
      if (!process.running()) continue;
      const Status status = OnEnd(process);
      if (!status.ok()) LogWarning("{}", status.ToString());
    }
  }
}

}  // namespace tidegate::onshore
