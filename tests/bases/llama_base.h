// A Llama in an HF folder with random bf16 weights, no two the same: for what moves bases, of any
// size.
#pragma once

#include <cstdint>
#include <filesystem>

#include "base/status.h"

namespace tidegate::bases {

struct LlamaBase {
  int64_t hidden = 256, inner = 768, layers = 2, vocab = 4096;
  uint64_t seed = 1;
  // So many of 1024 weights have the lowest bit of their mantissa flipped, as a little more
  // training moves them.
  uint32_t moved = 0;
};

Status WriteLlamaBase(const std::filesystem::path& dir, const LlamaBase& base);

}  // namespace tidegate::bases
