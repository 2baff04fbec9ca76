#include <algorithm>
#include <cerrno>
#include <cstring>

#include "onshore/sandbox/walls.h"

namespace tidegate::onshore {
namespace {

constexpr std::array<std::string_view, 4> kRoles = {"trainer", "gate", "link", "carrier"};
constexpr std::array<std::string_view, kWallCount> kWalls = {
    "netns",         "seccomp",      "landlock_fs",    "chroot", "pinned_address",
    "separate_uids", "landlock_net", "landlock_scope", "mdwe"};
constexpr std::array<std::string_view, 4> kStates = {"up", "missing", "not_asked", "not_for_role"};
constexpr std::array<std::string_view, 4> kFdKinds = {"channel", "pipe", "null", "read_only_file"};

std::string_view RemedyFor(Wall wall, int error) {
  switch (wall) {
    case Wall::kNetns:
      if (error == ENOSPC) return "raise the sysctl user.max_user_namespaces";
      return "allow user namespaces: sysctl kernel.unprivileged_userns_clone=1; on Ubuntu an "
             "AppArmor profile with 'userns,' or kernel.apparmor_restrict_unprivileged_userns=0; "
             "in a container a seccomp profile that lets unshare through; or start as root";
    case Wall::kLandlockFs:
      return "use a kernel of 5.13 or newer with landlock in the boot parameter lsm=, and a "
             "container profile that lets landlock_* through";
    case Wall::kLandlockNet:
      return "use a kernel of 6.7 or newer";
    case Wall::kLandlockScope:
      return "use a kernel of 6.12 or newer";
    case Wall::kChroot:
      return "allow user namespaces, or grant CAP_SYS_CHROOT";
    case Wall::kSeparateUids:
      return "start the site as root, with a uid for each process";
    case Wall::kMdwe:
      return "use a kernel of 6.3 or newer";
    case Wall::kSeccomp:
    case Wall::kPinnedAddress:
      break;
  }
  return "use a kernel of 5.14 or newer with CONFIG_SECCOMP_FILTER";
}

template <size_t N>
std::string_view NameAt(const std::array<std::string_view, N>& names, unsigned index) {
  return index < N ? names[index] : "unknown";
}

}  // namespace

std::string_view RoleName(Role role) { return NameAt(kRoles, static_cast<unsigned>(role)); }
std::string_view WallName(Wall wall) { return NameAt(kWalls, static_cast<unsigned>(wall)); }
std::string_view WallStateName(WallState s) { return NameAt(kStates, static_cast<unsigned>(s)); }
std::string_view FdKindName(FdKind kind) { return NameAt(kFdKinds, static_cast<unsigned>(kind)); }

Result<Role> ParseRole(std::string_view name) {
  for (size_t i = 0; i < kRoles.size(); ++i) {
    if (kRoles[i] == name) return static_cast<Role>(i);
  }
  return InvalidArgument("'{}' is not a role; use trainer, gate, link or carrier", name);
}

std::string WallSet::ToString() const {
  std::string text;
  for (int i = 0; i < kWallCount; ++i) {
    if (!Has(static_cast<Wall>(i))) continue;
    if (!text.empty()) text += ' ';
    text += WallName(static_cast<Wall>(i));
  }
  return text;
}

Result<WallSet> ParseWallSet(std::string_view text) {
  WallSet set;
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of(" ,"), text.size());
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (word.empty()) continue;
    int found = -1;
    for (int i = 0; i < kWallCount; ++i) {
      if (WallName(static_cast<Wall>(i)) == word) found = i;
    }
    if (found < 0) {
      return InvalidArgument(
          "'{}' is not a wall; the walls are netns seccomp landlock_fs chroot pinned_address "
          "separate_uids landlock_net landlock_scope mdwe",
          word);
    }
    if (set.Has(static_cast<Wall>(found))) {
      return InvalidArgument("wall '{}' is named twice; name it once", word);
    }
    set.Add(static_cast<Wall>(found));
  }
  return set;
}

WallSet WallReport::Up() const {
  WallSet up;
  for (int i = 0; i < kWallCount; ++i) {
    if (row(static_cast<Wall>(i)).state == WallState::kUp) up.Add(static_cast<Wall>(i));
  }
  return up;
}

std::string WallReport::Reason(Wall wall) const {
  if (row(wall).state == WallState::kNotAsked) return "not asked for in this start";
  return fmt::format("{}: {} (errno {})", row(wall).step, std::strerror(row(wall).error),
                     row(wall).error);
}

std::string_view WallReport::Remedy(Wall wall) const { return RemedyFor(wall, row(wall).error); }

namespace {
std::string MissingLine(Wall wall, const WallReport& report) {
  return fmt::format("{}: {}; {}", WallName(wall), report.Reason(wall), report.Remedy(wall));
}
}  // namespace

std::vector<std::string> WallReport::Missing() const {
  std::vector<std::string> lines;
  for (int i = 0; i < kWallCount; ++i) {
    const Wall wall = static_cast<Wall>(i);
    if (row(wall).state == WallState::kMissing) lines.push_back(MissingLine(wall, *this));
  }
  return lines;
}

Status CheckDemanded(WallSet demanded, const WallReport& report) {
  std::string missing;
  for (int i = 0; i < kWallCount; ++i) {
    const Wall wall = static_cast<Wall>(i);
    const WallRow& row = report.row(wall);
    if (!demanded.Has(wall) || row.state == WallState::kUp || row.state == WallState::kNotForRole) {
      continue;
    }
    if (!missing.empty()) missing += "; ";
    missing += MissingLine(wall, report);
  }
  if (missing.empty()) return OkStatus();
  return PermissionDenied("the policy demands walls that {} does not have: {}",
                          RoleName(report.role), missing);
}

}  // namespace tidegate::onshore
