// A folder of a test's own, removed with all that is in it.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace tidegate::canary {

class TempFolder {
 public:
  explicit TempFolder(const std::string& name) {
    std::string path =
        (std::filesystem::temp_directory_path() / ("canary-" + name + "-XXXXXX")).native();
    if (::mkdtemp(path.data()) == nullptr) std::abort();
    path_ = std::filesystem::canonical(path);
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace tidegate::canary
