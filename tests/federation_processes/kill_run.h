// A job of two sites in which a seed's plan of kills is carried out. Not thread-safe; several runs
// may be at work at once.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "federation.h"
#include "kill_plan.h"
#include "watch.h"

namespace tidegate::federation_processes {

class KillRun {
 public:
  static constexpr size_t kSites = 2;
  static std::vector<SiteSetup> Sites();
  static JobSetup Job();

  explicit KillRun(std::vector<PlannedKill> plan);

  // From provisioning until the job has ended, both sites have, and every planned kill is done that
  // still can be. Then nothing runs any more.
  Status Run();

  Federation& federation() { return federation_; }
  // "gate of north at /gate/releases/ (2nd)", in the order in which they were killed.
  const std::vector<std::string>& killed() const { return killed_; }
  // Steps whose kill was carried out.
  const std::set<size_t>& steps() const { return steps_; }

 private:
  struct Kill {
    PlannedKill plan;
    uint32_t seen = 0;
    int64_t due_micros = 0;  // 0: its step has not been seen yet
    bool done = false;
  };
  Status Hear();
  Status KillDue();
  // False when nobody is there to be killed now.
  Result<bool> KillOne(const Kill& kill);
  pid_t PidOf(Victim victim, size_t site) const;
  Status KillSupervisor(size_t site);
  bool Ended() const;
  int MillisToNext() const;
  std::string Unfinished() const;

  Federation federation_;
  std::vector<SiteSetup> sites_;
  std::deque<Kill> kills_;
  std::optional<FolderWatch> watch_;
  std::map<std::pair<size_t, Victim>, int> kills_of_;  // by site, since its supervisor started
  bool job_ended_ = false;                             // as the coordinator has logged it
  std::vector<std::string> killed_;
  std::set<size_t> steps_;
};

}  // namespace tidegate::federation_processes
