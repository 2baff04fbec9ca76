#include "bases/files.h"

#include <algorithm>

#include "base/file.h"

namespace tidegate::bases {

namespace fs = std::filesystem;

bool IsBaseFileName(std::string_view name) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  };
  if (name.empty() || name.size() > protocols::kMaxBaseFileName || name.front() == '.' ||
      !std::all_of(name.begin(), name.end(), plain)) {
    return false;
  }
  for (const std::string_view fixed : {"config.json", "tokenizer.json", "tokenizer_config.json",
                                       "chat_template.jinja", "generation_config.json"}) {
    if (name == fixed) return true;
  }
  return name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
}

Result<std::vector<protocols::BaseFile>> FilesOf(const fs::path& dir) {
  std::vector<protocols::BaseFile> files;
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().native();
    if (!IsBaseFileName(name)) continue;
    std::error_code gone;
    const uint64_t bytes = it->file_size(gone);
    if (gone) return Unexpected(ErrnoStatus("look at", it->path().native(), gone.value()));
    files.push_back({name, bytes});
  }
  if (error) return NotFound("cannot list base folder {}: {}", dir.native(), error.message());
  if (files.size() > protocols::kMaxBaseFiles) {
    return ResourceExhausted("{} has {} files of a base, the limit is {}", dir.native(),
                             files.size(), protocols::kMaxBaseFiles);
  }
  std::sort(files.begin(), files.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return files;
}

}  // namespace tidegate::bases
