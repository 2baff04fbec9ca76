// A program that the library starts: two pipes to read from, stopped and reaped with the object.
// Private to this module.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"

namespace tidegate::sdk {

struct PipeEnds {
  Fd read, write;
};
Result<PipeEnds> MakePipe();

// A file without a name that has this text, open for reading only.
Result<Fd> MemoryFile(std::string_view text);
// How this process names it to a program that it starts: /proc/PID/fd/N.
std::string PathOf(const Fd& fd);

class Process {
 public:
  // argv[0] is a path; standard input is /dev/null. Its standard output and error are pipes.
  static Result<Process> Start(const std::vector<std::string>& argv);
  Process() = default;
  Process(Process&& other) noexcept;
  Process& operator=(Process&& other) noexcept;
  ~Process();  // SIGTERM, and SIGKILL when it takes longer than ten seconds

  bool running() const { return pid_ > 0; }
  Fd& output() { return output_; }
  Fd& errors() { return errors_; }
  void Signal(int signal) const;
  // Once both pipes have ended: how it ended, as of waitpid.
  int Reap();

 private:
  pid_t pid_ = -1;
  Fd output_, errors_;
};

}  // namespace tidegate::sdk
