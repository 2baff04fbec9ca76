// Bases of a few tensors with made-up weights, in a folder of the test's own, and blocks in memory.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "bases/index.h"

namespace tidegate::bases {

// A folder that is removed with its object.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

struct SmallBase {
  uint64_t seed = 1;
  float moved = 0;          // each weight of mlp.weight moves by up to this share of itself
  bool other_head = false;  // lm_head.weight is another one
  std::string config = "{}";
};

// config.json and model.safetensors: a norm, an embedding of 1.5 MB, mlp.weight of 700 KB, lm_head
// of 600 KB, bf16.
void WriteBase(const std::filesystem::path& dir, const SmallBase& base);

// Blocks by id.
struct MemoryBlocks {
  std::map<Digest, Bytes> blocks;
  BlockSink sink();
  BlockSource source() const;
};

// Every file of the folder, by name.
std::map<std::string, Bytes> FilesIn(const std::filesystem::path& dir);

}  // namespace tidegate::bases
