// Adds up the gradients of a rank's micro-batches as a balanced binary tree: (0,1), (2,3), then
// pairs of pairs, one that is left over goes up as it is. A reduction over ranks that adds them the
// same way makes one tree of both, so that with a power of two of micro-batches a rank the sum is
// the same bits for any number of ranks. Costs log2(micro-batches) buffers. Not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

namespace tidegate::pretrain {

class GradientTree {
 public:
  // Of `count` elements and `leaves` (>= 1) micro-batches.
  GradientTree(int64_t count, int64_t leaves);
  // Elements [begin, end) of micro-batch `leaf` are in `gradients` (a buffer of `count`). Of the
  // last leaf they become the sum over all; of the others they are taken and left zero. Each range
  // must see its leaves in order.
  void Add(int64_t leaf, float* gradients, int64_t begin, int64_t end);

 private:
  int64_t leaves_;
  std::vector<std::vector<float>> levels_;
};

}  // namespace tidegate::pretrain
