// Records of a site with canaries in them. Not thread-safe.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"

namespace tidegate::canary {

struct Planted {
  std::string name;  // "north.train.messages.user"
  std::string text;
};

// Writes records of every form (docs/formats/data.md), a canary of its own in each text of them.
// The first line of `train` is {"text": CANARY}, named "SITE.train.text". Each record has at most
// 220 tokens of the tiny Llama.
Result<std::vector<Planted>> PlantRecords(const std::string& site,
                                          const std::filesystem::path& train,
                                          const std::filesystem::path& heldout);

}  // namespace tidegate::canary
