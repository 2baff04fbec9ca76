#include "sdk/process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

extern char** environ;  // NOLINT: POSIX has it so

namespace tidegate::sdk {
namespace {

constexpr int kStopMillis = 10'000;

}  // namespace

Result<PipeEnds> MakePipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return Unexpected(ErrnoStatus("make", "a pipe", errno));
  return PipeEnds{Fd(fds[0]), Fd(fds[1])};
}

std::string PathOf(const Fd& fd) { return fmt::format("/proc/{}/fd/{}", ::getpid(), fd.get()); }

Result<Fd> MemoryFile(std::string_view text) {
  const Fd writable(::memfd_create("tidegate", MFD_CLOEXEC));
  if (!writable.valid()) return Unexpected(ErrnoStatus("make", "a file in memory", errno));
  TG_RETURN_IF_ERROR(WriteAll(writable.get(), AsBytes(text), "a file in memory"));
  Fd readable(::open(PathOf(writable).c_str(), O_RDONLY | O_CLOEXEC));
  if (!readable.valid()) return Unexpected(ErrnoStatus("open", "a file in memory", errno));
  return readable;
}

Result<Process> Process::Start(const std::vector<std::string>& argv) {
  TG_ASSIGN_OR_RETURN(PipeEnds out, MakePipe());
  TG_ASSIGN_OR_RETURN(PipeEnds err, MakePipe());
  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&files, out.write.get(), 1);
  ::posix_spawn_file_actions_adddup2(&files, err.write.get(), 2);
  // What the caller's threads block or ignore is no business of the program's.
  sigset_t none, defaults;
  ::sigemptyset(&none);
  ::sigemptyset(&defaults);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGPIPE}) ::sigaddset(&defaults, signal);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &defaults);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  Process process;
  const int error =
      ::posix_spawn(&process.pid_, words[0], &files, &attributes, words.data(), environ);
  ::posix_spawn_file_actions_destroy(&files);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    process.pid_ = -1;
    return Unexpected(ErrnoStatus("start", argv[0], error));
  }
  process.output_ = std::move(out.read);
  process.errors_ = std::move(err.read);
  return process;
}

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      output_(std::move(other.output_)),
      errors_(std::move(other.errors_)) {}

Process& Process::operator=(Process&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(output_, other.output_);
  std::swap(errors_, other.errors_);
  return *this;
}

Process::~Process() {
  if (pid_ <= 0) return;
  Signal(SIGTERM);
  // Nobody reads any more: it must not wait for us.
  output_.reset();
  errors_.reset();
  const Fd handle(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  pollfd p{handle.get(), POLLIN, 0};
  if (!handle.valid() || ::poll(&p, 1, kStopMillis) <= 0) Signal(SIGKILL);
  Reap();
}

void Process::Signal(int signal) const {
  if (pid_ > 0) (void)::kill(pid_, signal);
}

int Process::Reap() {
  int status = 0;
  while (pid_ > 0 && ::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return status;
}

}  // namespace tidegate::sdk
