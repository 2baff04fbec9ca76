// A federation on this machine: one coordinator and some sites as real processes on loopback, from
// provisioning to the final adapter. What `tidegate poc` runs, and what the tests of the whole run.
// Not thread-safe.
#pragma once

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/subprocess.h"

namespace tidegate::cli {

struct PocSite {
  std::string name;
  std::filesystem::path records, heldout;  // JSONL; heldout may be empty
  bool away = false;                       // enrolled, but Start leaves it: for StartSite
  bool hold = false;  // its first export waits for `tidegate release` with SITE/approver.key
};

struct PocOptions {
  std::filesystem::path dir;       // made; must not hold a federation
  std::filesystem::path base;      // HF folder
  std::filesystem::path programs;  // where the tidegate programs are
  std::vector<PocSite> sites;
  std::string job_toml;  // the job file without name, base and sites
  int threads = 1;       // of each trainer
  std::string dtype = "auto";
  std::string walls;          // empty: the sites' default
  std::string separate_uids;  // "[TRAINER, GATE, LINK]" for each site, a start as root; empty: none
  int timeout_seconds = 900;
  std::FILE* progress = nullptr;  // where progress lines go; null: nowhere
};

struct PocSiteResult {
  std::string name;
  std::filesystem::path dir, ledger, receipt;
  std::string key;  // the coordinator's, as text: what the ledger's receipts are checked with
  int64_t exports = 0, bytes_out = 0;
  bool ledger_verified = false;
  std::string ledger_text;
};

struct PocResult {
  std::string job;
  int64_t rounds = 0;
  std::filesystem::path adapter;  // the shared adapter as a PEFT folder
  std::vector<PocSiteResult> sites;
  double seconds = 0;
};

class Poc {
 public:
  explicit Poc(PocOptions options);

  // Provision, Start, Submit, Wait, Collect, in order.
  Result<PocResult> Run();

  // The steps, for tests that do things in between.
  Status Provision();
  Status Start();
  Status Submit();
  // One look: restarts what died, prints progress; true when the job has ended.
  Result<bool> Step();
  Result<PocResult> Collect();
  Status Stop();

  // Starts a coordinator or supervisor that died, as systemd would; one that ended with an error of
  // its own is that error. One look, without asking the coordinator anything.
  Status RestartDead();
  // A site that is away: not started yet.
  Status StartSite(size_t site);
  bool away(size_t site) const { return away_[site]; }
  // Whether its supervisor has ended in good order: its job is over.
  bool done(size_t site) const { return done_[site]; }

  // Processes of the federation, for tests that kill them; -1 while it does not run.
  pid_t coordinator_pid() const { return coordinator_.pid(); }
  pid_t onshore_pid(size_t site) const { return onshore_[site].pid(); }
  // "gate", "link" or "trainer".
  pid_t child_pid(size_t site, std::string_view process) const;
  std::filesystem::path coordinator_dir() const { return options_.dir / "coordinator"; }
  std::filesystem::path site_dir(size_t site) const {
    return options_.dir / options_.sites[site].name;
  }
  std::filesystem::path coordinator_log() const { return options_.dir / "coordinator.log"; }
  std::filesystem::path site_log(size_t site) const {
    return options_.dir / (options_.sites[site].name + ".log");
  }
  const std::string& job() const { return job_; }
  const std::string& key() const { return key_; }  // the coordinator's, as text

 private:
  Result<nlohmann::json> Tool(std::vector<std::string> arguments, int timeout_millis = 60'000);
  Status ProvisionSite(const PocSite& site);
  Status HoldFirstExport(const std::filesystem::path& dir);
  void SayHeld();
  Status StartCoordinator();
  Status MayRestart(const std::string& name, int code, const std::filesystem::path& log);
  Result<PocSiteResult> CollectSite(size_t site);
  void Say(const std::string& line);

  PocOptions options_;
  std::string tidegate_, key_, job_, last_line_;
  ChildProcess coordinator_;
  std::vector<ChildProcess> onshore_;
  std::vector<bool> done_, away_;
  std::set<size_t> told_held_;  // sites whose held update was told of
  int restarts_ = 0;
  int64_t started_millis_ = 0;
  int64_t rounds_ = 0, shown_version_ = -1;
};

}  // namespace tidegate::cli
