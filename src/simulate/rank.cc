#include "simulate/rank.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/file.h"
#include "onshore/ranks/sum_channel.h"

extern char** environ;

namespace tidegate::simulate {
namespace {

class Trainer {
 public:
  // Without its pipes it ends by itself.
  ~Trainer() { (void)Wait(); }

  Status Start(const std::vector<std::string>& argv) {
    int in[2], out[2];
    if (::pipe2(in, O_CLOEXEC) != 0) return ErrnoStatus("make", "a pipe", errno);
    const Fd child_input(in[0]);
    input_ = Fd(in[1]);
    if (::pipe2(out, O_CLOEXEC) != 0) return ErrnoStatus("make", "a pipe", errno);
    output_ = Fd(out[0]);
    const Fd child_output(out[1]);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, child_input.get(), STDIN_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, child_output.get(), STDOUT_FILENO);
    std::vector<char*> words;
    for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    const int error = ::posix_spawn(&pid_, words[0], &actions, nullptr, words.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error == 0) return OkStatus();
    pid_ = -1;
    return ErrnoStatus("execute", argv[0], error)
        .WithContext("tidegate-trainer must be installed beside tidegate-simulate");
  }

  int input() const { return input_.get(); }
  int output() const { return output_.get(); }

  // Its exit code, 128 + signal for one that ended it.
  int Wait() {
    input_.reset();
    output_.reset();
    if (pid_ <= 0) return 0;
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  Fd input_, output_;
  pid_t pid_ = -1;
};

// What the trainer prints once it is done.
Status CopyText(int from, int to) {
  uint8_t piece[4096];
  for (;;) {
    const ssize_t n = ::read(from, piece, sizeof(piece));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("read", "the trainer's output", errno);
    if (n == 0) return OkStatus();
    TG_RETURN_IF_ERROR(WriteAll(to, {piece, static_cast<size_t>(n)}, "standard output"));
  }
}

Status Relay(const Trainer& trainer, cluster::Collectives& group, int output) {
  for (;;) {
    TG_ASSIGN_OR_RETURN(auto frame, onshore::ReceiveSum(trainer.output()));
    if (!frame) return OkStatus();
    if (frame->type == onshore::SumFrameType::kText) return CopyText(trainer.output(), output);
    std::vector<int64_t>& values = frame->values;
    TG_RETURN_IF_ERROR(
        group.AllReduce("round", values.data(), values.size(), cluster::DType::kI64));
    // One that has ended says so by its exit code.
    if (!onshore::SendSum(trainer.input(), values).ok()) return OkStatus();
  }
}

}  // namespace

Result<int> PlayRank(std::vector<std::string> argv, cluster::Collectives& group, int output) {
  argv.insert(argv.end(),
              {"--rank", std::to_string(group.rank()), "--ranks", std::to_string(group.size())});
  Trainer trainer;
  Status status = trainer.Start(argv);
  if (status.ok()) status = Relay(trainer, group, output);
  const int code = trainer.Wait();
  if (!status.ok()) {
    group.Abort(status.message());
    return Unexpected(status);
  }
  if (code != 0) {
    group.Abort(fmt::format("the trainer of rank {} ended with exit code {}", group.rank(), code));
  }
  return code;
}

}  // namespace tidegate::simulate
