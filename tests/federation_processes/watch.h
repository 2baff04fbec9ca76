// Tells what happens in a folder as soon as it does: files renamed into place, files written to,
// lines appended to logs. Linux (inotify). Not thread-safe.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"

namespace tidegate::federation_processes {

class FolderWatch {
 public:
  // Of the folder and all below it, also what is made later. What is there now counts as new.
  static Result<FolderWatch> Create(const std::filesystem::path& root);

  // Readable when there is something to take.
  int fd() const { return fd_.get(); }
  // In order: "north/gate/state/round" for a file put in its place or written to, and
  // "north.log: LINE" for each line of a file DIR/*.log. Temporary files (*.tmp) are left out.
  Result<std::vector<std::string>> Take();

 private:
  FolderWatch(std::filesystem::path root, Fd fd) : root_(std::move(root)), fd_(std::move(fd)) {}
  Status Add(const std::filesystem::path& folder);
  Status Note(const std::filesystem::path& path);

  std::filesystem::path root_;
  Fd fd_;
  std::map<int, std::filesystem::path> folders_;  // by inotify's watch
  std::map<std::filesystem::path, size_t> read_;  // bytes taken of each log
  std::vector<std::string> news_;
};

}  // namespace tidegate::federation_processes
