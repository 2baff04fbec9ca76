// Frames of onshore/api/rounds.h out of bytes as they come. Not thread-safe.
#pragma once

#include <string>

#include "base/bytes.h"
#include "base/status.h"
#include "onshore/api/rounds.h"

namespace tidegate::onshore::api {

struct RoundMessage {
  RoundFrame frame;
  std::string text;
  Bytes weights;
};

class RoundReader {
 public:
  // How many bytes the message at hand still lacks; 0: it is whole. kDataLoss for what is no frame,
  // or has bodies over kMaxRoundText and `most_weights`.
  Result<size_t> Missing(uint64_t most_weights) const;
  // At most as many as are missing.
  void Add(ByteSpan bytes) { in_.insert(in_.end(), bytes.begin(), bytes.end()); }
  // When nothing is missing.
  RoundMessage Take();

 private:
  Bytes in_;
};

}  // namespace tidegate::onshore::api
