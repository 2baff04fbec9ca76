#include <cmath>

#include "kernels/internal/ops.h"

namespace tidegate::kernels {

void AdamWRef(const Context&, const AdamWArgs& args) {
  double* p = static_cast<double*>(args.p);
  const double* g = static_cast<const double*>(args.g);
  double* m = static_cast<double*>(args.m);
  double* v = static_cast<double*>(args.v);
  const double step = static_cast<double>(args.step);
  const double correction1 = 1 - std::pow(args.beta1, step);
  const double correction2 = 1 - std::pow(args.beta2, step);
  for (int64_t i = 0; i < args.count; ++i) {
    const double grad = g[i] * args.grad_scale;
    m[i] = args.beta1 * m[i] + (1 - args.beta1) * grad;
    v[i] = args.beta2 * v[i] + (1 - args.beta2) * grad * grad;
    p[i] -= args.lr * args.weight_decay * p[i];
    p[i] -= args.lr * (m[i] / correction1) / (std::sqrt(v[i] / correction2) + args.eps);
  }
}

void SumSquaresRef(const Context&, const SumSquaresArgs& args) {
  const double* x = static_cast<const double*>(args.x);
  double sum = 0;
  for (int64_t i = 0; i < args.count; ++i) sum += x[i] * x[i];
  *args.out = sum;
}

}  // namespace tidegate::kernels
