// The walls that a process of an onshore site raises around itself, right after exec and while it
// has one thread. There is no way back: a walled process stays walled, and so does every thread it
// starts later.
//
// Order of a start:   libraries and key files loaded
//                     RunControl(...)          self_test.h, what the machine allows without walls
//                     RaiseWalls(spec)         steps 1 to 14
//                     RunWalled(...)           the same tries, now refused
//                     LockDown(role)           the dangerous calls kill from here on
//                     threads, records
//
// Linux on x86-64 only. A wall that the machine cannot give is named in the report with the reason,
// never skipped in silence; what has no fallback (seccomp, the pinned address, the descriptor
// audit, the loss of privileges) is an error. After an error the process must end: it may be half
// walled. Nothing here is thread-safe; the caller has one thread.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tidegate::onshore {

// kCarrier: link without a network, for a site whose coordinator is reached by a folder that a
// person carries: files below that folder, and no socket at all.
enum class Role : uint8_t { kTrainer = 0, kGate = 1, kLink = 2, kCarrier = 3 };
std::string_view RoleName(Role role);
Result<Role> ParseRole(std::string_view name);

// The numbers are part of the isolation statement: never reuse.
enum class Wall : uint8_t {
  kNetns = 0,          // an empty network namespace
  kSeccomp = 1,        // an allowlist of system calls, architecture checked
  kLandlockFs = 2,     // files: nothing but the listed paths
  kChroot = 3,         // gate, link, carrier: an own root directory
  kPinnedAddress = 4,  // link: sockets are made by the supervisor, connected to one address
  kSeparateUids = 5,   // an own uid for the process (a start as root)
  kLandlockNet = 6,    // no TCP bind or connect (ABI 4); a second layer under seccomp only
  kLandlockScope = 7,  // no signal to and no abstract socket of a process outside (ABI 6)
  kMdwe = 8,           // all but the trainer: memory that was writable never becomes executable
};
inline constexpr int kWallCount = 9;
// "netns", "seccomp", ... as policy files write them.
std::string_view WallName(Wall wall);

class WallSet {
 public:
  constexpr WallSet() = default;
  constexpr WallSet(std::initializer_list<Wall> walls) {
    for (Wall wall : walls) bits_ = static_cast<uint16_t>(bits_ | Bit(wall));
  }
  constexpr bool Has(Wall wall) const { return (bits_ & Bit(wall)) != 0; }
  constexpr void Add(Wall wall) { bits_ = static_cast<uint16_t>(bits_ | Bit(wall)); }
  constexpr bool operator==(const WallSet&) const = default;
  // "netns seccomp": names in the order of the enum, one space between.
  std::string ToString() const;

 private:
  static constexpr uint16_t Bit(Wall wall) {
    return static_cast<uint16_t>(1U << static_cast<unsigned>(wall));
  }
  uint16_t bits_ = 0;
};
// Names separated by spaces or commas; an unknown or repeated name is an error.
Result<WallSet> ParseWallSet(std::string_view text);
// What a policy demands unless it says otherwise. Debian 12 can give it.
inline constexpr WallSet kDefaultDemanded{Wall::kNetns, Wall::kSeccomp, Wall::kLandlockFs,
                                          Wall::kPinnedAddress};

// What an inherited descriptor has to be. Anything else is refused.
enum class FdKind : uint8_t {
  kChannel = 0,      // one end of a SOCK_SEQPACKET socketpair
  kPipe = 1,         // a pipe (the log)
  kNull = 2,         // /dev/null
  kReadOnlyFile = 3  // a regular file opened for reading only (a dataset handed over)
};
std::string_view FdKindName(FdKind kind);
struct KeptFd {
  int fd = -1;
  FdKind kind = FdKind::kChannel;
};

struct WallFaults;  // wall_faults.h, tests only

struct WallSpec {
  Role role = Role::kTrainer;
  // Descriptors that stay besides 0, 1 and 2 (which must be /dev/null or a pipe). Everything else
  // is closed.
  std::vector<KeptFd> kept_fds;
  // Landlock's allowances, as named before the chroot: files, or directories with all below them.
  std::vector<std::filesystem::path> read_only;
  std::vector<std::filesystem::path> read_write;
  // Device nodes that may be read, written and ioctl-ed (a GPU's). Trainer only.
  std::vector<std::filesystem::path> devices;
  // What is there may be read and written, nothing made or removed. Trainer only.
  std::vector<std::filesystem::path> rewritable;
  // The new root directory; empty for none.
  std::filesystem::path chroot;
  // An own uid and gid, for a start as root. Both or neither.
  std::optional<uid_t> uid;
  std::optional<gid_t> gid;
  // The supervisor (ExpectedParent() of spawn.h). The process dies with it.
  pid_t expected_parent = 0;
  // Link: the kept channel over which the listener of the address pin goes to the supervisor, once.
  int pin_channel = -1;
  uint64_t max_open_files = 256;
  // Trainer with a GPU: what must start under Landlock, on a looser filter, before the strict one
  // (driver and library contexts). It may start threads: Landlock is theirs from the start, and the
  // strict filter is laid on every thread at once.
  std::function<Status()> start_up;
  const WallFaults* faults = nullptr;  // null outside tests
};

enum class WallState : uint8_t {
  kUp = 0,
  kMissing = 1,    // tried, refused by the machine: see error and step
  kNotAsked = 2,   // the spec did not ask
  kNotForRole = 3  // has no meaning for this role
};
std::string_view WallStateName(WallState state);

// Fixed-size and trivially copyable, so that it can cross a channel as bytes.
struct WallRow {
  WallState state = WallState::kNotAsked;
  int32_t error = 0;   // errno of the step that failed, 0 if up
  char step[28] = {};  // the call that failed, "" if up
};
struct WallReport {
  Role role = Role::kTrainer;
  int32_t landlock_abi = 0;      // 0: the kernel has none
  int32_t passrights_error = 0;  // errno of SO_PASSRIGHTS=0 on the channels, 0 if set
  char kernel[64] = {};          // release, as uname tells it
  std::array<WallRow, kWallCount> rows{};

  WallRow& row(Wall wall) { return rows[static_cast<size_t>(wall)]; }
  const WallRow& row(Wall wall) const { return rows[static_cast<size_t>(wall)]; }
  WallSet Up() const;
  // One line for each wall that is missing: name, step, errno, remedy.
  std::vector<std::string> Missing() const;
  // For a wall that is missing or was not asked for: why, and what would help.
  std::string Reason(Wall wall) const;
  std::string_view Remedy(Wall wall) const;
};

// Steps 1 to 14. Errors: kFailedPrecondition (more than one thread, parent gone), kPermissionDenied
// (an inherited descriptor that is an exit, named), kInvalidArgument (the spec), and the status of
// the system call that has no fallback.
Result<WallReport> RaiseWalls(const WallSpec& spec);

// Step 16, after the self-test: the dangerous calls and seccomp itself now kill the process
// (SIGSYS). Works with threads running.
Status LockDown(Role role);

// kPermissionDenied naming every demanded wall that is not up, with errno and remedy.
Status CheckDemanded(WallSet demanded, const WallReport& report);

}  // namespace tidegate::onshore
