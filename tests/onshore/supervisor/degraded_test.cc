// A trainer on a machine that lacks a wall: the site's log names it; where it is demanded there is
// no training, where it is not the trainer goes on.
#include <unistd.h>

#include "base/file.h"
#include "onshore/sandbox/walls.h"
#include "tests/onshore/supervisor/site_fixture.h"

namespace tidegate::onshore {
namespace {

struct Lack {
  const char* name;
  const char* fault;  // of degraded_child
  const char* wall;
  int error;  // as in the log
  // Walls that this machine has to have for the trainer to go on.
  const char* others;
};

class DegradedSite : public SupervisorTest, public testing::WithParamInterface<Lack> {
 protected:
  void SetUp() override {
    SupervisorTest::SetUp();
    std::filesystem::remove(programs_ / "tidegate-trainer");
    std::filesystem::create_symlink(std::filesystem::path(TIDEGATE_BIN_DIR) / "degraded_child",
                                    programs_ / "tidegate-trainer");
    Write("fault", GetParam().fault);
  }
  void StartDemanding(const std::string& walls) {
    Write("site.toml", *ReadTextFile(site_ / "site.toml", 4096) + "walls = \"" + walls + "\"\n");
    StartSite();
    ASSERT_TRUE(TraceGets("gate", "go")) << Log();
    Do("gate", "need_trainer");
  }
  // Whether this machine itself lacks what the trainer needs in any case.
  bool CannotRun() const {
    return LogHas("wall_missing wall=landlock_fs") || LogHas("wall_missing wall=seccomp");
  }
  std::string Line() const {
    return "trainer: wall_missing wall=" + std::string(GetParam().wall) +
           " errno=" + std::to_string(GetParam().error);
  }
};

TEST_P(DegradedSite, GoesOnWhereTheWallIsNotDemanded) {
  StartDemanding(GetParam().others);
  EXPECT_TRUE(LogGets(Line())) << Log();
  if (CannotRun()) GTEST_SKIP() << "this machine lacks landlock_fs: " << Log();
  EXPECT_TRUE(LogGets("process_ready name=trainer")) << Log();
}

TEST_P(DegradedSite, DoesNotTrainWhereItIsDemanded) {
  StartDemanding(std::string(GetParam().others) + "," + GetParam().wall);
  EXPECT_EQ(WaitForEnd(), static_cast<int>(Code::kPermissionDenied)) << Log();
  EXPECT_TRUE(LogHas(Line())) << Log();
  EXPECT_FALSE(LogHas("process_ready name=trainer")) << Log();
}

INSTANTIATE_TEST_SUITE_P(
    Walls, DegradedSite,
    testing::Values(
        Lack{"NoNamespaceInAContainer", "unshare 1", "netns", 1, "seccomp,landlock_fs"},
        Lack{"NoNamespaceByTheLimit", "unshare 28", "netns", 28, "seccomp,landlock_fs"},
        Lack{"NoTcpRulesBeforeAbi4", "landlock_abi 3", "landlock_net", 95, "seccomp,landlock_fs"},
        Lack{"NoScopesBeforeAbi6", "landlock_abi 5", "landlock_scope", 95, "seccomp,landlock_fs"}),
    [](const testing::TestParamInfo<Lack>& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace tidegate::onshore
