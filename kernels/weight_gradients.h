// Gradients of a base's own weights, for training more than an adapter. Every op adds to an
// accumulator in GradType; sums run over rows in order, so that the bits do not depend on threads.
#pragma once

#include "kernels/linear.h"

namespace tidegate::kernels {

// dw[n,k] += dyᵀ x, and db[n] += the sum of dy's rows.
struct LinearGradientArgs {
  int64_t m, n, k;
  const void* x;   // [m,k] activation type
  const void* dy;  // [m,n] activation type
  void* dw;        // [n,k] GradType
  void* db;        // [n] GradType, null for a layer without bias
};

// dw[n] += Σ dy · x · rstd over rows, x · rstd rounded to the activation type as on the way
// forward.
struct RmsNormGradientArgs {
  int64_t m, n;
  const void* x;     // [m,n]
  const void* rstd;  // [m] GradType
  const void* dy;    // [m,n]
  void* dw;          // [n] GradType
};

// dtable[ids[i]] += dx[i] for each row in order.
struct EmbeddingGradientArgs {
  int64_t m, k;
  const int32_t* ids;  // [m], each a row of the table
  const void* dx;      // [m,k]
  void* dtable;        // [vocab,k] GradType
};

// dw[vocab,k] += Σ weight[i] · (softmax(h[i]·Wᵀ) − onehot(target[i])) ⊗ h[i], tile by tile from the
// logsumexp that head_loss gave.
struct HeadGradientArgs {
  const PreparedWeights* w;  // [vocab,k], not quantized
  int64_t m;
  const void* h;           // [m,k]
  const int32_t* targets;  // [m], each in [0, vocab)
  const float* weights;    // [m], null means 1
  const void* lse;         // [m] GradType
  void* dw;                // [vocab,k] GradType
};

}  // namespace tidegate::kernels
