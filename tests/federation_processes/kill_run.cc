#include "kill_run.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>

#include "base/clock.h"

namespace tidegate::federation_processes {
namespace {

// How long a dead coordinator or supervisor may go unnoticed.
constexpr int kLookMillis = 10;
constexpr int kMostOfOneChild = 4;
// Children of a killed supervisor are killed by the kernel.
constexpr int kOrphanMillis = 5000;

int64_t NowMicros() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

std::vector<SiteSetup> KillRun::Sites() {
  return {{.name = "north", .heldout = true}, {.name = "south"}};
}

// Of so many parameters that update and adapter are several blocks.
// With error feedback, for then a round depends on what became of all before it. Rounded to the
// nearest: by chance each job has numbers of its own, and the undisturbed job is another.
JobSetup KillRun::Job() {
  return {.keys = "rounds = 3\ndeadline_seconds = 600\nerror_feedback = true\n", .rank = 64};
}

KillRun::KillRun(std::vector<PlannedKill> plan) : federation_(Sites(), Job()), sites_(Sites()) {
  for (PlannedKill& kill : plan) kills_.push_back({kill});
}

Status KillRun::Run() {
  TG_RETURN_IF_ERROR(federation_.Provision());
  TG_ASSIGN_OR_RETURN(watch_, FolderWatch::Create(federation_.dir()));
  TG_RETURN_IF_ERROR(federation_.Begin());
  const int64_t deadline = NowMicros() + 1000 * kJobMillis;
  while (!Ended()) {
    TG_RETURN_IF_ERROR(Hear());
    TG_RETURN_IF_ERROR(KillDue());
    TG_RETURN_IF_ERROR(federation_.poc().RestartDead());
    if (NowMicros() > deadline) {
      return DeadlineExceeded("the job did not end within {} ms; {}", kJobMillis, Unfinished());
    }
    pollfd news{watch_->fd(), POLLIN, 0};
    ::poll(&news, 1, MillisToNext());
  }
  return federation_.Stop();
}

Status KillRun::Hear() {
  TG_ASSIGN_OR_RETURN(const std::vector<std::string> all, watch_->Take());
  for (const std::string& news : all) {
    job_ended_ = job_ended_ || (news.starts_with("coordinator.log: ") &&
                                news.find(" job_ended ") != std::string::npos);
    for (Kill& kill : kills_) {
      if (kill.done || kill.due_micros != 0) continue;
      if (!IsNewsOf(kLogSteps[kill.plan.step], news, sites_[kill.plan.site].name)) continue;
      if (++kill.seen == kill.plan.occurrence) {
        kill.due_micros = NowMicros() + kill.plan.delay_micros;
      }
    }
  }
  return OkStatus();
}

Status KillRun::KillDue() {
  for (Kill& kill : kills_) {
    if (kill.done || kill.due_micros == 0 || kill.due_micros > NowMicros()) continue;
    TG_ASSIGN_OR_RETURN(kill.done, KillOne(kill));
    if (kill.done) steps_.insert(kill.plan.step);
  }
  return OkStatus();
}

pid_t KillRun::PidOf(Victim victim, size_t site) const {
  const cli::Poc& poc = federation_.poc();
  if (victim == Victim::kCoordinator) return poc.coordinator_pid();
  if (victim == Victim::kSupervisor) return poc.onshore_pid(site);
  return poc.child_pid(site, kVictimNames[static_cast<size_t>(victim)]);
}

Result<bool> KillRun::KillOne(const Kill& kill) {
  const LogStep& step = kLogSteps[kill.plan.step];
  const size_t site = kill.plan.site;
  Victim wanted = kill.plan.victim;
  // A supervisor starts a child later each time: another supervisor does not know of the times.
  if (wanted != Victim::kCoordinator && kills_of_[{site, wanted}] >= kMostOfOneChild) {
    wanted = Victim::kSupervisor;
  }
  // Who is not there now (a trainer before the job) leaves it to another.
  for (const Victim victim : {wanted, step.owner, Victim::kSupervisor}) {
    const pid_t pid = PidOf(victim, site);
    if (pid <= 0) continue;
    killed_.push_back(fmt::format("{} of {} at {}{} no. {}",
                                  kVictimNames[static_cast<size_t>(victim)], sites_[site].name,
                                  step.where, step.text, kill.plan.occurrence));
    if (victim == Victim::kSupervisor) {
      TG_RETURN_IF_ERROR(KillSupervisor(site));
      for (auto& [who, count] : kills_of_) count = who.first == site ? 0 : count;
    } else {
      ::kill(pid, SIGKILL);
      ++kills_of_[{site, victim}];
    }
    return true;
  }
  return false;
}

// All that it had started goes with it, before anybody starts it again.
Status KillRun::KillSupervisor(size_t site) {
  std::vector<Fd> children;
  for (const Victim victim : {Victim::kGate, Victim::kLink, Victim::kTrainer}) {
    const pid_t pid = PidOf(victim, site);
    if (pid > 0) children.emplace_back(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  }
  ::kill(federation_.poc().onshore_pid(site), SIGKILL);
  for (const Fd& child : children) {
    if (!child.valid()) continue;  // ended between the two lines
    pollfd end{child.get(), POLLIN, 0};
    if (::poll(&end, 1, kOrphanMillis) != 1) {
      return Internal("a child of {}'s supervisor outlives it by {} ms", sites_[site].name,
                      kOrphanMillis);
    }
  }
  return OkStatus();
}

bool KillRun::Ended() const {
  const cli::Poc& poc = federation_.poc();
  for (size_t site = 0; site < kSites; ++site) {
    if (!poc.done(site)) return false;
  }
  return job_ended_ && std::all_of(kills_.begin(), kills_.end(), [](const Kill& kill) {
           return kill.done || kLogSteps[kill.plan.step].at_site();
         });
}

int KillRun::MillisToNext() const {
  int64_t millis = kLookMillis;
  for (const Kill& kill : kills_) {
    if (kill.done || kill.due_micros == 0) continue;
    millis = std::clamp<int64_t>((kill.due_micros - NowMicros()) / 1000, 0, millis);
  }
  return static_cast<int>(millis);
}

std::string KillRun::Unfinished() const {
  std::string text = "not killed yet:";
  for (const Kill& kill : kills_) {
    const LogStep& step = kLogSteps[kill.plan.step];
    if (!kill.done) text += fmt::format(" {}{}", step.where, step.text);
  }
  return text;
}

}  // namespace tidegate::federation_processes
