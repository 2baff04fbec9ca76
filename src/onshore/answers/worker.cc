#include "onshore/answers/worker.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "base/file.h"

extern char** environ;

namespace tidegate::onshore {
namespace {

// That the process may leave a question unread: it reads between two steps of an answer.
constexpr int kWriteMillis = 60'000;
// From the request to end until it is killed.
constexpr int kEndMillis = 5'000;

class Worker final : public AnswerWorker {
 public:
  ~Worker() override {
    input_.reset();  // the end of its input ends it
    if (pid_ > 0) {
      for (int i = 0; i < kEndMillis / 10 && !ended_; ++i) ::usleep(10'000);
      if (!ended_) ::kill(pid_, SIGKILL);
    }
    if (reader_.joinable()) reader_.join();
  }

  Status Open(const std::vector<std::string>& argv, std::chrono::milliseconds ready_within) {
    TG_RETURN_IF_ERROR(Spawn(argv));
    sigset_t all, before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are the owner's
    reader_ = std::thread([this] { ReadAll(); });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    std::unique_lock lock(mutex_);
    const bool told =
        changed_.wait_for(lock, ready_within, [this] { return ready_ || ended_.load(); });
    if (!told) {
      return DeadlineExceeded("{} was not ready within {} s", argv[0], ready_within.count() / 1000);
    }
    if (ready_) return OkStatus();
    return Unavailable("{} ended before it was ready, with exit code {}", argv[0], exit_code_);
  }

  const std::vector<std::string>& models() const override { return models_; }
  const std::string& walls() const override { return walls_; }
  bool alive() const override { return !ended_; }

  Result<uint64_t> Submit(Ask ask, OnEvent on_event) override {
    {
      const std::lock_guard lock(mutex_);
      if (ended_) return Unavailable("the process that held the model has ended");
      ask.id = ++last_id_;
      open_[ask.id] = std::move(on_event);
    }
    const std::string line = EncodeAsk(ask);
    Status status = OkStatus();
    if (line.size() > kMaxAskBytes) {
      status = ResourceExhausted("the question has {} bytes: the limit is {}", line.size(),
                                 kMaxAskBytes);
    } else {
      status = Write(line);
    }
    if (status.ok()) return ask.id;
    const std::lock_guard lock(mutex_);
    open_.erase(ask.id);
    return Unexpected(status);
  }

  void Cancel(uint64_t id) override { (void)Write(EncodeCancel(id)); }

 private:
  Status Spawn(const std::vector<std::string>& argv) {
    int in[2], out[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in) != 0) {
      return ErrnoStatus("make", "a socket pair", errno);
    }
    input_ = Fd(in[0]);
    const Fd child_input(in[1]);
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
    if (error != 0) {
      pid_ = -1;
      return ErrnoStatus("execute", argv[0], error);
    }
    return OkStatus();
  }

  Status Write(const std::string& line) {
    const std::lock_guard lock(write_mutex_);
    for (size_t at = 0; at < line.size();) {
      pollfd waits = {input_.get(), POLLOUT, 0};
      const int n = ::poll(&waits, 1, kWriteMillis);
      if (n < 0 && errno == EINTR) continue;
      if (n == 0)
        return DeadlineExceeded("the model's process took no question for {} s",
                                kWriteMillis / 1000);
      const ssize_t sent =
          ::send(input_.get(), line.data() + at, line.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      if (sent < 0) return Unavailable("the process that held the model has ended");
      at += static_cast<size_t>(sent);
    }
    return OkStatus();
  }

  void ReadAll() {
    std::string buffer;
    char piece[16384];
    while (true) {
      const ssize_t n = ::read(output_.get(), piece, sizeof(piece));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      buffer.append(piece, static_cast<size_t>(n));
      size_t begin = 0;
      for (size_t end; (end = buffer.find('\n', begin)) != std::string::npos; begin = end + 1) {
        TakeLine(std::string_view(buffer).substr(begin, end - begin));
      }
      buffer.erase(0, begin);
      if (buffer.size() > kMaxAnswerLine) break;
    }
    output_.reset();
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    End(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  }

  void TakeLine(std::string_view line) {
    const auto event = DecodeEvent(line);
    if (!event) return;  // of what it says, what we do not know is left out
    if (event->kind == AnswerEvent::Kind::kReady) {
      const std::lock_guard lock(mutex_);
      models_ = event->models;
      walls_ = event->text;
      ready_ = true;
      changed_.notify_all();
      return;
    }
    OnEvent on_event;
    {
      const std::lock_guard lock(mutex_);
      const auto found = open_.find(event->id);
      if (found == open_.end()) return;
      if (event->kind == AnswerEvent::Kind::kText) {
        on_event = found->second;
      } else {
        on_event = std::move(found->second);
        open_.erase(found);
      }
    }
    on_event(*event);
  }

  void End(int exit_code) {
    std::map<uint64_t, OnEvent> open;
    {
      const std::lock_guard lock(mutex_);
      exit_code_ = exit_code;
      ended_ = true;
      open.swap(open_);
      changed_.notify_all();
    }
    for (const auto& [id, on_event] : open) {
      AnswerEvent event;
      event.kind = AnswerEvent::Kind::kError;
      event.id = id;
      event.code = Code::kUnavailable;
      event.text = "the process that held the model has ended";
      on_event(event);
    }
  }

  Fd input_, output_;
  pid_t pid_ = -1;
  std::thread reader_;
  std::mutex write_mutex_;
  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::vector<std::string> models_;
  std::string walls_;
  bool ready_ = false;
  std::atomic<bool> ended_{false};
  int exit_code_ = 0;
  uint64_t last_id_ = 0;
  std::map<uint64_t, OnEvent> open_;
};

}  // namespace

Result<std::unique_ptr<AnswerWorker>> AnswerWorker::Start(const std::vector<std::string>& argv,
                                                          std::chrono::milliseconds ready_within) {
  auto worker = std::make_unique<Worker>();
  TG_RETURN_IF_ERROR(worker->Open(argv, ready_within));
  return std::unique_ptr<AnswerWorker>(std::move(worker));
}

}  // namespace tidegate::onshore
