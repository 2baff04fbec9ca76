// Waits for the disk off the caller's thread: files that are made durable and get their names,
// files that are unlinked or kept to be written over. On a disk that takes several requests at once
// they are done together, while the caller goes on.
//
// For one thread at a time; it helps when it waits. Where the machine gives no threads it does all
// of it then.
#pragma once

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/bytes.h"
#include "base/file.h"

namespace tidegate::blocks {

class FileTasks {
 public:
  FileTasks() = default;
  ~FileTasks();  // when all is done
  FileTasks(const FileTasks&) = delete;
  FileTasks& operator=(const FileTasks&) = delete;

  // fdatasync of `file`, which lies at `temporary`; then the rename to `path`, then fsync of that
  // folder. What fails is not tried again, and what comes after it is left out.
  void Name(const Digest& id, Fd file, std::filesystem::path temporary, std::filesystem::path path);
  // A file that is not there is none to unlink.
  void Unlink(std::filesystem::path path);
  // Takes a file's name from it, durably: it becomes a spare at `spare`. (To write over it costs a
  // third of what a new file does: no inode, no extents, and no journal at its fdatasync.)
  void Recycle(std::filesystem::path path, std::filesystem::path spare);
  // One of those, to write over; it is the caller's then.
  std::optional<std::filesystem::path> TakeSpare();
  // Whether threads are at work; without, what is to be done waits for Wait.
  bool started() const { return !threads_.empty(); }
  // Spares that there are or will be; to be without them. Unlinked with the last of this object.
  size_t spares();
  void DropSpares();

  struct Outcome {
    Digest id{};
    Status status;
  };
  // Of the files named since the last call.
  std::vector<Outcome> TakeOutcomes();
  // Until no more than `most` tasks are not done.
  void Wait(size_t most = 0);
  // Of unlinking and recycling, since the last call.
  Status TakeUnlinkStatus();

 private:
  struct Task {
    enum class Kind : uint8_t { kName, kUnlink, kRecycle };
    Kind kind = Kind::kName;
    Digest id{};
    Fd file;
    std::filesystem::path temporary, path;  // of a spare the former is its place
  };
  static Status Run(const Task& task);
  void Add(Task task);
  // Of the first task that waits, if any does; the lock is open meanwhile.
  bool RunOne(std::unique_lock<std::mutex>& lock);
  void Work();
  void StartThread();

  std::mutex mutex_;
  std::condition_variable more_, done_;
  std::deque<Task> waiting_;
  size_t running_ = 0;
  bool stop_ = false;
  std::vector<Outcome> outcomes_;
  std::vector<std::filesystem::path> spares_;
  size_t recycling_ = 0;
  Status unlinked_;
  std::vector<std::thread> threads_;  // the caller's
  bool no_threads_ = false;
};

}  // namespace tidegate::blocks
