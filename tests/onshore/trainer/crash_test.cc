// A trainer that dies at any moment of a round gives the update that it would have given.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "onshore/trainer/federated_job.h"
#include "onshore/trainer/residual_file.h"
#include "site_samples.h"

namespace tidegate::trainer {
namespace {

namespace fs = std::filesystem;

struct Round {
  std::vector<float> parameters;  // of the version it starts from
  Bytes update;
};

// Trains round `number` of an open job from `parameters`.
Bytes TrainRound(FederatedJob& job, uint32_t number, const std::vector<float>& parameters) {
  const Status set = job.SetAdapter(number - 1, BytesOf(parameters));
  EXPECT_TRUE(set.ok()) << set.ToString();
  const auto update = job.RunRound({.job = job.id(),
                                    .round = number,
                                    .adapter_version = number - 1,
                                    .counted_round = number - 1});
  EXPECT_TRUE(update) << update.error().ToString();
  return update ? *update : Bytes();
}

std::unique_ptr<FederatedJob> OpenJob(const protocols::JobManifest& job,
                                      const SiteOptions& options) {
  auto opened = FederatedJob::Open(protocols::Encode(job), options, {});
  EXPECT_TRUE(opened) << opened.error().ToString();
  return opened ? std::move(*opened) : nullptr;
}

void CopyTree(const fs::path& from, const fs::path& to) {
  fs::remove_all(to);
  fs::copy(from, to, fs::copy_options::recursive);
}

fs::path NewestState(const fs::path& job_dir) {
  fs::path newest;
  for (const auto& entry : fs::directory_iterator(job_dir / "state")) {
    newest = std::max(newest, entry.path());
  }
  return newest;
}

// The folder after round 1 and after round 2 of an undisturbed job, and all its updates.
class CrashImages : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    const auto job = OpenJob(job_, site_.options());
    ASSERT_NE(job, nullptr);
    std::vector<float> parameters = InitialParameters();
    for (uint32_t number = 1; number <= 3; ++number) {
      rounds_.push_back({parameters, TrainRound(*job, number, parameters)});
      parameters = Applied(parameters, rounds_.back().update, job_.layout);
      ASSERT_TRUE(federation::SnapAllToGrid(parameters).ok());
      if (number == 1) CopyTree(site_.job_dir(job_), before_);
      if (number == 2) CopyTree(site_.job_dir(job_), after_);
    }
  }

  // Round 2 once more, and round 3, from a folder that `make` has left.
  void ExpectTheSameUpdates(const char* what, const std::function<void(const fs::path&)>& make) {
    SCOPED_TRACE(what);
    const fs::path dir = site_.job_dir(job_);
    CopyTree(before_, dir);
    make(dir);
    const auto job = OpenJob(job_, site_.options());
    ASSERT_NE(job, nullptr);
    for (uint32_t number = 2; number <= 3; ++number) {
      EXPECT_TRUE(TrainRound(*job, number, rounds_[number - 1].parameters) ==
                  rounds_[number - 1].update)
          << "round " << number;
    }
  }

  // With error feedback a round begins with a residual too, and rounds by chance.
  static protocols::JobManifest Manifest() {
    protocols::JobManifest job = SampleJob();
    if (!GetParam()) return job;
    job.codec = protocols::Codec::kInt4;
    job.rounding = protocols::Rounding::kStochastic;
    job.error_feedback = true;
    job.late = protocols::LateRule::kCarry;
    return job;
  }

  const protocols::JobManifest job_ = Manifest();
  SampleSite site_;
  const fs::path before_ = site_.options().site / "before", after_ = site_.options().site / "after";
  std::vector<Round> rounds_;
};

TEST_P(CrashImages, EachMomentOfARoundGivesTheSameUpdate) {
  ASSERT_NE(rounds_.at(1).update, rounds_.at(2).update);
  ExpectTheSameUpdates("before the round was noted", [](const fs::path&) {});
  const std::vector<std::string> residuals(GetParam() ? 1 : 0, KeptName(1));
  ExpectTheSameUpdates("noted, nothing trained", [&residuals](const fs::path& dir) {
    ASSERT_TRUE(SaveRoundNote(dir, {.round = 2,
                                    .adapter_version = 1,
                                    .begin_step = 3,
                                    .first_step = 3,
                                    .end_step = 6,
                                    .at_step = 3,
                                    .residuals = residuals})
                    .ok());
  });
  ExpectTheSameUpdates("noted as trained, the state not saved", [this](const fs::path& dir) {
    fs::copy_file(after_ / "round.json", dir / "round.json", fs::copy_options::overwrite_existing);
  });
  ExpectTheSameUpdates("in the middle of saving the state", [this](const fs::path& dir) {
    fs::copy_file(after_ / "round.json", dir / "round.json", fs::copy_options::overwrite_existing);
    const fs::path state = NewestState(after_);
    fs::path half = dir / "state" / state.filename();
    half += ".tmp";
    fs::copy_file(state, half);
    fs::resize_file(half, fs::file_size(half) / 2);
  });
  ExpectTheSameUpdates("the newest state was damaged later", [this](const fs::path& dir) {
    CopyTree(after_, dir);
    const fs::path state = NewestState(dir);
    fs::resize_file(state, fs::file_size(state) - 1);
  });
  ExpectTheSameUpdates("trained, the line not written", [this](const fs::path& dir) {
    CopyTree(after_, dir);
    fs::remove(dir / "rounds.jsonl");
  });
  ExpectTheSameUpdates("trained, nobody told",
                       [this](const fs::path& dir) { CopyTree(after_, dir); });
  if (!GetParam()) return;
  ExpectTheSameUpdates("trained, one of its residuals not written", [this](const fs::path& dir) {
    CopyTree(after_, dir);
    ASSERT_TRUE(fs::remove(dir / "residual" / KeptName(2)));
  });
  ExpectTheSameUpdates("noted, what it does not need not removed", [](const fs::path& dir) {
    fs::copy_file(dir / "residual" / KeptName(1), dir / "residual" / "kept-0");
  });
}

INSTANTIATE_TEST_SUITE_P(Feedback, CrashImages, testing::Bool());

// Waits until a file of this name is moved into the folder that `watch` looks at.
bool WaitForFile(int watch, const std::string& name) {
  for (;;) {
    pollfd p{watch, POLLIN, 0};
    if (::poll(&p, 1, 60'000) <= 0) return false;
    alignas(inotify_event) char buffer[4096];
    const ssize_t n = ::read(watch, buffer, sizeof(buffer));
    for (ssize_t at = 0; at < n;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
      if (event->len > 0 && name == event->name) return true;
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
    }
    if (n <= 0) return false;
  }
}

TEST(Crash, AKillBetweenLocalStepsChangesNoByte) {
  protocols::JobManifest job = SampleJob();
  job.local_steps = 60;
  SampleSite undisturbed, killed;
  const fs::path dir = killed.job_dir(job);
  fs::create_directories(dir);
  const Fd watch(::inotify_init1(IN_CLOEXEC));
  ASSERT_TRUE(watch.valid());
  ASSERT_GE(::inotify_add_watch(watch.get(), dir.c_str(), IN_MOVED_TO), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto opened = OpenJob(job, killed.options());
    if (opened != nullptr) TrainRound(*opened, 1, InitialParameters());
    ::_exit(0);
  }
  EXPECT_TRUE(WaitForFile(watch.get(), "round.json")) << "the round was not begun";
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status)) << "the round had ended before the kill";

  const auto whole = OpenJob(job, undisturbed.options());
  const auto again = OpenJob(job, killed.options());
  ASSERT_TRUE(whole != nullptr && again != nullptr);
  EXPECT_TRUE(TrainRound(*whole, 1, InitialParameters()) ==
              TrainRound(*again, 1, InitialParameters()));
}

}  // namespace
}  // namespace tidegate::trainer
