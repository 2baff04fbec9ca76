#include "watch.h"

#include <sys/inotify.h>
#include <unistd.h>

#include <cerrno>

namespace tidegate::federation_processes {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxLogBytes = 256u << 20;
constexpr uint32_t kEvents = IN_CREATE | IN_MOVED_TO | IN_MODIFY | IN_ONLYDIR;

}  // namespace

Result<FolderWatch> FolderWatch::Create(const fs::path& root) {
  Fd fd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!fd.valid()) return Unexpected(ErrnoStatus("watch", root.native(), errno));
  FolderWatch watch(root, std::move(fd));
  TG_RETURN_IF_ERROR(watch.Add(root));
  return watch;
}

Status FolderWatch::Add(const fs::path& folder) {
  const int id = ::inotify_add_watch(fd_.get(), folder.c_str(), kEvents);
  if (id < 0 && errno == ENOENT) return OkStatus();  // gone again
  if (id < 0) return ErrnoStatus("watch", folder.native(), errno);
  folders_[id] = folder;
  // What came before the watch.
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    TG_RETURN_IF_ERROR(it->is_directory(ignored) ? Add(it->path()) : Note(it->path()));
  }
  return OkStatus();
}

Status FolderWatch::Note(const fs::path& path) {
  if (path.extension() == ".tmp") return OkStatus();
  const std::string name = path.lexically_relative(root_).native();
  if (path.parent_path() != root_ || path.extension() != ".log") {
    news_.push_back(name);
    return OkStatus();
  }
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxLogBytes));
  size_t& at = read_[path];
  for (size_t end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    news_.push_back(name + ": " + text.substr(at, end - at));
  }
  return OkStatus();
}

Result<std::vector<std::string>> FolderWatch::Take() {
  alignas(inotify_event) char buffer[16 << 10];
  for (;;) {
    const ssize_t n = ::read(fd_.get(), buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return std::exchange(news_, {});
    if (n <= 0) return Unexpected(ErrnoStatus("read", "inotify", errno));
    for (ssize_t at = 0; at < n;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
      if ((event->mask & IN_Q_OVERFLOW) != 0) {
        return ResourceExhausted("inotify lost events; raise fs.inotify.max_queued_events");
      }
      const auto folder = folders_.find(event->wd);
      if (folder == folders_.end() || event->len == 0) continue;
      const fs::path path = folder->second / event->name;
      if ((event->mask & IN_ISDIR) != 0) {
        TG_RETURN_IF_ERROR(Add(path));
      } else if ((event->mask & IN_CREATE) == 0) {
        TG_RETURN_IF_ERROR(Note(path));
      }
    }
  }
}

}  // namespace tidegate::federation_processes
