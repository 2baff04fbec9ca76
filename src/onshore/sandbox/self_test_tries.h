// The table behind self_test.h. Internal.
#pragma once

#include <array>
#include <cerrno>
#include <cstdint>
#include <string>
#include <vector>

#include "onshore/sandbox/self_test.h"

namespace tidegate::onshore {

enum RoleBits : unsigned { kT = 1, kG = 2, kL = 4, kC = 8, kAll = 15 };

struct Try {
  const char* name;
  unsigned roles;
  // 0 or an errno.
  int (*run)(const TryContext& context);
  // Errnos that are the kernel's answer after the walls: a bad descriptor, a null pointer. Such an
  // answer means that the call went through.
  std::array<int, 4> through{};
  // Behind the walls, a refusal besides EPERM, EACCES and ENOSYS; 0 for none.
  int also_refused = 0;
  // A path of the old root: behind a chroot it is not there, and ENOENT is a refusal. Only
  // landlock_fs, a chroot or file modes stand against it.
  bool path = false;
  // The path, where it is the same for everybody; kScratch for the context's.
  const char* place = nullptr;
  bool writes = false;
};
inline constexpr char kScratch[] = "scratch";
inline constexpr char kStatOutside[] = "stat_outside";

// errno of a system call's result.
inline int Outcome(long result) { return result < 0 ? errno : 0; }

void AppendNetworkTries(std::vector<Try>& tries);
void AppendProcessTries(std::vector<Try>& tries);
void AppendKernelTries(std::vector<Try>& tries);
void AppendFileTries(std::vector<Try>& tries);
// Reads a forbidden file: 0 or an errno.
int TryRead(const std::string& path);
// Every address family, by number, and the first that no kernel has yet.
struct Family {
  const char* name;
  int number;
};
const std::vector<Family>& Families();
int TryFamily(int family, Role role);

}  // namespace tidegate::onshore
