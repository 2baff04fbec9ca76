// A federation of real processes on the tiny Llama, in a folder of its own: coordinator,
// supervisors and what they start, on a free port of loopback. Records are made up; each site's are
// its own. One thread a trainer, f32. Not thread-safe; several may run at once.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/poc.h"

namespace tidegate::federation_processes {

struct SiteSetup {
  std::string name;
  bool away = false;     // not started by Begin
  bool heldout = false;  // has held-out records: each adapter version is evaluated
};

// Training as all jobs here have it; what the local twin has to repeat.
inline constexpr int kLocalSteps = 2, kBatchSize = 2, kMaxLength = 64, kRank = 4, kSeed = 42;
inline constexpr double kAlpha = 8, kDropout = 0.1, kLearningRate = 5e-3;

struct JobSetup {
  std::string keys;  // top-level lines of the job file: "rounds = 3\n"
  int local_steps = kLocalSteps;
  int rank = kRank;
};

class Federation {
 public:
  Federation(const std::vector<SiteSetup>& sites, const JobSetup& job);
  ~Federation();  // kills what runs and removes the folder
  Federation(const Federation&) = delete;
  Federation& operator=(const Federation&) = delete;

  // Folders, keys, enrolment. Nothing runs yet.
  Status Provision() { return poc_->Provision(); }
  // All that is not away runs and the job is open.
  Status Begin();
  // Until the job has ended and every site that has been started too.
  Status RunToTheEnd(int64_t millis);
  // Until a site's log, or the coordinator's, has the text.
  Status WaitForLine(const std::filesystem::path& log, const std::string& text, int64_t millis);
  // The coordinator and what is left of the sites; then the folder may be read.
  Status Stop() { return poc_->Stop(); }

  cli::Poc& poc() const { return *poc_; }
  const std::filesystem::path& dir() const { return dir_; }
  std::filesystem::path records(size_t site) const;
  // The ends of all logs: for a message of a test that fails.
  std::string Logs() const;

 private:
  std::filesystem::path dir_;
  std::vector<SiteSetup> sites_;
  std::unique_ptr<cli::Poc> poc_;
};

std::filesystem::path TinyBase();

// Instrumented programs start and train several times slower.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr int kSlow = 5;
#else
inline constexpr int kSlow = 1;
#endif
// For a job whose rounds end at once when all sites are in.
inline constexpr int64_t kJobMillis = 60'000 * kSlow;

// Whether a federation could not run because this machine cannot raise the sites' walls.
bool WallsMissing(const Status& status);

}  // namespace tidegate::federation_processes

// Ends the test: skipped when the walls cannot be raised here, failed for any other error.
#define TIDEGATE_RUNS(federation, expression)                                                     \
  do {                                                                                            \
    const ::tidegate::Status runs_status = (expression);                                          \
    if (::tidegate::federation_processes::WallsMissing(runs_status)) {                            \
      GTEST_SKIP() << "this machine cannot raise the walls of a site: " << runs_status.message(); \
    }                                                                                             \
    ASSERT_TRUE(runs_status.ok()) << runs_status.ToString() << "\n" << (federation).Logs();       \
  } while (false)
