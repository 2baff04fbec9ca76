// Plays tidegate-trainer: starts as it does, on a machine that lacks a wall. SITE/fault names what
// fails ("unshare 1") and the test's other children are fakes.
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <sstream>

#include "base/file.h"
#include "base/log.h"
#include "onshore/sandbox/wall_faults.h"
#include "onshore/start/start.h"
#include "onshore/start/stop.h"

namespace tidegate::onshore {
namespace {

int injected_errno = 0;

int Inject() {
  errno = injected_errno;
  return -1;
}

WallFaults FaultsOf(const std::string& text) {
  WallFaults faults;
  std::istringstream words(text);
  std::string call;
  words >> call >> injected_errno;
  if (call == "unshare") faults.kernel.unshare = [](int) { return Inject(); };
  if (call == "landlock") {
    faults.kernel.landlock_create_ruleset = [](const void*, size_t, uint32_t) -> long {
      return Inject();
    };
  }
  if (call == "landlock_abi") faults.landlock_abi_cap = injected_errno;
  return faults;
}

int Run(std::map<std::string, std::string> arguments) {
  CatchStopSignals();
  const std::filesystem::path site = arguments["--dir"];
  const WallFaults faults = FaultsOf(ReadTextFile(site / "fault", 100).value_or(""));
  StartSpec spec;
  spec.walls.role = Role::kTrainer;
  spec.walls.kept_fds = {{kFirstPeerFd, FdKind::kChannel}};
  spec.walls.faults = &faults;
  const auto demanded = ParseWallSet(arguments["--walls"]);
  if (!demanded) return static_cast<int>(demanded.error().code());
  spec.demanded = *demanded;
  spec.generation = static_cast<uint32_t>(std::stoul(arguments["--generation"]));
  const auto started = StartWalled(spec);
  if (!started) return static_cast<int>(started.error().code());
  for (;;) {
    const auto stop = StopAsked();
    if (!stop || *stop) return 0;
    pollfd control{kControlFd, POLLIN, 0};
    if (!WaitFor({&control, 1}, -1).ok()) return 1;
  }
}

}  // namespace
}  // namespace tidegate::onshore

int main(int argc, char** argv) {
  std::map<std::string, std::string> arguments;
  for (int i = 2; i + 1 < argc; i += 2) arguments[argv[i]] = argv[i + 1];
  ::_exit(tidegate::onshore::Run(std::move(arguments)));
}
