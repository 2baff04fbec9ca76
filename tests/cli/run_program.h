// Runs one of the built programs as a user would and keeps what it said.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

namespace tidegate::cli {

struct RunResult {
  int exit_code = -1;  // 128 + signal when one ended it
  std::string out, err;
};

struct RunOptions {
  // Looked at after every piece of standard error: a signal to send once, or 0.
  std::function<int(const std::string& err)> signal_when;
  // The same of standard output.
  std::function<int(const std::string& out)> signal_when_out;
  // The signal goes to the first child of the program (the walled part of a trainer) instead.
  bool signal_child = false;
  rlim_t max_file_bytes = RLIM_INFINITY;
  // Where standard output goes instead of to `out`.
  std::string out_path;
  // What standard input is instead of ours; stays the caller's.
  int input = -1;
  // Called in the new process before the program; false ends it with 126.
  std::function<bool()> before_exec;
};

inline std::filesystem::path Program(const std::string& name) {
  return std::filesystem::path(TIDEGATE_BIN_DIR) / name;
}

// 0 when there is none.
inline pid_t ChildOf(pid_t parent) {
  std::ifstream in("/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) +
                   "/children");
  pid_t child = 0;
  return in >> child ? child : 0;
}

inline RunResult RunProgram(const std::vector<std::string>& words, const RunOptions& options = {}) {
  int out[2], err[2];
  EXPECT_EQ(::pipe2(out, O_CLOEXEC), 0);
  EXPECT_EQ(::pipe2(err, O_CLOEXEC), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(out[1], 1);
    ::dup2(err[1], 2);
    if (options.input >= 0 && ::dup2(options.input, 0) < 0) ::_exit(127);
    if (options.max_file_bytes != RLIM_INFINITY) {
      const rlimit limit{options.max_file_bytes, options.max_file_bytes};
      ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    if (!options.out_path.empty()) {
      const int file = ::open(options.out_path.c_str(), O_WRONLY | O_CLOEXEC);
      if (file < 0 || ::dup2(file, 1) < 0) ::_exit(127);
    }
    if (options.before_exec && !options.before_exec()) ::_exit(126);
    std::vector<std::string> copy = words;
    std::vector<char*> argv;
    for (std::string& word : copy) argv.push_back(word.data());
    argv.push_back(nullptr);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(out[1]);
  ::close(err[1]);
  RunResult result;
  bool signalled = false;
  pollfd polled[2] = {{out[0], POLLIN, 0}, {err[0], POLLIN, 0}};
  while (polled[0].fd >= 0 || polled[1].fd >= 0) {
    if (::poll(polled, 2, 60'000) <= 0) {
      ADD_FAILURE() << words[1] << " said nothing for a minute";
      ::kill(child, SIGKILL);
      break;
    }
    for (int i = 0; i < 2; ++i) {
      if (polled[i].fd < 0 || polled[i].revents == 0) continue;
      char buffer[4096];
      const ssize_t n = ::read(polled[i].fd, buffer, sizeof(buffer));
      if (n <= 0) polled[i].fd = -1;
      if (n > 0) (i == 0 ? result.out : result.err).append(buffer, static_cast<size_t>(n));
    }
    if ((options.signal_when || options.signal_when_out) && !signalled) {
      const int signal = options.signal_when ? options.signal_when(result.err)
                                             : options.signal_when_out(result.out);
      signalled = signal != 0;
      const pid_t target = signalled && options.signal_child ? ChildOf(child) : child;
      EXPECT_GT(target, 0) << "the program has no child to signal";
      if (signalled && target > 0) ::kill(target, signal);
    }
  }
  ::close(out[0]);
  ::close(err[0]);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace tidegate::cli
