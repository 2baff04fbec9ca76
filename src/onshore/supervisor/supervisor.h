// The supervisor of a site: starts trainer, gate and link, keeps both ends of their pairs, makes
// link's socket to the one pinned address, writes their events to the log, starts again what dies.
//
// It is in the trusted base, so it does little: no record, no key, no policy is read here, and what
// children say are fixed structs. One thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "onshore/ipc/control.h"
#include "onshore/sandbox/address_pin.h"
#include "onshore/sandbox/spawn.h"
#include "onshore/supervisor/line_budget.h"
#include "onshore/supervisor/restart_policy.h"
#include "onshore/supervisor/site_config.h"
#include "onshore/supervisor/way_out.h"

namespace tidegate::onshore {

struct SupervisorOptions {
  std::filesystem::path site;
  std::filesystem::path programs;  // where tidegate-gate, -link and -trainer are
  bool once = false;               // end when a job has ended
  // A folder that is carried to the coordinator, in the place of a network; canonical. Then Run
  // ends when all that can be done without the coordinator is done.
  std::filesystem::path folder;
};

class Supervisor {
 public:
  // Takes the site's lock and makes the pairs. kFailedPrecondition when another supervisor runs.
  static Result<std::unique_ptr<Supervisor>> Create(const SupervisorOptions& options);
  ~Supervisor();

  // Until SIGTERM, SIGINT or SIGHUP (OK), the end of a job with `once` (OK), of a trip with
  // `folder` (OK, or what its carrier ended with), or a process that ends too often, says three
  // times in a row that it cannot run (its own code) or hits a wall (kInternal): an error that
  // names it. Whatever the reason, the children were told to stop and have ended when it returns;
  // those that took longer than ten seconds were killed.
  Status Run();

  // For tests: the process ids of the children that run.
  std::vector<pid_t> children() const;

 private:
  enum class Kind : uint8_t { kGate = 0, kLink = 1, kTrainer = 2 };
  struct Process {
    Kind kind{};
    std::string name;
    Child child;
    Fd control, log;
    uint32_t generation = 0;
    RestartPolicy policy;
    std::optional<int64_t> start_at;  // monotonic millis of the next start
    std::optional<int64_t> ready_by;  // of the time when READY must have come
    int64_t not_before = 0;           // trainer: no start earlier, however often the gate asks
    bool wanted = false;
    std::string log_line;
    LineBudget budget;
    bool running() const { return child.pid > 0; }
  };

  Supervisor(SupervisorOptions options, SiteConfig config, WayOut way)
      : options_(std::move(options)), config_(std::move(config)), way_(std::move(way)) {}
  Status MakePairs();
  Status Serve();
  Status PollOnce();
  int NextTimeout() const;
  Status StopChildren();
  bool AllStopped() const;
  Process& trainer() { return processes_[static_cast<size_t>(Kind::kTrainer)]; }

  // supervisor_process.cc: one child.
  Status StartDue();
  Status Start(Process& process);
  SpawnSpec SpecOf(const Process& process) const;
  void Say(Process& process, ControlType type);
  void OnControl(Process& process, int most);
  void OnMessage(Process& process, const ControlMessage& message);
  void OnLog(Process& process);
  void Log(Process& process, std::string_view text);
  void OnPin();
  void CheckReady(Process& process);
  Status OnEnd(Process& process);
  void Forget(Process& process);

  SupervisorOptions options_;
  SiteConfig config_;
  WayOut way_;
  Fd lock_, signals_;
  Channel trainer_gate_, gate_link_;  // "supervisor" is the first one's end
  Fd pin_channel_, pin_listener_;
  std::optional<AddressPin> pin_;
  std::vector<Process> processes_;
  bool job_ended_ = false;
  bool carried_ = false;  // the carrier has ended: nothing more moves
  bool stopping_ = false;
  int64_t stop_by_ = 0;
};

}  // namespace tidegate::onshore
