#include "crypto/base_hash.h"

#include <algorithm>
#include <vector>

#include "base/file.h"
#include "crypto/hash.h"

namespace tidegate::crypto {
namespace {

bool Decides(const std::string& name) {
  return name == "config.json" || name == "tokenizer.json" || name == "tokenizer_config.json" ||
         name == "chat_template.jinja" || name.ends_with(".safetensors") ||
         name.ends_with(".safetensors.index.json");
}

}  // namespace

Result<Digest> BaseHash(const std::filesystem::path& dir) {
  std::error_code error;
  std::vector<std::string> names;
  for (std::filesystem::directory_iterator it(dir, error), end; !error && it != end;
       it.increment(error)) {
    if (Decides(it->path().filename().string())) names.push_back(it->path().filename().string());
  }
  if (error) return NotFound("cannot list base folder {}: {}", dir.native(), error.message());
  std::sort(names.begin(), names.end());
  const bool config = std::binary_search(names.begin(), names.end(), "config.json");
  const bool weights = std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return name.ends_with(".safetensors");
  });
  if (!config || !weights) {
    return NotFound("{} is not a base model: it needs config.json and a .safetensors file",
                    dir.native());
  }
  Sha256 hash;
  for (const std::string& name : names) {
    TG_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(dir / name));
    uint8_t size[8];
    StoreLe64(size, file.bytes().size());
    const uint8_t zero = 0;
    hash.Update(AsBytes(name)).Update({&zero, 1}).Update(size).Update(Sha256::Of(file.bytes()));
  }
  return hash.Finish();
}

}  // namespace tidegate::crypto
