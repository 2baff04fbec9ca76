#include "base/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/clock.h"
#include "base/file.h"

extern char** environ;

namespace tidegate {
namespace {

int ExitCode(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// Spawns with 0 from /dev/null and the given 1 and 2.
Result<pid_t> SpawnWith(const std::vector<std::string>& argv, int out, int err) {
  if (argv.empty()) return InvalidArgument("there is no program to run");
  std::vector<char*> args;
  for (const std::string& a : argv) args.push_back(const_cast<char*>(a.c_str()));
  args.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out, 1);
  posix_spawn_file_actions_adddup2(&actions, err, 2);
  pid_t pid = -1;
  const int error = ::posix_spawnp(&pid, args[0], &actions, nullptr, args.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return Unexpected(ErrnoStatus("run", argv[0], error));
  return pid;
}

Result<std::pair<Fd, Fd>> MakePipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return Unexpected(ErrnoStatus("make", "a pipe", errno));
  return std::pair<Fd, Fd>(Fd(fds[0]), Fd(fds[1]));
}

// Reads what is there; false at the end of the stream.
bool ReadSome(int fd, std::string* text) {
  char buffer[65536];
  const ssize_t n = ::read(fd, buffer, sizeof(buffer));
  if (n > 0) text->append(buffer, static_cast<size_t>(n));
  return n > 0 || (n < 0 && errno == EINTR);
}

Status Collect(Fd& out, Fd& err, int64_t deadline, size_t limit, const std::string& name,
               CommandResult* result) {
  while (out.valid() || err.valid()) {
    const int64_t left = deadline - SystemClock().MonotonicMillis();
    if (left <= 0) return DeadlineExceeded("{} did not end in time", name);
    pollfd fds[2] = {{out.get(), POLLIN, 0}, {err.get(), POLLIN, 0}};
    if (::poll(fds, 2, static_cast<int>(std::min<int64_t>(left, 60'000))) <= 0) continue;
    if (fds[0].revents != 0 && !ReadSome(out.get(), &result->output)) out.reset();
    if (fds[1].revents != 0 && !ReadSome(err.get(), &result->errors)) err.reset();
    if (result->output.size() > limit || result->errors.size() > limit) {
      return ResourceExhausted("{} wrote more than {} bytes", name, limit);
    }
  }
  return OkStatus();
}

}  // namespace

Result<CommandResult> RunCommand(const std::vector<std::string>& argv, int timeout_millis,
                                 size_t output_limit) {
  const int64_t deadline = SystemClock().MonotonicMillis() + timeout_millis;
  TG_ASSIGN_OR_RETURN(auto out, MakePipe());
  TG_ASSIGN_OR_RETURN(auto err, MakePipe());
  TG_ASSIGN_OR_RETURN(const pid_t pid, SpawnWith(argv, out.second.get(), err.second.get()));
  out.second.reset();
  err.second.reset();
  CommandResult result;
  const Status status = Collect(out.first, err.first, deadline, output_limit, argv[0], &result);
  if (!status.ok()) ::kill(pid, SIGKILL);
  int wait_status = 0;
  while (::waitpid(pid, &wait_status, 0) < 0 && errno == EINTR) {
  }
  if (!status.ok()) return Unexpected(status);
  result.exit_code = ExitCode(wait_status);
  return result;
}

Result<std::string> RunCommandOk(const std::vector<std::string>& argv, int timeout_millis) {
  TG_ASSIGN_OR_RETURN(CommandResult result, RunCommand(argv, timeout_millis));
  if (result.exit_code != 0) {
    const std::string& said = result.errors.empty() ? result.output : result.errors;
    std::string command;
    for (const std::string& a : argv) command += (command.empty() ? "" : " ") + a;
    return Internal("`{}` ended with {}: {}", command, result.exit_code,
                    said.substr(said.size() > 2000 ? said.size() - 2000 : 0));
  }
  return std::move(result.output);
}

Result<ChildProcess> ChildProcess::Start(const std::vector<std::string>& argv,
                                         const std::filesystem::path& log) {
  const Fd fd(::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!fd.valid()) return Unexpected(ErrnoStatus("open", log.native(), errno));
  TG_ASSIGN_OR_RETURN(const pid_t pid, SpawnWith(argv, fd.get(), fd.get()));
  return ChildProcess(pid);
}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(pid_, other.pid_);
  return *this;
}

ChildProcess::~ChildProcess() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

std::optional<int> ChildProcess::Wait(int timeout_millis) {
  const int64_t deadline = SystemClock().MonotonicMillis() + timeout_millis;
  while (pid_ > 0) {
    int status = 0;
    const pid_t ended = ::waitpid(pid_, &status, WNOHANG);
    if (ended == pid_) {
      pid_ = -1;
      return ExitCode(status);
    }
    if (SystemClock().MonotonicMillis() >= deadline) return std::nullopt;
    ::poll(nullptr, 0, 5);
  }
  return -1;
}

void ChildProcess::Signal(int signal) const {
  if (pid_ > 0) ::kill(pid_, signal);
}

}  // namespace tidegate
