// From a delta in floats to the exact numbers that cross (protocols/update.h).
#pragma once

#include <span>
#include <vector>

#include "base/bytes.h"
#include "protocols/update.h"

namespace tidegate::federation {

struct EncodeOptions {
  // > 0: the delta is scaled down so that the L2 norm of the *encoded* values is at most this.
  double norm_clip = 0;
  protocols::Rounding rounding = protocols::Rounding::kNearest;
  // Of stochastic rounding: a value's random number is one of (key, the header's round, its
  // position in the whole layout), so the same round has the same bytes.
  uint64_t key = 0;
};

// Encodes `delta` (flat, of the whole layout; what the header's groups leave out is ignored). The
// header's tensors and values are filled in here.
//   fixed32: the delta must lie on the grid 2^-28 and below 8, else kInvalidArgument; it is never
//            rounded nor scaled: one over the clip is kFailedPrecondition.
//   bf16:    a step is 2^-7 of the power of two below the value.
//   int8, int4: a step is the scale, max|x| / 127 (or 7) of each group of 256 (or 64); the largest
//            value of a group is always met. A group of nothing but numbers below 2^-33 (their
//            place in the sum is 0) is sent as zeros.
// Rounded to the nearest (ties to even) a value is at most half a step off; rounded by chance less
// than a step, and right in the mean.
// A delta that is not finite, or 32 and more, is kFailedPrecondition. Deterministic. Upon success
// `delta` has been scaled as the clip asked for: it minus what the update decodes to is the error
// of the codec alone.
Result<Bytes> EncodeDelta(protocols::UpdateHeader header, const protocols::Layout& layout,
                          std::span<double> delta, const EncodeOptions& options);

// result − start, in double: it may need more than a float's bits. Same sizes.
std::vector<double> Difference(std::span<const float> start, std::span<const float> result);

// Both at once, rounded to the nearest. Flat buffers of the whole layout, on the grid.
Result<Bytes> EncodeUpdate(const protocols::UpdateHeader& header, const protocols::Layout& layout,
                           std::span<const float> start, std::span<const float> result,
                           double norm_clip);

}  // namespace tidegate::federation
