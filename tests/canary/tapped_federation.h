// A federation of real processes on the tiny Llama, in a folder of its own, with canaries in its
// records and a tap on each site's wire. Not thread-safe.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/poc.h"
#include "tests/canary/planted.h"
#include "tests/canary/search.h"
#include "tests/canary/temp_folder.h"
#include "tests/canary/wire_tap.h"

namespace tidegate::canary {

// What a log or an error says of walls that this machine cannot raise, with the reason; else empty.
std::string MissingWalls(const std::string& text);

std::filesystem::path TinyBase();
Result<Search> TinySearch();

class TappedFederation {
 public:
  // `trainer`: a program to play tidegate-trainer; empty for the real one.
  TappedFederation(const std::vector<std::string>& sites, int rounds,
                   const std::filesystem::path& trainer = {});

  // Records, folders, keys, enrolment, taps. Nothing runs yet.
  Status Provision();
  // All processes run and the job is open.
  Status Begin();
  // Until `done` says so, at most a minute; what died is started again.
  Status RunUntil(const std::function<bool()>& done, const std::string& what);
  // Until the job has ended and all processes with it.
  Result<cli::PocResult> RunToTheEnd();

  cli::Poc& poc() { return *poc_; }
  const Search& search() const { return *search_; }
  const std::vector<Planted>& planted() const { return planted_; }
  const std::string& CanaryOf(const std::string& name) const;
  std::filesystem::path root() const { return folder_.path(); }
  std::filesystem::path records_dir() const { return folder_.path() / "records"; }
  WireTap& tap(size_t site) { return *taps_[site]; }
  std::string SiteLog(size_t site) const;
  bool SiteLogHas(size_t site, const std::string& text) const {
    return SiteLog(site).find(text) != std::string::npos;
  }
  // The ends of all logs: for the message of a test that fails.
  std::string Logs() const;

  // Everything but the records: the folders of coordinator and sites with their logs, every byte on
  // the wire, and what was changed in the machine's shared folders since Provision.
  Result<Found> SearchAll() const;

 private:
  Status Redirect(size_t site);
  Status PlayTrainer(const std::filesystem::path& trainer);

  TempFolder folder_;
  std::vector<std::string> sites_;
  std::filesystem::path trainer_;
  std::filesystem::file_time_type since_;
  std::vector<Planted> planted_;
  std::unique_ptr<Search> search_;
  std::vector<std::unique_ptr<WireTap>> taps_;
  std::unique_ptr<cli::Poc> poc_;
};

}  // namespace tidegate::canary

// Ends a void function of a test: skipped when the machine cannot raise the walls of a site, failed
// for any other error.
#define CANARY_RUNS(federation, expression)                                                  \
  do {                                                                                       \
    const ::tidegate::Status runs_status = (expression);                                     \
    const std::string runs_logs = runs_status.ok() ? "" : (federation).Logs();               \
    const std::string runs_missing = ::tidegate::canary::MissingWalls(runs_logs);            \
    if (!runs_missing.empty()) GTEST_SKIP() << "this machine lacks walls: " << runs_missing; \
    ASSERT_TRUE(runs_status.ok()) << runs_status.ToString() << "\n" << runs_logs;            \
  } while (false)
