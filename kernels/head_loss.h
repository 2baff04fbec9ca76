// The output head and its cross-entropy in one sweep over vocabulary tiles: logits exist only as
// one tile. Rows without a target are dropped by the caller before the head.
//
//   loss[i] = logsumexp(h[i]·Wᵀ) − (h[i]·Wᵀ)[target[i]]          (natural log, GradType)
//   dh[i]   = weight[i] · (softmax(h[i]·Wᵀ)·W − W[target[i]])
#pragma once

#include "kernels/linear.h"

namespace tidegate::kernels {

struct HeadLossArgs {
  const PreparedWeights* w;  // [vocab, k], not quantized
  int64_t m;
  const void* h;           // [m,k]
  const int32_t* targets;  // [m], each in [0, vocab)
  const float* weights;    // [m], null means 1
  void* loss;              // [m] GradType, unweighted
  void* dh;                // [m,k], null for evaluation (the second product is left out)
  void* lse = nullptr;     // [m] GradType, logsumexp of the row's logits; null when not wanted
};

}  // namespace tidegate::kernels
