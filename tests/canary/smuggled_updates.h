// Updates with a record's words in them. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "base/bytes.h"
#include "onshore/ipc/messages.h"
#include "protocols/update.h"

namespace tidegate::canary {

struct RoundFacts {
  protocols::JobManifest job;
  onshore::RoundStart start;
  std::string site;
};

struct Smuggled {
  std::string how;  // without the words
  Bytes update;
};

// Each with the words somewhere that is not a weight, or in weights that are too large: what a gate
// must refuse.
std::vector<Smuggled> UpdatesToRefuse(const RoundFacts& facts, const std::string& words);

// A whole and valid update that changes nothing.
Bytes HonestUpdate(const RoundFacts& facts);

// The words again and again as the integers of all B tensors, an octet each; what no gate can know
// from training. kHiddenScale times an octet is exact on the grid of parameters.
Bytes UpdateWithHiddenWords(const RoundFacts& facts, const std::string& words);
inline constexpr float kHiddenScale = 1.0f / (1 << 20);

}  // namespace tidegate::canary
