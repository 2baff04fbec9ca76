// What the files of CUDA attention share: the rows kernels, which take every shape, and the tensor
// core kernels, which take the common ones.
#pragma once

#include "kernels/attention.h"
#include "kernels/internal/bf16.h"

namespace tidegate::kernels {

// Row i sees keys start(i) … past + i. `start` null: from 0.
struct AttentionRows {
  int64_t rows, past, heads, kv_heads, head_dim;
  const int32_t* start;
  int group;    // heads of one key head
  float scale;  // head_dim^-0.5
};

template <typename T>
struct AttentionInputs {
  AttentionRows shape;
  const T* q;
  const T* k;
  const T* v;
  bool aligned;  // each head of a row lies at a multiple of 16 bytes, and so do its eights
};

template <typename T>
struct AttentionOutputs {
  T* out;
  float* lse;  // may be null
};

template <typename T>
struct AttentionGradients {
  const float* lse;
  const float* delta;  // [heads, rows]: Σ dout · out
  const T* dout;
  T* dq;
  T* dk;
  T* dv;
};

// Whether the tensor cores' kernels take the shape and these pointers.
bool TilesFit(const AttentionInputs<BF16>& in, const void* other);
void ForwardTiles(const Context& context, const AttentionInputs<BF16>& in,
                  const AttentionOutputs<BF16>& out);
void BackwardTiles(const Context& context, const AttentionInputs<BF16>& in,
                   const AttentionGradients<BF16>& gradients);

}  // namespace tidegate::kernels
