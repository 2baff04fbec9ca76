#include "onshore/sandbox/self_test.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <functional>

#include "base/file.h"
#include "onshore/sandbox/self_test_tries.h"

namespace tidegate::onshore {
namespace {

constexpr unsigned kControlSeconds = 10;

struct BoundTry {
  std::string name;
  std::function<int()> run;
  std::array<int, 4> through{};
  int also_refused = 0;
};

unsigned RoleBit(Role role) { return 1U << static_cast<unsigned>(role); }

Status CheckContext(const TryContext& context) {
  if (context.sibling <= 0 || (::kill(context.sibling, 0) != 0 && errno != EPERM)) {
    return InvalidArgument("self-test: process {} (the sibling) cannot be reached: {}",
                           context.sibling, std::strerror(errno));
  }
  for (const ForbiddenFile& file : context.forbidden) {
    const bool plain =
        !file.name.empty() && file.name.size() <= 24 &&
        file.name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string::npos;
    if (!plain) {
      return InvalidArgument(
          "self-test: '{}' is no name for a forbidden file; use 1 to 24 of "
          "a-z, 0-9 and _",
          file.name);
    }
  }
  return OkStatus();
}

bool IsGranted(const TryContext& context, const Try& entry) {
  if (entry.place == nullptr) return false;
  const bool scratch = std::string_view(entry.place) == kScratch;
  return IsAllowed(entry.writes ? context.writable : context.readable,
                   scratch ? context.scratch_directory : entry.place);
}

std::vector<BoundTry> Bind(const TryContext& context) {
  std::vector<Try> table;
  AppendNetworkTries(table);
  AppendFileTries(table);
  AppendKernelTries(table);
  AppendProcessTries(table);  // ends with those that change the process
  std::vector<BoundTry> bound;
  for (const Family& family : Families()) {
    const int number = family.number;
    bound.push_back({fmt::format("socket_{}", family.name),
                     [number, role = context.role] { return TryFamily(number, role); },
                     {},
                     0});
  }
  for (const ForbiddenFile& file : context.forbidden) {
    // In a chroot the path is not there at all.
    bound.push_back({fmt::format("read_{}", file.name),
                     [path = file.path] { return TryRead(path); },
                     {},
                     context.chrooted ? ENOENT : 0});
  }
  for (const Try& entry : table) {
    if ((entry.roles & RoleBit(context.role)) == 0 || IsGranted(context, entry)) continue;
    bound.push_back({entry.name, [run = entry.run, &context] { return run(context); },
                     entry.through, entry.path && context.chrooted ? ENOENT : entry.also_refused});
  }
  return bound;
}

int Normalize(const BoundTry& entry, int outcome) {
  const bool through = outcome != 0 && std::find(entry.through.begin(), entry.through.end(),
                                                 outcome) != entry.through.end();
  return through ? 0 : outcome;
}

// In a child of its own: a try may change the process or end it.
Result<int> RunInChild(const BoundTry& entry) {
  const pid_t pid = ::fork();
  if (pid < 0) return Unexpected(ErrnoStatus("fork for", "the self-test's control", errno));
  if (pid == 0) {
    ::alarm(kControlSeconds);
    ::_exit(entry.run() & 0xff);
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return Unexpected(ErrnoStatus("wait for", "the control", errno));
  }
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

bool IsRefusal(const BoundTry& entry, int error) {
  return error == EPERM || error == EACCES || error == ENOSYS ||
         (error != 0 && error == entry.also_refused);
}

Verdict Judge(const BoundTry& entry, int control, int walled) {
  if (walled == 0) return Verdict::kOpen;
  if (control != 0) return Verdict::kAbsent;
  return IsRefusal(entry, walled) ? Verdict::kRefused : Verdict::kOpen;
}

}  // namespace

bool IsAllowed(const std::vector<std::filesystem::path>& allowed,
               const std::filesystem::path& place) {
  return std::any_of(allowed.begin(), allowed.end(), [&place](const std::filesystem::path& own) {
    return std::mismatch(own.begin(), own.end(), place.begin(), place.end()).first == own.end();
  });
}

std::string_view VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kRefused:
      return "refused";
    case Verdict::kAbsent:
      return "absent";
    case Verdict::kOpen:
      return "OPEN";
  }
  return "OPEN";
}

Result<std::vector<TryRow>> RunControl(const TryContext& context) {
  TG_RETURN_IF_ERROR(CheckContext(context));
  std::vector<TryRow> rows;
  for (const BoundTry& entry : Bind(context)) {
    TryRow row;
    entry.name.copy(row.name, sizeof(row.name) - 1);
    TG_ASSIGN_OR_RETURN(const int outcome, RunInChild(entry));
    row.control = Normalize(entry, outcome);
    rows.push_back(row);
  }
  return rows;
}

Status RunWalled(const TryContext& context, std::span<TryRow> rows) {
  const std::vector<BoundTry> tries = Bind(context);
  if (tries.size() != rows.size()) {
    return InvalidArgument("self-test: {} rows of a control for {} tries; use one context for both",
                           rows.size(), tries.size());
  }
  for (size_t i = 0; i < tries.size(); ++i) {
    TryRow& row = rows[i];
    if (tries[i].name != row.name) {
      return InvalidArgument("self-test: row {} is '{}', the try is '{}'", i, row.name,
                             tries[i].name);
    }
    if (row.control < 0) {
      // It ended the control (no 32-bit entry in this kernel, say) and would end this process.
      row.walled = row.control;
      row.verdict = Verdict::kAbsent;
      continue;
    }
    row.walled = Normalize(tries[i], tries[i].run());
    row.verdict = Judge(tries[i], row.control, row.walled);
  }
  return OkStatus();
}

Status CheckNoneOpen(std::span<const TryRow> rows) {
  std::string names;
  size_t open = 0;
  for (const TryRow& row : rows) {
    if (row.verdict != Verdict::kOpen) continue;
    if (++open <= 8) names += fmt::format("{}{}({})", open > 1 ? " " : "", row.name, row.walled);
  }
  if (open == 0) return OkStatus();
  return PermissionDenied(
      "{} of {} tries got through the walls: {}; the process must not see a record", open,
      rows.size(), names);
}

bool IsFileTry(std::string_view name) {
  if (name.starts_with("read_")) return true;
  std::vector<Try> table;
  AppendFileTries(table);
  return std::any_of(table.begin(), table.end(),
                     [name](const Try& entry) { return entry.path && name == entry.name; });
}

bool IsLeftOpen(const WallReport& report, std::string_view name) {
  return name == kStatOutside && report.row(Wall::kChroot).state != WallState::kUp;
}

Result<TestedWalls> RaiseTestedWalls(TestedSpec spec) {
  TestedWalls tested;
  spec.tries.role = spec.walls.role;
  spec.tries.chrooted = !spec.walls.chroot.empty();
  TG_ASSIGN_OR_RETURN(tested.rows, RunControl(spec.tries));
  TG_ASSIGN_OR_RETURN(tested.report, RaiseWalls(spec.walls));
  const WallReport& report = tested.report;
  if (spec.on_raised) spec.on_raised(report);
  TG_RETURN_IF_ERROR(CheckDemanded(spec.demanded, report));
  const bool chrooted = report.row(Wall::kChroot).state == WallState::kUp;
  const bool files_walled = chrooted || report.row(Wall::kLandlockFs).state == WallState::kUp;
  spec.tries.chrooted = chrooted;
  TG_RETURN_IF_ERROR(RunWalled(spec.tries, tested.rows));
  const bool files_may_be_open = spec.files_may_be_open && !files_walled;
  std::vector<TryRow> judged = tested.rows;
  std::erase_if(judged, [&](const TryRow& row) {
    return IsLeftOpen(report, row.name) || (files_may_be_open && IsFileTry(row.name));
  });
  TG_RETURN_IF_ERROR(CheckNoneOpen(judged));
  TG_RETURN_IF_ERROR(LockDown(spec.walls.role));
  return tested;
}

}  // namespace tidegate::onshore
