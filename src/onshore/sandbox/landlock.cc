#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "onshore/sandbox/landlock_abi.h"
#include "onshore/sandbox/steps.h"

namespace tidegate::onshore {
namespace {

namespace ll = landlock;

constexpr uint64_t kReadOnly = ll::kReadFile | ll::kReadDir;
constexpr uint64_t kReadWrite = kReadOnly | ll::kWriteFile | ll::kTruncate | ll::kMakeReg |
                                ll::kMakeDir | ll::kRemoveFile | ll::kRemoveDir | ll::kRefer;
constexpr uint64_t kRewrite = kReadOnly | ll::kWriteFile;
constexpr uint64_t kDevice = ll::kReadFile | ll::kWriteFile | ll::kIoctlDev;
// The rights that have a meaning for something that is not a directory.
constexpr uint64_t kFileRights =
    ll::kExecute | ll::kWriteFile | ll::kReadFile | ll::kTruncate | ll::kIoctlDev;

Status OpenInto(std::vector<PathGrant>& grants, const std::vector<std::filesystem::path>& paths,
                uint64_t access) {
  for (const auto& path : paths) {
    Fd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!fd.valid()) return ErrnoStatus("allow this process", path.string(), errno);
    struct stat info {};
    if (::fstat(fd.get(), &info) != 0) return ErrnoStatus("look at", path.string(), errno);
    const uint64_t granted = S_ISDIR(info.st_mode) ? access : access & kFileRights;
    grants.push_back({std::move(fd), granted});
  }
  return OkStatus();
}

void MarkAllMissing(WallReport& report, std::string_view step, int error) {
  for (Wall wall : {Wall::kLandlockFs, Wall::kLandlockNet, Wall::kLandlockScope}) {
    MarkMissing(report, wall, step, error);
  }
}

}  // namespace

Result<std::vector<PathGrant>> OpenGrants(const WallSpec& spec) {
  std::vector<PathGrant> grants;
  TG_RETURN_IF_ERROR(OpenInto(grants, spec.read_only, kReadOnly));
  TG_RETURN_IF_ERROR(OpenInto(grants, spec.read_write, kReadWrite));
  TG_RETURN_IF_ERROR(OpenInto(grants, spec.rewritable, kRewrite));
  TG_RETURN_IF_ERROR(OpenInto(grants, spec.devices, kDevice));
  return grants;
}

Status RaiseLandlock(std::vector<PathGrant> grants, const WallFaults& faults, WallReport& report) {
  const KernelCalls& kernel = faults.kernel;
  const long version = kernel.landlock_create_ruleset(nullptr, 0, ll::kCreateVersion);
  if (version < 1) {
    MarkAllMissing(report, "landlock_create_ruleset", version == 0 ? ENOSYS : errno);
    return OkStatus();
  }
  int abi = static_cast<int>(version);
  if (faults.landlock_abi_cap > 0) abi = std::min(abi, faults.landlock_abi_cap);
  report.landlock_abi = abi;

  ll::RulesetAttributes attributes;
  attributes.handled_access_fs = ll::FsRights(abi);
  if (abi >= 4) attributes.handled_access_net = ll::kNetBindTcp | ll::kNetConnectTcp;
  if (abi >= 6) attributes.scoped = ll::kScopeAbstractUnix | ll::kScopeSignal;
  const long made = kernel.landlock_create_ruleset(&attributes, ll::AttributeSize(abi), 0);
  if (made < 0) {
    MarkAllMissing(report, "landlock_create_ruleset", errno);
    return OkStatus();
  }
  const Fd ruleset(static_cast<int>(made));
  for (const PathGrant& grant : grants) {
    ll::PathBeneath rule;
    rule.allowed_access = grant.access & attributes.handled_access_fs;
    rule.parent_fd = grant.fd.get();
    if (::syscall(SYS_landlock_add_rule, ruleset.get(), ll::kRulePathBeneath, &rule, 0) != 0) {
      // The process could not do its work behind a wall without this door.
      return ErrnoStatus("add", "a path to the Landlock rules", errno);
    }
  }
  if (kernel.landlock_restrict_self(ruleset.get(), 0) != 0) {
    MarkAllMissing(report, "landlock_restrict_self", errno);
    return OkStatus();
  }
  MarkUp(report, Wall::kLandlockFs);
  if (abi >= 4) {
    MarkUp(report, Wall::kLandlockNet);
  } else {
    MarkMissing(report, Wall::kLandlockNet, "landlock_abi_below_4", EOPNOTSUPP);
  }
  if (abi >= 6) {
    MarkUp(report, Wall::kLandlockScope);
  } else {
    MarkMissing(report, Wall::kLandlockScope, "landlock_abi_below_6", EOPNOTSUPP);
  }
  return OkStatus();
}

}  // namespace tidegate::onshore
