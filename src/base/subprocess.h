// Other programs: run one and take its output, or keep one running with a log file. For tools and
// tests; the walled processes of a site are started by onshore/sandbox/spawn.h. Not thread-safe.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace tidegate {

struct CommandResult {
  int exit_code = 0;   // 128 + the signal's number when a signal ended it
  std::string output;  // standard output
  std::string errors;  // standard error
};

// Runs argv[0] (a path, or a name in PATH) with standard input from /dev/null and waits.
// kDeadlineExceeded after `timeout_millis`, kResourceExhausted when it writes more than
// `output_limit` bytes to either stream: the program is killed then.
Result<CommandResult> RunCommand(const std::vector<std::string>& argv, int timeout_millis,
                                 size_t output_limit = 64u << 20);

// The same; an exit code other than 0 is kInternal with the end of what it said.
Result<std::string> RunCommandOk(const std::vector<std::string>& argv, int timeout_millis);

// A program that runs beside us, its output appended to a file. It is killed when the object dies.
class ChildProcess {
 public:
  static Result<ChildProcess> Start(const std::vector<std::string>& argv,
                                    const std::filesystem::path& log);
  ChildProcess() = default;
  ChildProcess(ChildProcess&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  // Its exit code once it has ended (128 + signal), nothing while it runs. Waits at most that long.
  std::optional<int> Wait(int timeout_millis);
  void Signal(int signal) const;

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}
  pid_t pid_ = -1;
};

}  // namespace tidegate
