// From a delta in floats to the exact integers that cross (protocols/update.h).
#pragma once

#include <span>

#include "base/bytes.h"
#include "protocols/update.h"

namespace tidegate::federation {

// Encodes result − start (flat buffers of the whole layout, on the grid; what the header's groups
// leave out is ignored). The difference is taken in double: it may need more than a float's bits.
// The header's tensors and values are filled in here.
//   fixed32: the difference must lie on the grid 2^-28 and below 8: else kInvalidArgument.
//   int8: scale = max|x| / 127 of each group of 256, q = nearest(x / scale), ties to even; the
//   error
//         of a value is at most scale / 2.
// norm_clip > 0: the delta is scaled down so that the L2 norm of the *encoded* values is at most
// norm_clip (int8 only; fixed32 with a delta over the clip is kFailedPrecondition).
// A delta that is not finite, or too large for the codec, is kFailedPrecondition. Deterministic.
Result<Bytes> EncodeUpdate(protocols::UpdateHeader header, const protocols::Layout& layout,
                           std::span<const float> start, std::span<const float> result,
                           double norm_clip);

}  // namespace tidegate::federation
