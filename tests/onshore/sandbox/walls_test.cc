// Each role behind its walls: nothing that it tries gets out, and its own work still runs.
#include "onshore/sandbox/walls.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/onshore/sandbox/helper_options.h"
#include "tests/onshore/sandbox/helper_run.h"

namespace tidegate::onshore {
namespace {

// As root, every claim is made twice: for the root start and for an ordinary user.
struct Case {
  Role role;
  bool as_nobody;
};
std::string CaseName(const testing::TestParamInfo<Case>& info) {
  return fmt::format("{}_{}", RoleName(info.param.role),
                     info.param.as_nobody ? "ordinary_user" : "as_started");
}

class WallsTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (GetParam().as_nobody && ::geteuid() != 0) {
      GTEST_SKIP() << "separate start as uid 65534: needs root, errno 1; the case as_started "
                      "covers the ordinary user here";
    }
  }

  HelperCall Call(std::vector<std::string> more = {}) const {
    HelperCall call;
    call.words = site_.Words(GetParam().role);
    if (GetParam().as_nobody) call.words.push_back("user");
    call.words.insert(call.words.end(), more.begin(), more.end());
    if (GetParam().role == Role::kLink) call.pinned = listener_.address;
    return call;
  }

  Site site_;
  Listener listener_;
};

TEST_P(WallsTest, EveryTryIsRefusedOrAbsent) {
  const HelperResult result = RunHelper(Call());
  const IsolationStatement statement = result.Statement();
  size_t refused = 0;
  for (const TryRow& row : statement.rows) {
    EXPECT_NE(row.verdict, Verdict::kOpen)
        << row.name << ": control " << row.control << ", walled " << row.walled;
    refused += row.verdict == Verdict::kRefused ? 1 : 0;
  }
  EXPECT_TRUE(CheckNoneOpen(statement.rows).ok());
  // The control must have worked for most of them, or the table says nothing.
  EXPECT_GE(statement.rows.size(), 120U);
  EXPECT_GE(refused, 80U) << result.Everything();
  EXPECT_EQ(result.end.end, End::kClean) << result.Everything();
  EXPECT_TRUE(result.Said("done"));
}

TEST_P(WallsTest, TheTriesThatMatterWorkedInTheControl) {
  const HelperResult result = RunHelper(Call());
  std::vector<std::string> names = {"socket_unix",
                                    "socket_inet",
                                    "socket_udp",
                                    "socketpair",
                                    "connect",
                                    "bind",
                                    "sendto_address",
                                    "sendto_fastopen",
                                    "sendmsg_rights",
                                    "io_uring_setup",
                                    "memfd_create",
                                    "memfd_exec",
                                    "prlimit_sibling",
                                    "kill_sibling",
                                    "tgkill_sibling",
                                    "ptrace_traceme",
                                    "pidfd_open_sibling",
                                    "sched_setaffinity_sibling",
                                    "execve",
                                    "fork",
                                    "clone_process",
                                    "clone3",
                                    "create_in_scratch",
                                    "truncate_path",
                                    "read_sibling_environ",
                                    "read_etc_passwd",
                                    "prctl_dumpable"};
  if (GetParam().role != Role::kGate) names.push_back("read_key_file");
  if (GetParam().role != Role::kTrainer) {
    names.insert(names.end(), {"read_record_file", "mprotect_executable", "stat_outside"});
  }
  for (const std::string& name : names) {
    const TryRow* row = result.Row(name);
    ASSERT_NE(row, nullptr) << name;
    EXPECT_EQ(row->verdict, Verdict::kRefused)
        << name << ": control " << row->control << ", walled " << row->walled;
  }
}

TEST_P(WallsTest, TheReportNamesEveryWall) {
  const HelperResult result = RunHelper(Call());
  const WallReport report = result.Statement().report;
  EXPECT_EQ(report.role, GetParam().role);
  EXPECT_EQ(report.row(Wall::kSeccomp).state, WallState::kUp);
  for (int i = 0; i < kWallCount; ++i) {
    const WallRow& row = report.rows[static_cast<size_t>(i)];
    EXPECT_EQ(row.state == WallState::kMissing, row.error != 0) << WallName(static_cast<Wall>(i));
  }
  if (const WallRow& row = report.row(Wall::kNetns); row.state == WallState::kMissing) {
    GTEST_SKIP() << "wall netns: " << row.step << " errno " << row.error;
  }
  const bool link = GetParam().role == Role::kLink;
  EXPECT_EQ(report.row(Wall::kPinnedAddress).state, link ? WallState::kUp : WallState::kNotForRole);
  EXPECT_EQ(report.row(Wall::kChroot).state,
            GetParam().role == Role::kTrainer ? WallState::kNotForRole : WallState::kUp);
  EXPECT_TRUE(CheckDemanded(kDefaultDemanded, report).ok());
  EXPECT_EQ(result.Said("state")->substr(0, 17), "core=0 files=256 ") << result.Everything();
}

TEST_P(WallsTest, LegitimateWorkRunsBeforeAndAfterLockDown) {
  // Link's work needs a server: ACurveClientWorksThroughThePin. Here it is to stay alive.
  const HelperResult result = RunHelper(Call({"lock_down"}));
  EXPECT_EQ(result.Said("lock_down"), "ok") << result.Everything();
  if (GetParam().role != Role::kLink) {
    EXPECT_EQ(result.Said("work"), "ok") << result.Everything();
    EXPECT_EQ(result.Said("work_again"), "ok") << result.Everything();
  }
  EXPECT_EQ(result.end.end, End::kClean) << result.Everything();
}

TEST_P(WallsTest, AskingForATerminalOrAnUnknownCallIsNotDeath) {
  for (const auto& [attack, error] : {std::pair{"ioctl", ENOTTY}, std::pair{"unknown", ENOSYS}}) {
    HelperCall call = Call({"lock_down", fmt::format("attack={}", attack)});
    std::erase_if(call.words, [](const std::string& word) { return word.starts_with("work="); });
    const HelperResult result = RunHelper(call);
    EXPECT_EQ(result.Said("attack"), std::to_string(error)) << result.Everything();
    EXPECT_EQ(result.end.end, End::kClean);
  }
}

INSTANTIATE_TEST_SUITE_P(Roles, WallsTest,
                         testing::Values(Case{Role::kTrainer, false}, Case{Role::kTrainer, true},
                                         Case{Role::kGate, false}, Case{Role::kGate, true},
                                         Case{Role::kLink, false}, Case{Role::kLink, true},
                                         Case{Role::kCarrier, false}, Case{Role::kCarrier, true}),
                         CaseName);

TEST(SeparateUidTest, ARootStartEndsUnderItsOwnUid) {
  if (::geteuid() != 0) GTEST_SKIP() << "wall separate_uids: setresuid errno 1 (not root)";
  const Site site;
  HelperCall call{.words = site.Words(Role::kGate)};
  call.words.push_back("separate_uid");
  const HelperResult result = RunHelper(call);
  EXPECT_EQ(result.Statement().report.row(Wall::kSeparateUids).state, WallState::kUp);
  EXPECT_TRUE(CheckNoneOpen(result.Statement().rows).ok()) << result.Everything();
  EXPECT_EQ(result.Said("work"), "ok") << result.Everything();
  EXPECT_NE(result.Everything().find("uid=65534"), std::string::npos) << result.Everything();
}

// As every claim: for the root start and for an ordinary user.
class StartUpTest : public testing::TestWithParam<bool> {
 protected:
  HelperResult Run(const std::vector<std::string>& more) const {
    HelperCall call{.words = site_.Words(Role::kTrainer)};
    if (GetParam()) call.words.push_back("user");
    call.words.insert(call.words.end(), more.begin(), more.end());
    return RunHelper(call);
  }
  void SetUp() override {
    if (GetParam() && ::geteuid() != 0) GTEST_SKIP() << "needs root, errno 1; the other case runs";
  }

  Site site_;
};

TEST_P(StartUpTest, ADriverStartsUnderTheLooserFilterAndTheStrictOneFollowsOnItsThreadsToo) {
  const HelperResult result = Run({"gpu", "lock_down"});
  EXPECT_TRUE(CheckNoneOpen(result.Statement().rows).ok()) << result.Everything();
  EXPECT_EQ(result.Said("driver"), "ok") << result.Everything();
  EXPECT_EQ(result.Said("work"), "ok") << result.Everything();
  EXPECT_EQ(result.Said("lock_down"), "ok") << result.Everything();
  EXPECT_EQ(result.Said("work_again"), "ok") << result.Everything();
}

TEST_P(StartUpTest, TheSelfTestIsThatOfATrainerWithoutOne) {
  const auto with = Run({"gpu"}).Statement().rows, without = Run({}).Statement().rows;
  ASSERT_EQ(with.size(), without.size());
  for (size_t i = 0; i < with.size(); ++i) {
    EXPECT_STREQ(with[i].name, without[i].name);
    EXPECT_EQ(with[i].verdict, without[i].verdict) << with[i].name;
  }
}

TEST_P(StartUpTest, WhereItCannotStartTheProcessDoesNot) {
  const HelperResult result = Run({"gpu=none"});
  EXPECT_EQ(result.Said("error"), "there is no GPU") << result.Everything();
}

std::string UserName(const testing::TestParamInfo<bool>& user) {
  return user.param ? "ordinary_user" : "as_started";
}
INSTANTIATE_TEST_SUITE_P(Users, StartUpTest, testing::Bool(), UserName);

TEST(ParentTest, AProcessWithAnotherParentDoesNotStart) {
  const Site site;
  HelperCall call{.words = site.Words(Role::kTrainer)};
  call.words.push_back("wrong_parent");
  const HelperResult result = RunHelper(call);
  ASSERT_TRUE(result.Said("error")) << result.Everything();
  EXPECT_NE(result.Said("error")->find("not the supervisor 1"), std::string::npos);
}

}  // namespace
}  // namespace tidegate::onshore
