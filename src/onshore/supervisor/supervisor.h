// The supervisor of a site: starts trainer, gate and link, keeps both ends of their pairs, makes
// link's socket to the one pinned address, writes their events to the log, starts again what dies,
// and serves the site's people over the local API.
//
// It is in the trusted base, so it does little: no record, no key, no policy is read here, and what
// children and clients say are fixed structs. One thread.
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
#include "onshore/supervisor/api_server.h"
#include "onshore/supervisor/event_ring.h"
#include "onshore/supervisor/line_budget.h"
#include "onshore/supervisor/restart_policy.h"
#include "onshore/supervisor/site_config.h"
#include "onshore/supervisor/site_state.h"
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

class Supervisor final : private ApiHandler {
 public:
  // Takes the site's lock, makes the pairs and the local API's socket. kFailedPrecondition when
  // another supervisor runs.
  static Result<std::unique_ptr<Supervisor>> Create(const SupervisorOptions& options);
  ~Supervisor() override;

  // Until SIGTERM, SIGINT or SIGHUP or a client's wish (OK), the end of a job with `once` (OK), of
  // a trip with `folder` (OK, or what its carrier ended with), or a process that ends too often,
  // says three times in a row that it cannot run (its own code) or hits a wall (kInternal): an
  // error that names it. Whatever the reason, the children were told to stop and have ended when it
  // returns; those that took longer than ten seconds were killed.
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
    uint32_t walls = 0, starts = 0;
    RestartPolicy policy;
    std::optional<int64_t> start_at;  // monotonic millis of the next start
    std::optional<int64_t> ready_by;  // of the time when READY must have come
    std::optional<int64_t> stop_by;   // trainer: it was told to stop, and is to have ended by then
    int64_t not_before = 0;           // trainer: no start earlier, however often the gate asks
    bool wanted = false;
    bool outside = false;  // trainer: it hands on what a client trains
    std::string log_line;
    LineBudget budget;
    bool running() const { return child.pid > 0; }
  };
  // A local job of a client: a trainer without a gate.
  struct LocalJob {
    uint32_t id = 0;
    uint64_t client = 0;
    uint32_t uid = 0;
    LocalVerb verb{};
    Child child;
    std::optional<int64_t> kill_at;  // it was told to stop
  };
  // A client whose program trains the site's rounds instead of the trainer. The pipes are the next
  // trainer's.
  struct Outside {
    uint64_t client = 0;
    uint32_t uid = 0;
    Fd from, to;
  };
  // What is known of the federated job, for status.
  struct JobView {
    std::array<uint8_t, 16> id{};
    api::FixedText name{};
    uint32_t rounds = 0;
    uint32_t round = api::kNoNumber, adapter_version = api::kNoNumber, held_round = api::kNoNumber;
    int64_t train_loss_milli = -1, heldout_loss_milli = -1;
    uint64_t spool_bytes = 0;
    uint32_t open_exports = 0;
  };

  Supervisor(SupervisorOptions options, SiteConfig config, WayOut way)
      : options_(std::move(options)), config_(std::move(config)), way_(std::move(way)) {}
  Status MakePairs();
  Status OpenApi();
  Status Serve();
  Status PollOnce();
  int NextTimeout() const;
  Status StopChildren();
  bool AllStopped() const;
  Process& trainer() { return processes_[static_cast<size_t>(Kind::kTrainer)]; }
  const Process& trainer() const { return processes_[static_cast<size_t>(Kind::kTrainer)]; }
  Process& gate() { return processes_[static_cast<size_t>(Kind::kGate)]; }

  // supervisor_process.cc: one child.
  Status StartDue();
  Status Start(Process& process);
  SpawnSpec SpecOf(const Process& process) const;
  void AddDatasets(SpawnSpec* spec) const;
  std::vector<std::string> Environment() const;
  void Say(Process& process, ControlType type);
  bool SayAll(Process& process, ControlMessage message);
  void OnControl(Process& process, int most);
  void OnMessage(Process& process, const ControlMessage& message);
  void OnLog(Process& process);
  // False when its budget of lines is used up.
  bool Log(Process& process, std::string_view text);
  void OnPin();
  void CheckDeadlines(Process& process);
  Status OnEnd(Process& process);
  Status AfterEnd(Process& process, const ChildEnd& end);
  void Forget(Process& process);

  // supervisor_training.cc: whether the trainer may run, and what it trains on.
  // Into the log and to who watches; the second for what has a line of its own.
  void Note(EventCode code, std::array<int64_t, 4> arguments = {});
  void Remember(Source source, EventCode code, std::array<int64_t, 4> arguments = {});
  void OnEvent(Process& process, const ControlMessage& message);
  void OnJob(const ControlMessage& message);
  bool IsHeld(Hold hold) const { return (holds_ >> static_cast<uint32_t>(hold) & 1) != 0; }
  void SetHold(Hold hold);
  void ClearHold(Hold hold);
  void StopTrainer();
  void CoordinatorLost();
  void CheckCoordinator();
  bool HasOwnDatasets() const;
  Status SaveState(SiteState state);

  // supervisor_api.cc
  ApiAnswer OnRequest(uint64_t client, const ApiPeer& peer, const api::Request& request,
                      std::vector<Fd> descriptors) override;
  void OnClientGone(uint64_t client) override;
  void OnClientRefused(const ApiPeer& peer) override;
  ApiAnswer Hello(const ApiPeer& peer) const;
  ApiAnswer TellStatus() const;
  ApiAnswer TellDatasets() const;
  ApiAnswer SetDataset(const api::SetDatasetRequest& request, std::vector<Fd> descriptors);
  ApiAnswer ResetDataset(uint32_t dataset);
  ApiAnswer ChangeDataset(size_t dataset, DatasetSource source, std::filesystem::path path,
                          Fd descriptor, uint64_t bytes);
  ApiAnswer Pause();
  ApiAnswer Resume();
  ApiAnswer StopJob();

  // supervisor_local.cc
  ApiAnswer RunLocal(uint64_t client, const ApiPeer& peer, const api::RunLocalRequest& request,
                     const std::vector<Fd>& descriptors);
  ApiAnswer StopLocal(const ApiPeer& peer, uint32_t job);
  void StopLocalJob(LocalJob& job);
  void OnLocalEnds();

  // supervisor_files.cc: what of the site's files a client may know, and read.
  ApiAnswer TellAdapters() const;
  ApiAnswer TellHeld() const;
  ApiAnswer OpenFile(const api::OpenFileRequest& request) const;
  std::filesystem::path AdapterDir(uint32_t kind, const std::string& name) const;

  // supervisor_people.cc: what people decide, and programs that train.
  ApiAnswer Decide(const ApiPeer& peer, const api::DecideRequest& request);
  ApiAnswer TrainOutside(uint64_t client, const ApiPeer& peer, std::vector<Fd> descriptors);
  void OnOutsideClientGone(uint64_t client);
  void OnOutsideEnd(Process& process, const ChildEnd& end);
  bool MayTrain() const { return holds_ == 0 || outside_.has_value(); }

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

  SiteState state_;
  std::array<Fd, kDatasets> dataset_fds_;
  std::array<uint64_t, kDatasets> dataset_bytes_{};
  uint32_t holds_ = 0;                 // Hold, a bit each
  std::optional<int64_t> lost_since_;  // no coordinator; monotonic
  JobView job_;
  int64_t started_unix_millis_ = 0;
  EventRing ring_;
  LineBudget refusals_;
  std::vector<LocalJob> locals_;
  uint32_t next_local_ = 1;
  std::optional<Outside> outside_;
  std::unique_ptr<ApiServer> api_;
};

}  // namespace tidegate::onshore
