// The files of a base that is published: those that decide what it computes (crypto/base_hash.h)
// and generation_config.json; nothing else crosses, and nothing that a program would be. Pure
// functions.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "protocols/bases.h"

namespace tidegate::bases {

// Whether a file may be called so: no folder, no hidden file, one of the names above.
bool IsBaseFileName(std::string_view name);

// Those of the folder, in byte order of the names, with their sizes. kNotFound when it cannot be
// listed, kResourceExhausted for more than kMaxBaseFiles.
Result<std::vector<protocols::BaseFile>> FilesOf(const std::filesystem::path& dir);

}  // namespace tidegate::bases
