// Linear layers, their low-rank branch and their gradients on CUDA, as products.
#include "kernels/internal/cuda_matmul.h"
#include "kernels/internal/cuda_ops.h"

namespace tidegate::kernels {

template <typename T>
void LinearForwardCuda(const Context& context, const LinearForwardArgs& args) {
  const Workspace::Scope scope(*context.workspace);
  const int64_t n = args.w->n(), k = args.w->k();
  if (args.m == 0) return;
  CudaMatmul(context, {kTypeOf<T>, kTypeOf<T>, args.m, n, k, false, true}, args.x,
             WeightRows<T>(context, args.w, 0, n), args.y, args.residual, args.bias);
  if (args.lora != nullptr) LoraForwardCuda<T>(context, *args.lora);
}

template <typename T>
void LinearBackwardCuda(const Context& context, const LinearBackwardArgs& args) {
  const Workspace::Scope scope(*context.workspace);
  const int64_t n = args.w->n(), k = args.w->k();
  if (args.m == 0) return;
  CudaMatmul(context, {kTypeOf<T>, kTypeOf<T>, args.m, k, n, false, false, args.accumulate},
             args.dy, WeightRows<T>(context, args.w, 0, n), args.dx);
  if (args.lora != nullptr) LoraBackwardCuda<T>(context, *args.lora);
}

template <typename T>
void LogitsCuda(const Context& context, const LogitsArgs& args) {
  const Workspace::Scope scope(*context.workspace);
  const int64_t n = args.w->n(), k = args.w->k();
  if (args.m == 0) return;
  CudaMatmul(context, {kTypeOf<T>, DType::kF32, args.m, n, k, false, true}, args.h,
             WeightRows<T>(context, args.w, 0, n), args.logits);
}

template <typename T>
void LoraForwardCuda(const Context& context, const LoraForwardArgs& args) {
  constexpr DType kType = kTypeOf<T>;
  CudaMatmul(context, {kType, kType, args.m, args.r, args.k, false, true}, args.x, args.a, args.u);
  CudaMatmul(context, {kType, kType, args.m, args.n, args.r, false, true, true}, args.u, args.b,
             args.y);
}

template <typename T>
void LoraBackwardCuda(const Context& context, const LoraBackwardArgs& args) {
  constexpr DType kType = kTypeOf<T>;
  if (args.m == 0) return;
  const Workspace::Scope scope(*context.workspace);
  T* v = context.workspace->Array<T>(static_cast<size_t>(args.m * args.r));
  CudaMatmul(context, {kType, kType, args.m, args.r, args.n, false, false}, args.dy, args.b, v);
  CudaMatmul(context, {kType, DType::kF32, args.r, args.n, args.m, true, false, true}, args.u,
             args.dy, args.db_t);
  CudaMatmul(context, {kType, DType::kF32, args.r, args.k, args.m, true, false, true}, v, args.x,
             args.da);
  if (args.dx == nullptr) return;
  CudaMatmul(context, {kType, kType, args.m, args.k, args.r, false, false, args.accumulate_dx}, v,
             args.a, args.dx);
}

template <typename T>
void LinearGradientCuda(const Context& context, const LinearGradientArgs& args) {
  if (args.m == 0) return;
  CudaMatmul(context, {kTypeOf<T>, DType::kF32, args.n, args.k, args.m, true, false, true}, args.dy,
             args.x, args.dw);
  if (args.db == nullptr) return;
  AddRowSums(context, static_cast<const T*>(args.dy), args.m, args.n, static_cast<float*>(args.db));
}

#define TIDEGATE_INSTANTIATE(Op)                                  \
  template void Op##Cuda<float>(const Context&, const Op##Args&); \
  template void Op##Cuda<BF16>(const Context&, const Op##Args&);

TIDEGATE_INSTANTIATE(LinearForward)
TIDEGATE_INSTANTIATE(LinearBackward)
TIDEGATE_INSTANTIATE(Logits)
TIDEGATE_INSTANTIATE(LoraForward)
TIDEGATE_INSTANTIATE(LoraBackward)
TIDEGATE_INSTANTIATE(LinearGradient)

#undef TIDEGATE_INSTANTIATE

}  // namespace tidegate::kernels
