#include "onshore/answers/worker.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "base/file.h"
#include "base/json.h"

extern char** environ;

namespace tidegate::onshore {
namespace {

// That the process may leave a question unread: it reads between two steps of an answer.
constexpr int kWriteMillis = 60'000;
// From the request to end until it is killed.
constexpr std::chrono::milliseconds kEnd{5'000};
// Of what it says to its standard error: the end.
constexpr size_t kKeptErrors = 4096;

// The words of the last error that a program with --format json said; else of its last line.
std::string LastWords(std::string_view errors) {
  while (!errors.empty() && errors.back() == '\n') errors.remove_suffix(1);
  const std::string_view line = errors.substr(errors.rfind('\n') + 1);
  const auto json = nlohmann::json::parse(line, nullptr, false);
  const auto words = nlohmann::json::json_pointer("/error/message");
  // It may be in another shape than ours.
  if (json.is_object() && json.contains(words) && json[words].is_string()) {
    return json[words].get<std::string>();
  }
  return std::string(line);
}

class Worker final : public AnswerWorker {
 public:
  ~Worker() override {
    input_.reset();  // the end of its input ends it, once all is answered
    if (pid_ > 0) {
      std::unique_lock lock(mutex_);
      // Nobody waits for an answer any more, and one that loads looks at nothing.
      if (!ended_ && !ready_) ::kill(-pid_, SIGKILL);
      if (!ended_ && !open_.empty()) ::kill(pid_, SIGTERM);
      if (!changed_.wait_for(lock, kEnd, [this] { return ended_.load(); })) ::kill(-pid_, SIGKILL);
    }
    if (reader_.joinable()) reader_.join();
  }

  Status Open(const std::vector<std::string>& argv, std::chrono::milliseconds ready_within,
              const WorkerOptions& options) {
    told_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!told_.valid()) return ErrnoStatus("make", "an event descriptor", errno);
    TG_RETURN_IF_ERROR(Spawn(argv, options.keep_errors));
    sigset_t all, before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are the owner's
    reader_ = std::thread([this] { ReadAll(); });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    TG_RETURN_IF_ERROR(AwaitReady(argv[0], ready_within, options.cancel));
    const std::lock_guard lock(mutex_);
    if (ready_) return OkStatus();
    const bool known = exit_code_ > 0 && exit_code_ <= static_cast<int>(Code::kInternal);
    if (known && !errors_.empty()) {
      return MakeError(static_cast<Code>(exit_code_), "{}", LastWords(errors_));
    }
    return Unavailable("{} ended before it was ready, with exit code {}{}{}", argv[0], exit_code_,
                       errors_.empty() ? "" : ": ", LastWords(errors_));
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
  // Until it is ready or has ended.
  Status AwaitReady(const std::string& name, std::chrono::milliseconds within, int cancel) {
    const auto until = std::chrono::steady_clock::now() + within;
    for (;;) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          until - std::chrono::steady_clock::now());
      pollfd fds[] = {{told_.get(), POLLIN, 0}, {cancel, POLLIN, 0}};
      const int wait = static_cast<int>(std::clamp<int64_t>(left.count(), 0, 60'000));
      const int n = ::poll(fds, 2, wait);
      if (n < 0 && errno != EINTR) return ErrnoStatus("wait for", name, errno);
      if (n > 0 && fds[0].revents != 0) return OkStatus();
      if (n > 0) return Cancelled("the wait for {} was cancelled", name);
      if (left.count() <= 0) {
        return DeadlineExceeded("{} was not ready within {} s", name, within.count() / 1000.0);
      }
    }
  }

  void Tell() {
    changed_.notify_all();
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(told_.get(), &one, sizeof(one));
  }

  Status Spawn(const std::vector<std::string>& argv, bool keep_errors) {
    int in[2], out[2], err[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in) != 0) {
      return ErrnoStatus("make", "a socket pair", errno);
    }
    input_ = Fd(in[0]);
    const Fd child_input(in[1]);
    if (::pipe2(out, O_CLOEXEC) != 0) return ErrnoStatus("make", "a pipe", errno);
    output_ = Fd(out[0]);
    const Fd child_output(out[1]);
    Fd child_errors;
    if (keep_errors) {
      if (::pipe2(err, O_CLOEXEC) != 0) return ErrnoStatus("make", "a pipe", errno);
      error_output_ = Fd(err[0]);
      child_errors = Fd(err[1]);
    }
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, child_input.get(), STDIN_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, child_output.get(), STDOUT_FILENO);
    if (keep_errors) {
      ::posix_spawn_file_actions_adddup2(&actions, child_errors.get(), STDERR_FILENO);
    }
    // A key at the terminal is for the owner, which may go on; what the owner's threads block or
    // ignore is no business of the program's.
    posix_spawnattr_t attributes;
    ::posix_spawnattr_init(&attributes);
    sigset_t none, defaults;
    ::sigemptyset(&none);
    ::sigemptyset(&defaults);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGPIPE}) ::sigaddset(&defaults, signal);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    ::posix_spawnattr_setsigdefault(&attributes, &defaults);
    ::posix_spawnattr_setpgroup(&attributes, 0);
    ::posix_spawnattr_setflags(
        &attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    std::vector<char*> words;
    for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    const int error = ::posix_spawn(&pid_, words[0], &actions, &attributes, words.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
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
    std::string buffer, errors;
    while (output_.valid() || error_output_.valid()) {
      pollfd fds[] = {{output_.get(), POLLIN, 0}, {error_output_.get(), POLLIN, 0}};
      if (::poll(fds, 2, -1) < 0 && errno != EINTR) break;
      if (fds[0].revents != 0 && (!ReadSome(output_, &buffer) || !TakeLines(&buffer))) {
        output_.reset();
      }
      if (fds[1].revents != 0) {
        if (!ReadSome(error_output_, &errors)) error_output_.reset();
        if (errors.size() > kKeptErrors) errors.erase(0, errors.size() - kKeptErrors);
      }
    }
    output_.reset();
    siginfo_t info;
    // It is reaped where nobody can take its number for another's.
    while (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) < 0 &&
           errno == EINTR) {
    }
    End(std::move(errors));
  }

  // False at the end.
  static bool ReadSome(const Fd& from, std::string* to) {
    char piece[16384];
    const ssize_t n = ::read(from.get(), piece, sizeof(piece));
    if (n > 0) to->append(piece, static_cast<size_t>(n));
    return n > 0 || (n < 0 && errno == EINTR);
  }

  // False for a line that is too long.
  bool TakeLines(std::string* buffer) {
    size_t begin = 0;
    for (size_t end; (end = buffer->find('\n', begin)) != std::string::npos; begin = end + 1) {
      TakeLine(std::string_view(*buffer).substr(begin, end - begin));
    }
    buffer->erase(0, begin);
    return buffer->size() <= kMaxAnswerLine;
  }

  void TakeLine(std::string_view line) {
    const auto event = DecodeEvent(line);
    if (!event) return;  // of what it says, what we do not know is left out
    if (event->kind == AnswerEvent::Kind::kReady) {
      const std::lock_guard lock(mutex_);
      models_ = event->models;
      walls_ = event->text;
      ready_ = true;
      Tell();
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

  void End(std::string errors) {
    std::map<uint64_t, OnEvent> open;
    AnswerEvent event;
    event.kind = AnswerEvent::Kind::kError;
    event.code = Code::kUnavailable;
    event.text = "the process that held the model has ended";
    {
      const std::lock_guard lock(mutex_);
      int status = 0;
      while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
      }
      exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      errors_ = std::move(errors);
      ended_ = true;
      open.swap(open_);
      if (!errors_.empty()) event.text += ": " + LastWords(errors_);
      Tell();
    }
    for (const auto& [id, on_event] : open) {
      event.id = id;
      on_event(event);
    }
  }

  Fd input_, output_, error_output_;
  Fd told_;  // readable once it is ready or has ended
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
  std::string errors_;
  uint64_t last_id_ = 0;
  std::map<uint64_t, OnEvent> open_;
};

}  // namespace

Result<std::unique_ptr<AnswerWorker>> AnswerWorker::Start(const std::vector<std::string>& argv,
                                                          std::chrono::milliseconds ready_within,
                                                          const WorkerOptions& options) {
  auto worker = std::make_unique<Worker>();
  TG_RETURN_IF_ERROR(worker->Open(argv, ready_within, options));
  return std::unique_ptr<AnswerWorker>(std::move(worker));
}

}  // namespace tidegate::onshore
