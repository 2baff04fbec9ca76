#include "fuzz.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/file.h"

namespace tidegate::fuzz {
namespace {

namespace fs = std::filesystem;

// Memory rather than a disk, where the system has it.
fs::path TempRoot() {
  const fs::path shared = "/dev/shm";
  return ::access(shared.c_str(), W_OK) == 0 ? shared : fs::temp_directory_path();
}

}  // namespace

void Require(bool holds, std::string_view claim) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: does not hold: %.*s\n", static_cast<int>(claim.size()), claim.data());
  std::abort();
}

std::string SourceFile(std::string_view path) {
  const auto bytes = ReadFile(fs::path(TIDEGATE_SOURCE_DIR) / path, 16u << 20);
  Require(bytes.has_value(), std::string("the source tree has ") + std::string(path));
  return Text(*bytes);
}

std::string WireVector(std::string_view name) {
  std::string hex = SourceFile("protocols/vectors/v1/" + std::string(name));
  while (hex.ends_with('\n')) hex.pop_back();
  const auto bytes = FromHex(hex);
  Require(bytes.has_value(), "a wire vector is hex");
  return Text(*bytes);
}

Folder::Folder() {
  std::string pattern = (TempRoot() / "tidegate-fuzz-XXXXXX").native();
  Require(::mkdtemp(pattern.data()) != nullptr, "a temporary folder can be made");
  path_ = pattern;
}

Folder::~Folder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void Folder::Put(std::string_view name, std::string_view content, unsigned mode) const {
  const fs::path path = fs::path(path_) / name;
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode));
  Require(fd.valid() && WriteAll(fd.get(), AsBytes(content), path.native()).ok(),
          "a temporary file can be written");
}

void Folder::Remove(std::string_view name) const {
  std::error_code ignored;
  fs::remove_all(fs::path(path_) / name, ignored);
}

}  // namespace tidegate::fuzz
