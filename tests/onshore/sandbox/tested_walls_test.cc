// A start in one call: what it tries decides whether it goes on. And the verbs that a person starts
// do so too.
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/subprocess.h"
#include "onshore/sandbox/self_test.h"
#include "tests/onshore/sandbox/helper_run.h"

namespace tidegate::onshore {
namespace {

HelperResult RunTested(Role role, const std::vector<std::string>& more) {
  const Site site;
  const Listener listener;
  HelperCall call{.words = site.Words(role)};
  std::erase_if(call.words, [](const std::string& word) { return word.starts_with("work="); });
  call.words.push_back("tested");
  call.words.insert(call.words.end(), more.begin(), more.end());
  if (role == Role::kLink) call.pinned = listener.address;
  return RunHelper(call);
}

TEST(TestedWallsTest, EachRoleStartsAndIsLockedDown) {
  for (const Role role : {Role::kTrainer, Role::kGate, Role::kLink, Role::kCarrier}) {
    const HelperResult result = RunTested(role, {"attack=io_uring"});
    EXPECT_TRUE(CheckNoneOpen(result.Statement().rows).ok()) << result.Everything();
    EXPECT_EQ(result.end.end, End::kWallHit) << RoleName(role) << "\n" << result.Everything();
  }
}

TEST(TestedWallsTest, AnOpenTryEndsTheStartByItsName) {
  const HelperResult result = RunTested(Role::kTrainer, {"hole=sendmsg", "files_may_be_open"});
  const std::string error = result.Said("error").value_or("");
  EXPECT_TRUE(error.starts_with("PERMISSION_DENIED")) << result.Everything();
  EXPECT_NE(error.find("sendmsg_rights"), std::string::npos) << error;
  EXPECT_FALSE(result.Said("tidegate"));
}

TEST(TestedWallsTest, ADemandedWallThatIsMissingIsNamedFirst) {
  const HelperResult result =
      RunTested(Role::kTrainer, {"fault=landlock_create:38", "demanded=seccomp,landlock_fs"});
  const std::string error = result.Said("error").value_or("");
  EXPECT_NE(error.find("landlock_fs: landlock_create_ruleset"), std::string::npos) << error;
}

TEST(TestedWallsTest, WithoutLandlockFileTriesMayBeOpenOnlyWhereThatIsSaid) {
  const HelperResult strict = RunTested(Role::kTrainer, {"fault=landlock_create:38"});
  EXPECT_NE(strict.Said("error").value_or("").find("read_etc_passwd(0)"), std::string::npos)
      << strict.Everything();
  const HelperResult lenient =
      RunTested(Role::kTrainer, {"fault=landlock_create:38", "files_may_be_open"});
  ASSERT_NE(lenient.Row("read_etc_passwd"), nullptr) << lenient.Everything();
  EXPECT_EQ(lenient.Row("read_etc_passwd")->verdict, Verdict::kOpen);
  for (const TryRow& row : lenient.Statement().rows) {
    if (!IsFileTry(row.name)) {
      EXPECT_NE(row.verdict, Verdict::kOpen) << row.name;
    }
  }
}

TEST(TestedWallsTest, AGateWithoutAChrootStartsUnlessThatIsDemanded) {
  const HelperResult result = RunTested(Role::kGate, {"fault=chroot:1"});
  ASSERT_NE(result.Row("stat_outside"), nullptr) << result.Everything();
  EXPECT_EQ(result.Row("stat_outside")->verdict, Verdict::kOpen) << "the ledger tells it";
  EXPECT_EQ(result.Row("read_record_file")->verdict, Verdict::kRefused);
  const HelperResult demanded = RunTested(Role::kGate, {"fault=chroot:1", "demanded=chroot"});
  EXPECT_NE(demanded.Said("error").value_or("").find("chroot: chroot:"), std::string::npos)
      << demanded.Everything();
}

TEST(TestedWallsTest, WhatAPersonAllowedIsNotTried) {
  const HelperResult result =
      RunTested(Role::kTrainer, {"ro=/etc", "readable=/etc,/tmp", "writable=/dev/shm"});
  EXPECT_TRUE(result.Said("done")) << result.Everything();
  EXPECT_EQ(result.Row("read_etc_passwd"), nullptr);
  EXPECT_EQ(result.Row("create_in_dev_shm"), nullptr);
  EXPECT_NE(result.Row("create_in_scratch"), nullptr) << "to read there is no leave to write";
  EXPECT_NE(result.Row("read_dev_kmsg"), nullptr);
  EXPECT_TRUE(IsAllowed({"/"}, "/etc/passwd") && IsAllowed({"/etc/passwd"}, "/etc/passwd"));
  EXPECT_FALSE(IsAllowed({"/etc/pass"}, "/etc/passwd") || IsAllowed({"/etc/passwd"}, "/etc"));
}

// A local verb whose walls have a hole that its command line does not show: another mount of /etc.
Result<CommandResult> EvalOverAnotherMountOf(const std::string& folder, const std::string& more) {
  const Site site;
  const std::string script = fmt::format(
      "mount --bind {} {} || exit 99; {}/tidegate-trainer eval --base {} --data {} {}; "
      "code=$?; umount {}; exit $code",
      folder, site.Path("base"), TIDEGATE_BIN_DIR, site.Path("base"), site.Path("records.jsonl"),
      more, site.Path("base"));
  return RunCommand({"unshare", "--map-root-user", "--mount", "--", "sh", "-c", script}, 60'000);
}

TEST(TestedWallsTest, ALocalVerbEndsWhereATryGetsThrough) {
  const auto run = EvalOverAnotherMountOf("/etc", "");
  ASSERT_TRUE(run) << run.error().message();
  if (run->exit_code == 99 || run->errors.starts_with("unshare:")) {
    GTEST_SKIP() << "wall landlock_fs cannot be holed here: " << run->errors;
  }
  EXPECT_EQ(run->exit_code, static_cast<int>(Code::kPermissionDenied)) << run->errors;
  EXPECT_NE(run->errors.find("got through the walls: read_etc_passwd(0)"), std::string::npos)
      << run->errors;
  EXPECT_NE(run->errors.find("--walls none"), std::string::npos) << run->errors;
  // Another folder, the same way: the tries are refused, and it is the base that is at fault.
  const auto other = EvalOverAnotherMountOf("/usr/share", "");
  ASSERT_TRUE(other) << other.error().message();
  EXPECT_EQ(other->exit_code, static_cast<int>(Code::kNotFound)) << other->errors;
  EXPECT_NE(other->errors.find("config.json"), std::string::npos) << other->errors;
  // Without walls there is nothing to try, and that is said.
  const auto none = EvalOverAnotherMountOf("/etc", "--walls none");
  ASSERT_TRUE(none) << none.error().message();
  EXPECT_EQ(none->exit_code, static_cast<int>(Code::kNotFound)) << none->errors;
  EXPECT_NE(none->errors.find("NO WALLS"), std::string::npos) << none->errors;
}

}  // namespace
}  // namespace tidegate::onshore
