// The attacks that the project's first issue names, one test each: what a process does before it is
// locked down is refused though it works without walls, and after lock-down it is death or a
// refusal. Inherited sockets are in negative_controls_test.cc.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <set>

#include "onshore/sandbox/self_test_tries.h"
#include "tests/onshore/sandbox/helper_options.h"
#include "tests/onshore/sandbox/helper_run.h"

namespace tidegate::onshore {
namespace {

constexpr int kDeath = -1;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kDeathOrPermission = EPERM;  // a sanitizer's report starts a symbolizer
#else
constexpr int kDeathOrPermission = kDeath;
#endif

struct AttackCase {
  const char* name;
  std::vector<std::string> rows;  // of the self-test; one at least worked without walls
  const char* after;              // the attack after lock-down
  int end, link_end;              // kDeath or the errno that it gets
};

class AttackListTest : public testing::TestWithParam<AttackCase> {
 protected:
  // As an ordinary user where that is possible.
  static HelperResult Run(Role role, const std::string& attack) {
    const Site site;
    const Listener listener;
    HelperCall call{.words = site.Words(role)};
    std::erase_if(call.words, [](const std::string& word) { return word.starts_with("work="); });
    if (::geteuid() == 0) call.words.push_back("user");
    if (!attack.empty()) call.words.insert(call.words.end(), {"lock_down", "attack=" + attack});
    if (role == Role::kLink) call.pinned = listener.address;
    return RunHelper(call);
  }
  // How many of them worked without walls; none may be open.
  static size_t ExpectRefused(const HelperResult& result, const std::vector<std::string>& rows) {
    size_t refused = 0;
    for (const std::string& name : rows) {
      const TryRow* row = result.Row(name);
      if (row == nullptr) {
        ADD_FAILURE() << name << " is not tried\n" << result.Everything();
        continue;
      }
      EXPECT_NE(row->verdict, Verdict::kOpen)
          << name << ": control " << row->control << ", walled " << row->walled;
      refused += row->verdict == Verdict::kRefused ? 1 : 0;
    }
    return refused;
  }
};

TEST_P(AttackListTest, IsRefusedInEveryRole) {
  const AttackCase& attack = GetParam();
  size_t refused = 0;
  for (const Role role : {Role::kTrainer, Role::kGate, Role::kLink, Role::kCarrier}) {
    SCOPED_TRACE(RoleName(role));
    const HelperResult result = Run(role, attack.after);
    refused += ExpectRefused(result, attack.rows);
    const int end = role == Role::kLink ? attack.link_end : attack.end;
    if (end == kDeath) {
      EXPECT_EQ(result.end.end, End::kWallHit) << result.Everything();
      EXPECT_FALSE(result.Said("attack"));
    } else {
      EXPECT_EQ(result.Said("attack"), std::to_string(end)) << result.Everything();
      EXPECT_EQ(result.end.end, End::kClean) << result.Everything();
    }
  }
  if (refused == 0) {
    GTEST_SKIP() << attack.rows.front() << " does not work on this machine without walls either";
  }
}

// Link's socket() and connect() go to the supervisor, which makes TCP sockets to one address.
INSTANTIATE_TEST_SUITE_P(
    Attacks, AttackListTest,
    testing::Values(
        AttackCase{"mptcp", {"socket_mptcp", "socket_mptcp_inet6"}, "mptcp", kDeath, ENOSYS},
        AttackCase{"fastopen", {"sendto_fastopen", "sendmsg_fastopen"}, "fastopen", EPERM, EPERM},
        AttackCase{"vsock", {"socket_vsock"}, "vsock", kDeath, ENOSYS},
        AttackCase{"int_0x80",
                   {"int80_getpid", "int80_socket", "int80_socketcall"},
                   "int80",
                   kDeath,
                   kDeath},
        AttackCase{"x32", {"x32_socket"}, "x32", kDeath, kDeath},
        AttackCase{"io_uring",
                   {"io_uring_setup", "io_uring_enter", "io_uring_register"},
                   "io_uring",
                   kDeath,
                   kDeath},
        AttackCase{"ptrace",
                   {"ptrace_traceme", "ptrace_sibling"},
                   "ptrace",
                   kDeathOrPermission,
                   kDeathOrPermission},
        AttackCase{"memfd_exec", {"memfd_exec", "memfd_create"}, "memfd", kDeath, kDeath},
        AttackCase{"prlimit_on_a_sibling", {"prlimit_sibling"}, "prlimit", EPERM, EPERM},
        AttackCase{
            "sendmsg_with_rights", {"sendmsg_rights", "sendmmsg"}, "sendmsg", kDeath, kDeath},
        AttackCase{"seccomp_again", {"landlock_create_ruleset"}, "seccomp", kDeath, kDeath},
        AttackCase{"fork",
                   {"fork", "clone_process", "clone3"},
                   "fork",
                   kDeathOrPermission,
                   kDeathOrPermission},
        AttackCase{
            "execve", {"execve", "execveat"}, "execve", kDeathOrPermission, kDeathOrPermission}),
    [](const testing::TestParamInfo<AttackCase>& tested) {
      return std::string(tested.param.name);
    });

TEST_F(AttackListTest, ConnectOnEverySocketFamilyIsRefused) {
  std::set<int> numbers;
  std::vector<std::string> rows = {"connect"};
  for (const Family& family : Families()) {
    numbers.insert(family.number);
    rows.push_back(fmt::format("socket_{}", family.name));
  }
  for (int number = AF_UNIX; number <= AF_MAX; ++number) {
    EXPECT_TRUE(numbers.contains(number)) << "family " << number << " is not tried";
  }
  for (const Role role : {Role::kTrainer, Role::kGate, Role::kLink, Role::kCarrier}) {
    SCOPED_TRACE(RoleName(role));
    const HelperResult result = Run(role, "connect");
    ExpectRefused(result, rows);
    EXPECT_EQ(ExpectRefused(result, {"connect", "socket_unix", "socket_inet"}), 3U);
    if (role == Role::kLink) {
      EXPECT_EQ(result.Said("attack"), std::to_string(EPERM)) << result.Everything();
    } else {
      EXPECT_EQ(result.end.end, End::kWallHit) << result.Everything();
    }
  }
}

TEST_F(AttackListTest, KeysAndRecordsAreNotReadFromTheWrongProcess) {
  EXPECT_EQ(ExpectRefused(Run(Role::kTrainer, ""), {"read_key_file"}), 1U);
  EXPECT_EQ(ExpectRefused(Run(Role::kGate, ""), {"read_record_file"}), 1U);
  for (const Role role : {Role::kLink, Role::kCarrier}) {
    EXPECT_EQ(ExpectRefused(Run(role, ""), {"read_key_file", "read_record_file"}), 2U);
  }
}

}  // namespace
}  // namespace tidegate::onshore
