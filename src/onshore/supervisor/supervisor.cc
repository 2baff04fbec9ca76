#include "onshore/supervisor/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "base/file.h"
#include "base/log.h"
#include "onshore/supervisor/uid_check.h"

namespace tidegate::onshore {
namespace {

constexpr int64_t kStopMillis = 10'000;
constexpr int kMessagesAtOnce = 64;  // of one child, then the others' turn
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
  ::sigaddset(&set, SIGHUP);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  Fd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return Unexpected(ErrnoStatus("make", "a signal descriptor", errno));
  return fd;
}

int64_t Now() { return SystemClock().MonotonicMillis(); }

Status CheckTrainersUid(const SiteConfig& config, const std::filesystem::path& site) {
  if (!config.separate_uids) return OkStatus();
  std::vector<std::filesystem::path> read = {config.base, config.records};
  if (!config.heldout.empty()) read.push_back(config.heldout);
  return CheckReach((*config.separate_uids)[0], read, site);
}

}  // namespace

Result<std::unique_ptr<Supervisor>> Supervisor::Create(const SupervisorOptions& options) {
  TG_ASSIGN_OR_RETURN(SiteConfig config, LoadSiteConfig(options.site));
  TG_RETURN_IF_ERROR(CheckTrainersUid(config, options.site));
  TG_ASSIGN_OR_RETURN(Fd lock, Lock(options.site / "lock"));
  WayOut way;
  if (options.folder.empty()) {
    TG_ASSIGN_OR_RETURN(way, FindWayOut(config));
    LogInfo("site_opened name={} coordinator={} address={}{}", config.name, config.coordinator,
            way.coordinator, way.proxy ? " proxy=" + FormatAddress(way.address) : "");
  } else {
    LogInfo("site_opened name={} folder={}", config.name, options.folder.native());
  }
  std::unique_ptr<Supervisor> supervisor(
      new Supervisor(options, std::move(config), std::move(way)));
  supervisor->lock_ = std::move(lock);
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
  TG_RETURN_IF_ERROR(supervisor->OpenApi());
  return supervisor;
}

Supervisor::~Supervisor() {
  for (Process& process : processes_) {
    if (process.running()) {
      [[maybe_unused]] const Status killed = Kill(process.child);
      [[maybe_unused]] const auto end = Reap(process.child, true);
    }
  }
  for (LocalJob& job : locals_) {
    [[maybe_unused]] const Status killed = Kill(job.child);
    [[maybe_unused]] const auto end = Reap(job.child, true);
  }
}

// With the lock held.
Status Supervisor::OpenApi() {
  TG_ASSIGN_OR_RETURN(state_, LoadSiteState(options_.site / "site-state"));
  started_unix_millis_ = SystemClock().UnixMillis();
  TG_ASSIGN_OR_RETURN(api_,
                      ApiServer::Open(config_.api_socket, {config_.api_users, config_.api_group},
                                      static_cast<uint64_t>(started_unix_millis_)));
  if (options_.folder.empty()) lost_since_ = Now();
  if (state_.paused) SetHold(Hold::kPaused);
  if (state_.job_stopped) SetHold(Hold::kJobStopped);
  if (std::count(state_.sources.begin(), state_.sources.end(), DatasetSource::kGone) != 0) {
    SetHold(Hold::kDatasetGone);
  }
  return OkStatus();
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

Status Supervisor::Run() {
  const Status served = Serve();
  const Status stopped = StopChildren();
  return served.ok() ? stopped : served;
}

Status Supervisor::Serve() {
  while (!stopping_) {
    TG_RETURN_IF_ERROR(StartDue());
    TG_RETURN_IF_ERROR(PollOnce());
    CheckCoordinator();
    const bool trainer_done = !trainer().running() && !trainer().start_at;
    if (options_.once && job_ended_ && trainer_done) break;
    // A trainer whose job goes on with the next trip is stopped, one whose job has ended ends.
    if (carried_ && (!job_ended_ || trainer_done)) break;
  }
  return OkStatus();
}

int Supervisor::NextTimeout() const {
  const int64_t now = Now();
  int64_t timeout = 60'000;
  const auto until = [&timeout, now](int64_t when) {
    timeout = std::min(timeout, std::max<int64_t>(when - now, 0));
  };
  for (const Process& process : processes_) {
    if (process.start_at && !stopping_) until(*process.start_at);
    if (process.ready_by) until(*process.ready_by);
    if (process.stop_by) until(*process.stop_by);
  }
  for (const LocalJob& job : locals_) {
    if (job.kill_at) until(*job.kill_at);
  }
  if (lost_since_ && !IsHeld(Hold::kCoordinatorLost)) {
    until(*lost_since_ + int64_t{1000} * config_.free_trainer_seconds);
  }
  if (const auto deadline = api_->NextDeadline(now)) until(*deadline);
  if (pin_) {
    if (const auto deadline = pin_->NextDeadline()) until(*deadline);
  }
  if (stopping_) until(stop_by_);
  return static_cast<int>(timeout);
}

Status Supervisor::PollOnce() {
  std::vector<pollfd> fds = {{signals_.get(), POLLIN, 0},
                             {pin_channel_.get(), POLLIN, 0},
                             {pin_listener_.get(), POLLIN, 0}};
  for (const Process& process : processes_) {
    fds.push_back({process.child.pidfd.get(), POLLIN, 0});
    fds.push_back({process.control.get(), POLLIN, 0});
    fds.push_back({process.log.get(), POLLIN, 0});
  }
  for (const LocalJob& job : locals_) fds.push_back({job.child.pidfd.get(), POLLIN, 0});
  const size_t first_client = fds.size();
  api_->AppendPolls(ring_, Now(), &fds);
  const size_t first_dial = fds.size();
  if (pin_) pin_->AppendDials(&fds);
  if (::poll(fds.data(), fds.size(), NextTimeout()) < 0) {
    if (errno == EINTR) return OkStatus();
    return ErrnoStatus("poll", "the children", errno);
  }
  if (fds[0].revents != 0) {
    signalfd_siginfo info;
    if (::read(signals_.get(), &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
      Note(EventCode::kStopping, {info.ssi_signo});
      stopping_ = true;
    }
  }
  if (fds[1].revents != 0 || fds[2].revents != 0) OnPin();
  if (pin_) pin_->AdvanceDials(pin_listener_.get());
  for (size_t i = 0; i < processes_.size(); ++i) {
    Process& process = processes_[i];
    if (fds[3 + 3 * i + 2].revents != 0) OnLog(process);
    if (fds[3 + 3 * i + 1].revents != 0) OnControl(process, kMessagesAtOnce);
    CheckDeadlines(process);
    if (fds[3 + 3 * i].revents != 0) TG_RETURN_IF_ERROR(OnEnd(process));
  }
  if (!locals_.empty()) OnLocalEnds();
  api_->Serve(std::span(fds).subspan(first_client, first_dial - first_client), ring_, Now(), *this);
  return OkStatus();
}

bool Supervisor::AllStopped() const {
  return locals_.empty() && std::none_of(processes_.begin(), processes_.end(),
                                         [](const Process& process) { return process.running(); });
}

Status Supervisor::StopChildren() {
  stopping_ = true;
  stop_by_ = Now() + kStopMillis;
  for (Process& process : processes_) {
    if (process.running() && process.control.valid()) Say(process, ControlType::kStop);
  }
  for (LocalJob& job : locals_) StopLocalJob(job);
  Status first;
  // All that they say until then is heard, so that none waits for a full pipe.
  while (!AllStopped() && Now() < stop_by_) {
    const Status status = PollOnce();
    if (first.ok()) first = status;
  }
  for (Process& process : processes_) {
    if (!process.running()) continue;
    LogWarning("process_killed name={}: not stopped after {} s", process.name, kStopMillis / 1000);
    Remember(Source::kSupervisor, EventCode::kProcessKilled, {static_cast<int64_t>(process.kind)});
    TG_RETURN_IF_ERROR(Kill(process.child));
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const auto end, Reap(process.child, true));
    Forget(process);
  }
  api_->Flush(ring_, Now());
  return first;
}

}  // namespace tidegate::onshore
