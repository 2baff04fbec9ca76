// The sum over ranks whose bits depend on the inputs alone. For each element it is a balanced
// binary tree in rank order: ranks (0,1), (2,3), ... are added, then pairs of pairs, and so on; one
// that is left over at a level goes up to the next as it is. So 5 ranks give ((0+1)+(2+3))+4 and 7
// give
// ((0+1)+(2+3))+((4+5)+6). How elements are cut into pieces or blocks changes nothing.
//
// Precision: see DType. Thread-safety: a pure function.
#pragma once

#include <span>

#include "cluster/collectives.h"

namespace tidegate::cluster {

// out[count] = the sum of pieces[r][count] over r. At least one piece; `out` may be one of them and
// overlaps no other.
void SumOrdered(std::span<const void* const> pieces, void* out, size_t count, DType dtype);

}  // namespace tidegate::cluster
