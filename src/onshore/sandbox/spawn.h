// The supervisor's side: channels, the start of a process that walls itself, and how it ended.
// Not thread-safe. A child dies when the *thread* that spawned it ends (PDEATHSIG): spawn from the
// supervisor's only thread, or from one that lives as long as the children.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"

namespace tidegate::onshore {

// A SOCK_SEQPACKET socketpair, both ends close-on-exec. The supervisor keeps both ends, so that a
// restarted child finds the messages that its predecessor had not read.
struct Channel {
  Fd supervisor;
  Fd child;
};
Result<Channel> MakeChannel();

struct SpawnSpec {
  std::filesystem::path program;
  std::vector<std::string> arguments;    // without argv[0]
  std::vector<std::string> environment;  // "NAME=value", all of it: nothing is inherited
  std::vector<int> fds;                  // become 3, 4, 5, ... in the child
  int input_fd = -1;                     // becomes 0; -1: /dev/null
  int output_fd = -1;                    // becomes 1; -1: /dev/null
  int log_fd = -1;                       // becomes 2; -1: /dev/null
};
inline constexpr size_t kMaxSpawnFds = 64;

struct Child {
  pid_t pid = -1;
  Fd pidfd;  // readable when the process has ended
};

// Forks and executes. No descriptor but those of the spec crosses, signals are at their
// defaults and unblocked, the child dies with the calling thread. kNotFound, kPermissionDenied ...
// when the program cannot be executed.
Result<Child> Spawn(const SpawnSpec& spec);

// In the child: the process that called Spawn, for WallSpec::expected_parent.
Result<pid_t> ExpectedParent();

enum class End : uint8_t {
  kClean = 0,   // exit status 0
  kCrash = 1,   // another exit status, or a signal of its own making
  kKilled = 2,  // SIGKILL or SIGTERM
  kWallHit = 3  // SIGSYS: a forbidden system call. Never restart it silently.
};
std::string_view EndName(End end);
struct ChildEnd {
  End end = End::kClean;
  int signal = 0;       // 0 where it exited
  int exit_status = 0;  // for the local log; not to be forwarded to another process
};

// The end of the child, reaped; nothing while it runs and `wait` is false. Reap once.
Result<std::optional<ChildEnd>> Reap(const Child& child, bool wait);
// SIGKILL by descriptor: never another process that got the number.
Status Kill(const Child& child);

}  // namespace tidegate::onshore
