// The identity of a base model: one hash over the files that decide what it computes.
#pragma once

#include <filesystem>

#include "base/bytes.h"
#include "base/status.h"

namespace tidegate::crypto {

// SHA-256 over, for each of these files that is in `dir`, in byte order of the names: the name,
// 0x00, the size (8 bytes little-endian) and the SHA-256 of the content:
//   config.json tokenizer.json tokenizer_config.json chat_template.jinja *.safetensors
//   *.safetensors.index.json
// kNotFound without config.json or without a .safetensors file; symbolic links are followed. Reads
// every byte: about a second a gigabyte.
Result<Digest> BaseHash(const std::filesystem::path& dir);

}  // namespace tidegate::crypto
