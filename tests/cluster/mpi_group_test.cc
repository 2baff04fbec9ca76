// MPI's ranks are processes: this starts `mpirun -n 4 mpi_rank` and reads what each rank found.
#include "cluster/mpi_group.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "base/file.h"
#include "base/subprocess.h"

namespace tidegate::cluster {
namespace {

constexpr int kRanks = 4;

class MpiGroup : public testing::Test {
 protected:
  void SetUp() override {
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "OpenMPI is not instrumented: ThreadSanitizer sees races in it";
#endif
    if (!HasMpi()) GTEST_SKIP() << "this build has no MPI (libopenmpi-dev)";
    std::string name = (std::filesystem::temp_directory_path() / "tg-mpi-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  CommandResult Start(const std::string& test, int deadline_millis) {
    // More ranks than cores; as root in a container; no leak report on the way out, MPI has its own
    // ideas of what is freed.
    const auto done = RunCommand({"env",
                                  "OMPI_ALLOW_RUN_AS_ROOT=1",
                                  "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
                                  "ASAN_OPTIONS=detect_leaks=0",
                                  "mpirun",
                                  "--oversubscribe",
                                  "--bind-to",
                                  "none",
                                  "--mca",
                                  "btl",
                                  "self,vader",
                                  "--mca",
                                  "mpi_yield_when_idle",
                                  "1",
                                  "-n",
                                  std::to_string(kRanks),
                                  TIDEGATE_BIN_DIR "/mpi_rank",
                                  folder_.string(),
                                  test,
                                  std::to_string(deadline_millis)},
                                 100'000);
    EXPECT_TRUE(done.has_value()) << (done ? "" : done.error().ToString());
    return done.value_or(CommandResult{-1, "", ""});
  }

  // What each rank said, a line a rank.
  std::string Said() const {
    std::string said;
    for (int rank = 0; rank < kRanks; ++rank) {
      const auto text = ReadTextFile(folder_ / std::to_string(rank), 1 << 20);
      said += text.value_or("nothing") + "\n";
    }
    return said;
  }

  std::filesystem::path folder_;
};

constexpr char kAllOk[] = "ok\nok\nok\nok\n";

TEST_F(MpiGroup, DoesWhatEveryBackendDoesAndEndsCleanly) {
  const CommandResult done = Start("all", 60'000);
  EXPECT_EQ(Said(), kAllOk) << done.errors;
  EXPECT_EQ(done.exit_code, 0) << done.errors;
}

TEST_F(MpiGroup, RanksThatCallDifferentThingsAllGetBothNames) {
  CommandResult done = Start("tag", 60'000);
  EXPECT_EQ(Said(), kAllOk) << done.errors;
  std::filesystem::remove_all(folder_);
  std::filesystem::create_directory(folder_);
  done = Start("count", 60'000);
  EXPECT_EQ(Said(), kAllOk) << done.errors;
}

TEST_F(MpiGroup, AnAbortReachesEveryRank) {
  const CommandResult done = Start("abort", 60'000);
  EXPECT_EQ(Said(), kAllOk) << done.errors;
}

TEST_F(MpiGroup, ARankThatNeverCallsIsNamedAtTheDeadline) {
  const CommandResult done = Start("late", 2'000);
  EXPECT_EQ(Said(), kAllOk) << done.errors;
}

TEST_F(MpiGroup, AKilledRankEndsTheOthers) {
  // Long before the deadline of the calls.
  const CommandResult done = Start("killed", 600'000);
  EXPECT_NE(done.exit_code, 0);
  EXPECT_NE(done.errors.find("signal 9"), std::string::npos) << done.errors;
}

}  // namespace
}  // namespace tidegate::cluster
