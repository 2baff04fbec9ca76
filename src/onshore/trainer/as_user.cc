#include "onshore/trainer/as_user.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>

#include "base/file.h"

namespace tidegate::trainer {
namespace {

constexpr rlim_t kSeconds = 30, kMemory = 1u << 30;
constexpr int kNotTheUser = 1;

// The capabilities go with the change from root.
bool BecomeUser(uint32_t uid) {
  if (uid == 0 || ::setgroups(0, nullptr) != 0 || ::setresgid(uid, uid, uid) != 0 ||
      ::setresuid(uid, uid, uid) != 0) {
    return false;
  }
  // A change of user clears it.
  return ::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
}

[[noreturn]] void Work(uint32_t uid, int to, const std::function<Bytes()>& work) {
  if (!BecomeUser(uid)) std::_Exit(kNotTheUser);
  const rlimit seconds{kSeconds, kSeconds}, none{0, 0};
  ::setrlimit(RLIMIT_CPU, &seconds);
  ::setrlimit(RLIMIT_CORE, &none);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const rlimit memory{kMemory, kMemory};
  ::setrlimit(RLIMIT_DATA, &memory);
#endif
  const Bytes answer = work();
  const Status written = WriteAll(to, answer, "the answer");
  std::_Exit(written.ok() ? 0 : kNotTheUser + 1);
}

}  // namespace

Result<Bytes> RunAsUser(uint32_t uid, size_t most, const std::function<Bytes()>& work) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return Unexpected(ErrnoStatus("make", "a pipe", errno));
  Fd from(fds[0]), to(fds[1]);
  const pid_t child = ::fork();
  if (child < 0) return Unexpected(ErrnoStatus("start", "the reader of the flags", errno));
  if (child == 0) {
    from.reset();
    Work(uid, to.get(), work);
  }
  to.reset();
  Bytes answer;
  while (answer.size() <= most) {
    uint8_t part[16 << 10];
    const ssize_t n = ::read(from.get(), part, sizeof(part));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    answer.insert(answer.end(), part, part + n);
  }
  // One that says more meets a closed pipe.
  from.reset();
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return Unexpected(ErrnoStatus("wait for", "the reader of flags", errno));
  }
  if (answer.size() > most) return ResourceExhausted("the flags are over {} bytes", most);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kNotTheUser) {
    return PermissionDenied("cannot become uid {} to read a client's flags", uid);
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return Internal("the reader of a client's flags ended without an answer; make them shorter");
  }
  return answer;
}

}  // namespace tidegate::trainer
