// A folder that appears whole, by a rename, or not at all. Not thread-safe.
#pragma once

#include <filesystem>
#include <utility>

#include "base/status.h"

namespace tidegate::model {

class NewFolder {
 public:
  // kAlreadyExists unless nothing is there, or an empty folder.
  static Status CheckTarget(const std::filesystem::path& target);

  // Makes a folder beside `target`, to be filled; it is removed unless it is published.
  static Result<NewFolder> Create(const std::filesystem::path& target);
  NewFolder(NewFolder&& other) noexcept
      : path_(std::exchange(other.path_, {})), target_(std::move(other.target_)) {}
  NewFolder& operator=(NewFolder&&) = delete;
  ~NewFolder();

  const std::filesystem::path& path() const { return path_; }
  // Gives it its name, durably. What is in it must be synced already.
  Status Publish();

 private:
  NewFolder(std::filesystem::path path, std::filesystem::path target)
      : path_(std::move(path)), target_(std::move(target)) {}
  std::filesystem::path path_, target_;
};

// Copies what a model folder has beside its weights and config.json, the tokenizer first of all;
// what is not there is left out.
Status CopySmallFiles(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace tidegate::model
