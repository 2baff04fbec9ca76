// Products of row-major matrices on CUDA: cuBLASLt, and a plain kernel of our own for what it does
// not take (matrices that lie off every alignment).
#pragma once

#include "kernels/table.h"

namespace tidegate::kernels {

// c[m,n] = op(a)·op(b) (+ c) (+ residual) (+ bias), summed in float and rounded once.
struct CudaMatmulSpec {
  DType input;   // of a, b and bias
  DType output;  // of c and residual
  int64_t m, n, k;
  bool transpose_a;  // a is stored [k,m] instead of [m,k]
  bool transpose_b;  // b is stored [n,k] instead of [k,n]
  bool accumulate = false;
  // Elements from one stored row of a, b and c to the next; 0: its length.
  int64_t a_row = 0, b_row = 0, c_row = 0;
};

// residual [m,n] and bias [n] may be null; with `accumulate` there is no residual; a bias needs
// input = output. c may be residual, whose rows lie as c's.
void CudaMatmul(const Context& context, const CudaMatmulSpec& spec, const void* a, const void* b,
                void* c, const void* residual = nullptr, const void* bias = nullptr);

// How many products this process has left to the plain kernel: right, and many times slower.
int64_t PlainMatmuls();

// The same by the plain kernel.
void PlainMatmul(const Context& context, const CudaMatmulSpec& spec, const void* a, const void* b,
                 void* c, const void* residual, const void* bias);

}  // namespace tidegate::kernels
