// Matrix products by oneDNN, with its primitives kept by shape.
#pragma once

#include <string>

#include "kernels/types.h"

namespace tidegate::kernels {

enum class MatmulPost : uint8_t {
  kNone,      // C = AB
  kSum,       // C = AB + C
  kResidual,  // C = AB + residual, a matrix like C
};

// C[m,n] = A[m,k] B[k,n], all dense and row-major; a transposed operand lies in memory as [k,m] or
// [n,k]. Products are summed in float and rounded once to C's type. a and b have the same type.
struct MatmulSpec {
  DType input;   // kF32 or kBF16
  DType output;  // kF32 or kBF16
  int64_t m, n, k;
  bool a_transposed;
  bool b_transposed;
  MatmulPost post;
  bool biased = false;  // + a row of n values of C's type, before the rounding

  bool operator==(const MatmulSpec&) const = default;
};

// m and n may be zero. The same bits for any context.threads. Scratch comes from
// context.workspace. Throws std::bad_alloc.
void Matmul(const Context& context, const MatmulSpec& spec, const void* a, const void* b, void* c,
            const void* residual = nullptr, const void* bias = nullptr);

// The name of the implementation that oneDNN chose, "brg:avx512_core_bf16" for example. "ref:any"
// means plain loops, a hundred times slower, and must not happen for shapes we use.
std::string MatmulImplementation(const Context& context, const MatmulSpec& spec);

// Whether oneDNN can run a product of this type here: it needs the instruction set, and a process
// that may make memory executable.
bool MatmulWorks(DType input);

}  // namespace tidegate::kernels
