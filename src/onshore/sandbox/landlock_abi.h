// Landlock's user interface by ABI number. The header of Debian 12 ends at ABI 2, so the newer
// rights are written out here (source: include/uapi/linux/landlock.h of Linux 6.18).
#pragma once

#include <cstddef>
#include <cstdint>

namespace tidegate::onshore::landlock {

inline constexpr uint64_t kExecute = 1ULL << 0;
inline constexpr uint64_t kWriteFile = 1ULL << 1;
inline constexpr uint64_t kReadFile = 1ULL << 2;
inline constexpr uint64_t kReadDir = 1ULL << 3;
inline constexpr uint64_t kRemoveDir = 1ULL << 4;
inline constexpr uint64_t kRemoveFile = 1ULL << 5;
inline constexpr uint64_t kMakeDir = 1ULL << 7;
inline constexpr uint64_t kMakeReg = 1ULL << 8;
inline constexpr uint64_t kRefer = 1ULL << 13;     // ABI 2
inline constexpr uint64_t kTruncate = 1ULL << 14;  // ABI 3
inline constexpr uint64_t kIoctlDev = 1ULL << 15;  // ABI 5

inline constexpr uint64_t kNetBindTcp = 1ULL << 0;     // ABI 4
inline constexpr uint64_t kNetConnectTcp = 1ULL << 1;  // ABI 4

inline constexpr uint64_t kScopeAbstractUnix = 1ULL << 0;  // ABI 6
inline constexpr uint64_t kScopeSignal = 1ULL << 1;        // ABI 6

inline constexpr uint32_t kCreateVersion = 1U << 0;
inline constexpr int kRulePathBeneath = 1;

struct RulesetAttributes {
  uint64_t handled_access_fs = 0;
  uint64_t handled_access_net = 0;  // ABI 4
  uint64_t scoped = 0;              // ABI 6
};

struct [[gnu::packed]] PathBeneath {
  uint64_t allowed_access = 0;
  int32_t parent_fd = -1;
};

// All file rights that the ABI knows; handling them all is what makes the default "nothing".
constexpr uint64_t FsRights(int abi) {
  if (abi >= 5) return (1ULL << 16) - 1;
  if (abi >= 3) return (1ULL << 15) - 1;
  if (abi == 2) return (1ULL << 14) - 1;
  return abi == 1 ? (1ULL << 13) - 1 : 0;
}

// A kernel refuses a structure larger than its own with E2BIG.
constexpr size_t AttributeSize(int abi) { return abi >= 6 ? 24 : abi >= 4 ? 16 : 8; }

}  // namespace tidegate::onshore::landlock
