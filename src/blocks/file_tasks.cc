#include "blocks/file_tasks.h"

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>
#include <utility>

namespace tidegate::blocks {
namespace {

// Together they keep a disk busy; more gain nothing.
constexpr size_t kThreads = 4;
// A few files are done sooner by who waits for them than by a thread that is yet to start.
constexpr size_t kWorthAThread = 4;

}  // namespace

FileTasks::~FileTasks() {
  Wait();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  more_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  DropSpares();
}

void FileTasks::Name(const Digest& id, Fd file, std::filesystem::path temporary,
                     std::filesystem::path path) {
  Add({Task::Kind::kName, id, std::move(file), std::move(temporary), std::move(path)});
}

void FileTasks::Unlink(std::filesystem::path path) {
  Add({Task::Kind::kUnlink, {}, Fd(), {}, std::move(path)});
}

void FileTasks::Recycle(std::filesystem::path path, std::filesystem::path spare) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++recycling_;
  }
  Add({Task::Kind::kRecycle, {}, Fd(), std::move(spare), std::move(path)});
}

std::optional<std::filesystem::path> FileTasks::TakeSpare() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (spares_.empty()) return std::nullopt;
  std::filesystem::path spare = std::move(spares_.back());
  spares_.pop_back();
  return spare;
}

size_t FileTasks::spares() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return spares_.size() + recycling_;
}

void FileTasks::DropSpares() {
  while (const auto spare = TakeSpare()) ::unlink(spare->c_str());
}

Status FileTasks::Run(const Task& task) {
  if (task.kind == Task::Kind::kUnlink) {
    if (::unlink(task.path.c_str()) == 0 || errno == ENOENT) return OkStatus();
    return ErrnoStatus("remove", task.path.native(), errno);
  }
  if (task.kind == Task::Kind::kRecycle) {
    if (::rename(task.path.c_str(), task.temporary.c_str()) != 0) {
      return ErrnoStatus("rename", task.path.native(), errno);
    }
    // Or after a crash the name might be there again, with other bytes.
    return SyncDirectory(task.path.parent_path());
  }
  if (::fdatasync(task.file.get()) != 0) {
    return ErrnoStatus("fsync", task.temporary.native(), errno);
  }
  if (::rename(task.temporary.c_str(), task.path.c_str()) != 0) {
    return ErrnoStatus("rename to", task.path.native(), errno);
  }
  return SyncDirectory(task.path.parent_path());
}

void FileTasks::Add(Task task) {
  size_t waiting = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    waiting_.push_back(std::move(task));
    waiting = waiting_.size();
  }
  if (waiting >= kWorthAThread && threads_.size() < kThreads) StartThread();
  more_.notify_one();
}

void FileTasks::StartThread() {
  if (no_threads_) return;
  // Signals are the caller's.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    threads_.emplace_back([this] { Work(); });
  } catch (const std::system_error&) {
    no_threads_ = true;
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

bool FileTasks::RunOne(std::unique_lock<std::mutex>& lock) {
  if (waiting_.empty()) return false;
  const Task task = std::move(waiting_.front());
  waiting_.pop_front();
  ++running_;
  lock.unlock();
  Status status = Run(task);
  lock.lock();
  --running_;
  if (task.kind == Task::Kind::kName) {
    outcomes_.push_back({task.id, std::move(status)});
  } else {
    if (task.kind == Task::Kind::kRecycle) {
      --recycling_;
      if (status.ok()) spares_.push_back(task.temporary);
    }
    // Gone already is as good as removed.
    if (!status.ok() && status.code() != Code::kNotFound) unlinked_ = std::move(status);
  }
  done_.notify_one();
  return true;
}

void FileTasks::Work() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    if (RunOne(lock)) continue;
    if (stop_) return;
    more_.wait(lock);
  }
}

void FileTasks::Wait(size_t most) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (waiting_.size() + running_ > most) {
    if (!RunOne(lock)) done_.wait(lock);
  }
}

std::vector<FileTasks::Outcome> FileTasks::TakeOutcomes() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(outcomes_, {});
}

Status FileTasks::TakeUnlinkStatus() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(unlinked_, OkStatus());
}

}  // namespace tidegate::blocks
