#include "simulate/launch.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace tidegate::simulate {
namespace {

constexpr int kNotStarted = 127;

std::atomic<pid_t> g_child{0};
std::atomic<bool> g_stopped{false};

void PassOn(int signal) {
  g_stopped = true;
  if (const pid_t child = g_child; child > 0) ::kill(child, signal);
}

}  // namespace

Result<int> RunLauncher(std::vector<std::string> argv) {
  std::vector<char*> words;
  for (std::string& word : argv) words.push_back(word.data());
  words.push_back(nullptr);
  // Blocked until the child's number is known, so that no signal is lost in between.
  sigset_t passed, before;
  sigemptyset(&passed);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&passed, signal);
  ::sigprocmask(SIG_BLOCK, &passed, &before);
  const pid_t child = ::fork();
  if (child < 0) {
    const int error = errno;
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    return Unavailable("cannot start {}: error {}", argv[0], error);
  }
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    ::execvp(words[0], words.data());
    ::_exit(kNotStarted);
  }
  g_child = child;
  struct sigaction action = {};
  action.sa_handler = PassOn;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  g_child = 0;
  if (g_stopped) return Cancelled("a signal stopped the simulation; nothing goes on from it");
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (code == kNotStarted) {
    return Unavailable(
        "{} could not start the ranks; is openmpi-bin installed? Leave --nproc out "
        "to play all sites in one process",
        argv[0]);
  }
  return code;
}

}  // namespace tidegate::simulate
