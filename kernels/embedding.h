// Token embedding: rows of a table, converted to the activation type.
#pragma once

#include "kernels/linear.h"

namespace tidegate::kernels {

struct EmbeddingArgs {
  WeightSource table;  // [vocab, k]
  int64_t m;
  const int32_t* ids;  // [m], each in [0, vocab)
  void* out;           // [m,k]
};

}  // namespace tidegate::kernels
