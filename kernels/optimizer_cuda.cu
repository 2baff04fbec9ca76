// AdamW and the sums that clipping needs, on CUDA.
#include <cmath>

#include "kernels/internal/cuda_launch.h"
#include "kernels/internal/cuda_ops.h"
#include "kernels/internal/cuda_vectors.h"

namespace tidegate::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kSumBlock = 8192;  // elements of one partial sum

struct AdamWStep {
  float grad_scale, beta1, beta2, rest1, rest2, decay, lr, eps, correction1, correction2;
};

SIMT_KERNEL(kThreads)
Step(int64_t count, AdamWStep s, float* p, const float* g, float* m, float* v) {
  const int64_t first = int64_t{blockIdx.x} * (kThreads * 4) + threadIdx.x;
  SIMT_UNROLL
  for (int e = 0; e < 4; ++e) {
    const int64_t i = first + e * kThreads;
    if (i >= count) return;
    const float grad = g[i] * s.grad_scale;
    const float moment = s.beta1 * m[i] + s.rest1 * grad;
    const float square = s.beta2 * v[i] + s.rest2 * grad * grad;
    const float decayed = p[i] - s.decay * p[i];
    m[i] = moment;
    v[i] = square;
    p[i] = decayed - s.lr * (moment * s.correction1) / (sqrtf(square * s.correction2) + s.eps);
  }
}

// Sums of a block's threads in double, in a fixed order; to thread 0.
SIMT_DEVICE double BlockSum(double value, double* shared) {
  const int thread = static_cast<int>(threadIdx.x);
  shared[thread] = value;
  __syncthreads();
  for (int width = kThreads / 2; width > 0; width /= 2) {
    if (thread < width) shared[thread] += shared[thread + width];
    __syncthreads();
  }
  return shared[0];
}

SIMT_KERNEL(kThreads)
SquaresOfBlock(int64_t count, const float* x, double* partial) {
  SIMT_SHARED(double, sums, [kThreads]);
  const int64_t begin = int64_t{blockIdx.x} * kSumBlock;
  const int64_t end = begin + kSumBlock < count ? begin + kSumBlock : count;
  double sum = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const double value = x[i];
    sum += value * value;
  }
  sum = BlockSum(sum, sums);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

SIMT_KERNEL(kThreads)
SumOfParts(int64_t count, const double* partial, double* out) {
  SIMT_SHARED(double, sums, [kThreads]);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partial[i];
  sum = BlockSum(sum, sums);
  if (threadIdx.x == 0) *out = sum;
}

}  // namespace

void AdamWCuda(const Context& context, const AdamWArgs& args) {
  const double step = static_cast<double>(args.step);
  const AdamWStep s = {
      static_cast<float>(args.grad_scale),
      static_cast<float>(args.beta1),
      static_cast<float>(args.beta2),
      static_cast<float>(1 - args.beta1),
      static_cast<float>(1 - args.beta2),
      static_cast<float>(args.lr * args.weight_decay),
      static_cast<float>(args.lr),
      static_cast<float>(args.eps),
      static_cast<float>(1 / (1 - std::pow(args.beta1, step))),
      static_cast<float>(1 / (1 - std::pow(args.beta2, step))),
  };
  Launch(context, "adamw", Step, BlocksFor(args.count, kThreads * 4), kThreads, 0, args.count, s,
         static_cast<float*>(args.p), static_cast<const float*>(args.g),
         static_cast<float*>(args.m), static_cast<float*>(args.v));
}

void SumSquaresCuda(const Context& context, const SumSquaresArgs& args) {
  const Workspace::Scope scope(*context.workspace);
  const unsigned parts = BlocksFor(args.count, kSumBlock);
  double* partial = context.workspace->Array<double>(parts);
  Launch(context, "sum of squares", SquaresOfBlock, parts, kThreads, 0, args.count,
         static_cast<const float*>(args.x), partial);
  Launch(context, "sum of squares", SumOfParts, 1, kThreads, 0, int64_t{parts}, partial, args.out);
}

}  // namespace tidegate::kernels
