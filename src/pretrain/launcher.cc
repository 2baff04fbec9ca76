#include "pretrain/launcher.h"

#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <thread>

#include "base/log.h"
#include "base/program.h"
#include "pretrain/checkpoint.h"

extern char** environ;

namespace tidegate::pretrain {
namespace {

std::atomic<pid_t> g_mpirun{0};
std::atomic<bool> g_stopped{false};

// mpirun hands SIGUSR1 to the ranks; at SIGTERM it gives them a second and kills them.
void PassOn(int) {
  g_stopped = true;
  if (const pid_t pid = g_mpirun; pid > 0) ::kill(pid, SIGUSR1);
}

void CatchSignals() {
  struct sigaction action = {};
  action.sa_handler = PassOn;
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGINT, &action, nullptr);
}

std::vector<std::string> CommandOf(const LaunchOptions& options, bool resume) {
  std::vector<std::string> out = {"mpirun",    "-n",   std::to_string(options.ranks),
                                  "--bind-to", "none", "--oversubscribe"};
  // OpenMPI refuses root unless it is told twice; a container often has no one else.
  if (::geteuid() == 0) out.push_back("--allow-run-as-root");
  out.insert(out.end(), {"-x", std::string(kOpenMpSpins[0]) + "=" + kOpenMpSpins[1]});
  out.push_back(std::filesystem::read_symlink("/proc/self/exe").native());
  out.insert(out.end(), options.arguments.begin(), options.arguments.end());
  const bool given = std::find(out.begin(), out.end(), std::string("--resume")) != out.end();
  if (resume && !given) out.push_back("--resume");
  return out;
}

// The exit code, 128 + signal, or 127 when there is no mpirun.
int RunOnce(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  pid_t pid = 0;
  // In a group of its own, so that a key at the terminal reaches this process alone.
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  const int error = ::posix_spawnp(&pid, argv[0], nullptr, &attributes, argv.data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) return 127;
  g_mpirun = pid;
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  g_mpirun = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Lost ranks and peers that did not answer, not what a new start would meet again.
bool WorthAnotherStart(int code) {
  return code >= 128 || code == static_cast<int>(Code::kUnavailable) ||
         code == static_cast<int>(Code::kDeadlineExceeded);
}

int64_t NewestStep(const std::filesystem::path& output_dir) {
  const auto steps = CheckpointSteps(output_dir / "checkpoints");
  return steps && !steps->empty() ? steps->front() : -1;
}

}  // namespace

int LaunchRanks(const LaunchOptions& options) {
  CatchSignals();
  int64_t newest = NewestStep(options.output_dir);
  int left = options.max_restarts;
  for (bool again = false;; again = true) {
    const int code = RunOnce(CommandOf(options, again));
    if (code == 127) {
      LogError("mpirun_not_started remedy=install_openmpi-bin");
      return static_cast<int>(Code::kUnavailable);
    }
    if (code == 0 || g_stopped || !WorthAnotherStart(code)) return code;
    const int64_t step = NewestStep(options.output_dir);
    if (step > newest) left = options.max_restarts;
    newest = step;
    if (left-- == 0) {
      LogError("ranks_lost exit={} starts_without_progress={}", code, options.max_restarts + 1);
      return code;
    }
    LogWarning("ranks_lost exit={} starting_again_from_step={} starts_left={}", code,
               std::max<int64_t>(0, step), left);
    // A machine that refuses at once is not asked in a tight loop.
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

}  // namespace tidegate::pretrain
