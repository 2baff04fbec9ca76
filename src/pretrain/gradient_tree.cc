#include "pretrain/gradient_tree.h"

#include <algorithm>
#include <bit>

namespace tidegate::pretrain {

GradientTree::GradientTree(int64_t count, int64_t leaves) : leaves_(leaves) {
  // The number of the last leaf in binary says which subtrees wait for it.
  const int levels = std::bit_width(static_cast<uint64_t>(leaves - 1));
  levels_.assign(static_cast<size_t>(levels), std::vector<float>(static_cast<size_t>(count)));
}

void GradientTree::Add(int64_t leaf, float* gradients, int64_t begin, int64_t end) {
  const bool last = leaf == leaves_ - 1;
  const uint64_t waiting = static_cast<uint64_t>(leaf);
  for (size_t level = 0; level < levels_.size(); ++level) {
    float* subtree = levels_[level].data();
    if ((waiting >> level & 1) != 0) {
      for (int64_t i = begin; i < end; ++i) gradients[i] += subtree[i];
    } else if (!last) {
      std::copy(gradients + begin, gradients + end, subtree + begin);
      std::fill(gradients + begin, gradients + end, 0.0f);
      return;
    }
  }
}

}  // namespace tidegate::pretrain
