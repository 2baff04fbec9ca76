// A machine that lacks a wall: named with step and errno, what remains still holds, and a policy
// that demands the wall says no.
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/onshore/sandbox/helper_options.h"
#include "tests/onshore/sandbox/helper_run.h"

namespace tidegate::onshore {
namespace {

HelperResult RunRole(Role role, const std::vector<std::string>& more) {
  const Site site;
  const Listener listener;
  HelperCall call{.words = site.Words(role)};
  std::erase_if(call.words, [](const std::string& word) { return word.starts_with("work="); });
  call.words.insert(call.words.end(), more.begin(), more.end());
  if (role == Role::kLink) call.pinned = listener.address;
  return RunHelper(call);
}

struct Missing {
  const char* name;
  Role role;
  const char* fault;
  Wall wall;
  int error;
  const char* step;
};

class MissingWallTest : public testing::TestWithParam<Missing> {};

TEST_P(MissingWallTest, IsNamedAndTheOthersHold) {
  const Missing& lacks = GetParam();
  const HelperResult result = RunRole(lacks.role, {fmt::format("fault={}", lacks.fault)});
  const IsolationStatement statement = result.Statement();
  const WallRow& row = statement.report.row(lacks.wall);
  EXPECT_EQ(row.state, WallState::kMissing);
  EXPECT_EQ(row.error, lacks.error);
  EXPECT_STREQ(row.step, lacks.step);
  EXPECT_EQ(statement.report.row(Wall::kSeccomp).state, WallState::kUp);

  const Status status = CheckDemanded({lacks.wall}, statement.report);
  EXPECT_EQ(status.code(), Code::kPermissionDenied);
  EXPECT_NE(status.message().find(fmt::format("{}: {}", WallName(lacks.wall), lacks.step)),
            std::string::npos)
      << status.message();
  EXPECT_TRUE(CheckDemanded({Wall::kSeccomp}, statement.report).ok());
  EXPECT_FALSE(statement.report.Missing().empty());
}

INSTANTIATE_TEST_SUITE_P(
    Walls, MissingWallTest,
    testing::Values(
        Missing{"netns_eperm", Role::kTrainer, "unshare:1", Wall::kNetns, EPERM, "unshare"},
        Missing{"netns_enospc", Role::kGate, "unshare:28", Wall::kNetns, ENOSPC, "unshare"},
        Missing{"netns_link", Role::kLink, "unshare:28", Wall::kNetns, ENOSPC, "unshare"},
        Missing{"landlock_off", Role::kTrainer, "landlock_create:95", Wall::kLandlockFs, EOPNOTSUPP,
                "landlock_create_ruleset"},
        Missing{"landlock_old", Role::kGate, "landlock_create:38", Wall::kLandlockFs, ENOSYS,
                "landlock_create_ruleset"},
        Missing{"landlock_too_big", Role::kTrainer, "landlock_make:7", Wall::kLandlockFs, E2BIG,
                "landlock_create_ruleset"},
        Missing{"landlock_net", Role::kLink, "landlock_restrict:1", Wall::kLandlockNet, EPERM,
                "landlock_restrict_self"},
        Missing{"chroot", Role::kLink, "chroot:1", Wall::kChroot, EPERM, "chroot"},
        Missing{"mdwe", Role::kGate, "mdwe:22", Wall::kMdwe, EINVAL, "prctl(PR_SET_MDWE)"}),
    [](const testing::TestParamInfo<Missing>& tested) { return std::string(tested.param.name); });

// Seccomp alone: no namespace, no Landlock, no chroot. Link holds no file call at all.
TEST(DegradationTest, SeccompAloneRefusesEverySocketAndSibling) {
  for (const char* fault : {"unshare:1", "landlock_create:38"}) {
    const HelperResult result = RunRole(Role::kTrainer, {fmt::format("fault={}", fault)});
    for (const TryRow& row : result.Statement().rows) {
      const std::string_view name = row.name;
      const bool is_file = name.starts_with("read_") || name.starts_with("create_") ||
                           name.starts_with("open_dev") || name == "list_proc";
      if (!is_file) {
        EXPECT_NE(row.verdict, Verdict::kOpen) << fault << " " << name;
      }
    }
  }
}

TEST(DegradationTest, WithoutLandlockTheSelfTestSaysOpen) {
  if (::geteuid() != 0) GTEST_SKIP() << "wall landlock_fs: file modes refuse too, errno 13";
  const HelperResult result = RunRole(Role::kTrainer, {"fault=landlock_create:38"});
  EXPECT_EQ(result.Row("read_key_file")->verdict, Verdict::kOpen) << result.Everything();
  EXPECT_FALSE(CheckNoneOpen(result.Statement().rows).ok());
}

TEST(DegradationTest, AnOlderLandlockIsUsedAsFarAsItGoes) {
  for (int abi = 1; abi <= 6; ++abi) {
    const HelperResult result = RunRole(Role::kTrainer, {fmt::format("abi_cap={}", abi)});
    const WallReport report = result.Statement().report;
    if (report.row(Wall::kLandlockFs).state != WallState::kUp) {
      GTEST_SKIP() << "wall landlock_fs: errno " << report.row(Wall::kLandlockFs).error;
    }
    if (report.landlock_abi < abi) {
      GTEST_SKIP() << "wall landlock_fs: this kernel ends at ABI " << report.landlock_abi
                   << ", errno 7";
    }
    EXPECT_EQ(report.row(Wall::kLandlockNet).state,
              abi >= 4 ? WallState::kUp : WallState::kMissing);
    EXPECT_EQ(report.row(Wall::kLandlockScope).state,
              abi >= 6 ? WallState::kUp : WallState::kMissing);
    EXPECT_TRUE(CheckNoneOpen(result.Statement().rows).ok()) << "ABI " << abi << "\n"
                                                             << result.Everything();
  }
}

TEST(DegradationTest, NoUserNamespaceIsNamedByTheKernelsOwnErrno) {
  std::vector<std::string> words = {"no_userns"};
  if (::geteuid() == 0) words.push_back("user");
  const HelperResult result = RunRole(Role::kTrainer, words);
  if (const auto skip = result.Said("skip")) {
    GTEST_SKIP() << "wall netns cannot be taken away here: " << *skip;
  }
  const WallRow& row = result.Statement().report.row(Wall::kNetns);
  EXPECT_EQ(row.state, WallState::kMissing);
  EXPECT_EQ(row.error, ENOSPC) << result.Everything();
  EXPECT_TRUE(CheckNoneOpen(result.Statement().rows).ok()) << result.Everything();
  const Status status = CheckDemanded(kDefaultDemanded, result.Statement().report);
  EXPECT_NE(status.message().find("user.max_user_namespaces"), std::string::npos)
      << status.message();
}

TEST(DegradationTest, HalfWayFailuresEndTheStart) {
  for (const char* fault : {"uid_map:13", "no_new_privs:22"}) {
    const HelperResult result = RunRole(Role::kTrainer, {fmt::format("fault={}", fault)});
    EXPECT_TRUE(result.Said("error")) << fault << "\n" << result.Everything();
    EXPECT_FALSE(result.Said("tidegate"));
  }
}

// Without these there is no start, on any kernel.
TEST(DegradationTest, WhatHasNoFallbackEndsTheStartByItsName) {
  struct Required {
    Role role;
    const char* fault;
    const char* named;
  };
  for (const Required& required :
       {Required{Role::kTrainer, "seccomp:22", "the allowlist of system calls"},
        Required{Role::kGate, "seccomp:38", "the allowlist of system calls"},
        Required{Role::kLink, "listener:22", "the filter of the pinned address"},
        Required{Role::kTrainer, "close_range:38", "inherited descriptors"}}) {
    const HelperResult result = RunRole(required.role, {fmt::format("fault={}", required.fault)});
    EXPECT_NE(result.Said("error").value_or("").find(required.named), std::string::npos)
        << required.fault << "\n"
        << result.Everything();
    EXPECT_FALSE(result.Said("tidegate")) << required.fault;
  }
}

// The kernel's own refusal of passed descriptors is a second layer: the filter refuses the calls
// that would take them.
TEST(DegradationTest, WithoutPassrightsTheErrnoIsInTheStatementAndTheCallsStayRefused) {
  const HelperResult result = RunRole(Role::kGate, {"fault=passrights:92"});
  EXPECT_EQ(result.Statement().report.passrights_error, ENOPROTOOPT);
  ASSERT_NE(result.Row("sendmsg_rights"), nullptr) << result.Everything();
  EXPECT_EQ(result.Row("sendmsg_rights")->verdict, Verdict::kRefused);
  EXPECT_TRUE(CheckNoneOpen(result.Statement().rows).ok()) << result.Everything();
}

TEST(DegradationTest, ASeparateUidThatCannotBeTakenIsNamed) {
  const HelperResult result = RunRole(Role::kTrainer, {"separate_uid", "fault=set_ids:1"});
  EXPECT_EQ(result.Statement().report.row(Wall::kSeparateUids).state, WallState::kMissing);
  EXPECT_FALSE(CheckDemanded({Wall::kSeparateUids}, result.Statement().report).ok());
}

}  // namespace
}  // namespace tidegate::onshore
