// A base that was fetched becomes a folder: written beside its place, each block held against the
// index, the whole against the base hash, and only then given its name. Never in place. Not
// thread-safe; one at a time for one target.
#pragma once

#include <filesystem>

#include "bases/index.h"

namespace tidegate::bases {

// The name of the signed manifest in an installed folder; no file of a base is called so.
inline constexpr const char* kInstalledManifest = "tidegate-base.manifest";

struct Installation {
  protocols::Signed document;  // whose manifest is `manifest`; kept in the folder
  protocols::BaseManifest manifest;
  BlockSource source;
  std::filesystem::path from;    // the base to patch; empty: all blocks are there
  std::filesystem::path target;  // must not exist
};

// kAlreadyExists, kFailedPrecondition (`from` is another base), kDataLoss or kInvalidArgument for
// what is not as the manifest says, kNotFound for a block that is missing; nothing is left then.
Status Install(const Installation& installation);

}  // namespace tidegate::bases
