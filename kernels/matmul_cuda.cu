// A plain product in tiles of shared memory, for matrices that cuBLASLt has no kernel for.
#include <atomic>

#include "kernels/internal/cuda_launch.h"
#include "kernels/internal/cuda_matmul.h"
#include "kernels/internal/cuda_vectors.h"

namespace tidegate::kernels {
namespace {

constexpr int kTile = 32;
constexpr int kThreads = 256;  // each has four rows of one column

struct Product {
  int64_t m, n, k;
  int64_t a_row, a_column, b_row, b_column, c_row;  // distances between elements
  bool accumulate;
};

template <typename In, typename Out>
SIMT_KERNEL(kThreads)
Multiply(Product p, const In* a, const In* b, Out* c, const Out* residual, const In* bias) {
  SIMT_SHARED(float, left, [kTile][kTile + 1]);
  SIMT_SHARED(float, right, [kTile][kTile + 1]);
  constexpr int kRows = kTile * kTile / kThreads;
  const int x = static_cast<int>(threadIdx.x) % kTile, y = static_cast<int>(threadIdx.x) / kTile;
  const int64_t row = int64_t{blockIdx.y} * kTile, column = int64_t{blockIdx.x} * kTile;
  float sums[kRows] = {};
  for (int64_t l = 0; l < p.k; l += kTile) {
    SIMT_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const int at = y + i * (kTile / kRows);
      const bool in_a = row + at < p.m && l + x < p.k, in_b = l + at < p.k && column + x < p.n;
      left[at][x] = in_a ? Widen(a[(row + at) * p.a_row + (l + x) * p.a_column]) : 0.0f;
      right[at][x] = in_b ? Widen(b[(l + at) * p.b_row + (column + x) * p.b_column]) : 0.0f;
    }
    __syncthreads();
    for (int j = 0; j < kTile; ++j) {
      SIMT_UNROLL
      for (int i = 0; i < kRows; ++i) sums[i] += left[y + i * (kTile / kRows)][j] * right[j][x];
    }
    __syncthreads();
  }
  if (column + x >= p.n) return;
  SIMT_UNROLL
  for (int i = 0; i < kRows; ++i) {
    const int64_t at = row + y + i * (kTile / kRows);
    if (at >= p.m) continue;
    float sum = sums[i];
    Out* out = c + at * p.c_row + column + x;
    if (bias != nullptr) sum += Widen(bias[column + x]);
    if (p.accumulate) sum += Widen(*out);
    if (residual != nullptr) sum += Widen(residual[at * p.c_row + column + x]);
    *out = Narrow<Out>(sum);
  }
}

template <typename In, typename Out>
void Run(const Context& context, const CudaMatmulSpec& s, const void* a, const void* b, void* c,
         const void* residual, const void* bias) {
  const auto row = [](int64_t given, int64_t length) { return given == 0 ? length : given; };
  const int64_t a_row = row(s.a_row, s.transpose_a ? s.m : s.k);
  const int64_t b_row = row(s.b_row, s.transpose_b ? s.k : s.n);
  const Product p = {s.m,
                     s.n,
                     s.k,
                     s.transpose_a ? 1 : a_row,
                     s.transpose_a ? a_row : 1,
                     s.transpose_b ? 1 : b_row,
                     s.transpose_b ? b_row : 1,
                     row(s.c_row, s.n),
                     s.accumulate};
  Launch(context, "product", Multiply<In, Out>, dim3(BlocksFor(s.n, kTile), BlocksFor(s.m, kTile)),
         kThreads, 0, p, static_cast<const In*>(a), static_cast<const In*>(b), static_cast<Out*>(c),
         static_cast<const Out*>(residual), static_cast<const In*>(bias));
}

std::atomic<int64_t> plain_matmuls = 0;

}  // namespace

int64_t PlainMatmuls() { return plain_matmuls; }

void PlainMatmul(const Context& context, const CudaMatmulSpec& spec, const void* a, const void* b,
                 void* c, const void* residual, const void* bias) {
  ++plain_matmuls;
  if (spec.input == DType::kF32) {
    return Run<float, float>(context, spec, a, b, c, residual, bias);
  }
  if (spec.output == DType::kF32) return Run<BF16, float>(context, spec, a, b, c, residual, bias);
  Run<BF16, BF16>(context, spec, a, b, c, residual, bias);
}

}  // namespace tidegate::kernels
