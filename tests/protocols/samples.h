// One sample of every message and document, with every field set to something of its own; the
// golden vectors in protocols/vectors/v1 are their encodings.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "protocols/bases.h"
#include "protocols/messages.h"

namespace tidegate::protocols {

struct Sample {
  std::string name;
  std::vector<uint8_t> bytes;
  // Decodes and encodes again; the error's text when it does not decode.
  std::function<Decoded<std::vector<uint8_t>>(std::span<const uint8_t>)> recode;
};

std::vector<Sample> AllSamples();

}  // namespace tidegate::protocols
