#include "onshore/api/round_reader.h"

#include <algorithm>
#include <cstring>

namespace tidegate::onshore::api {
namespace {

RoundFrame HeadOf(const Bytes& bytes) {
  RoundFrame frame;
  std::memcpy(&frame, bytes.data(), sizeof(frame));
  return frame;
}

}  // namespace

Result<size_t> RoundReader::Missing(uint64_t most_weights) const {
  if (in_.size() < sizeof(RoundFrame)) return sizeof(RoundFrame) - in_.size();
  const RoundFrame frame = HeadOf(in_);
  if (frame.magic != kRoundMagic || frame.text_bytes > kMaxRoundText ||
      frame.weights_bytes > std::min(most_weights, kMaxRoundWeights)) {
    return DataLoss("what came over the pipe is no frame, or one of more than {} bytes",
                    kMaxRoundText + most_weights);
  }
  return sizeof(frame) + static_cast<size_t>(frame.text_bytes + frame.weights_bytes) - in_.size();
}

RoundMessage RoundReader::Take() {
  RoundMessage message;
  message.frame = HeadOf(in_);
  const auto text = in_.begin() + sizeof(RoundFrame);
  const auto weights = text + static_cast<ptrdiff_t>(message.frame.text_bytes);
  message.text.assign(text, weights);
  message.weights.assign(weights, in_.end());
  in_.clear();
  return message;
}

}  // namespace tidegate::onshore::api
