#include "kernels/internal/ops.h"

namespace tidegate::kernels {

void LoraForwardRef(const Context&, const LoraForwardArgs& args) {
  const double* x = static_cast<const double*>(args.x);
  const double* a = static_cast<const double*>(args.a);
  const double* b = static_cast<const double*>(args.b);
  double* u = static_cast<double*>(args.u);
  double* y = static_cast<double*>(args.y);
  for (int64_t i = 0; i < args.m; ++i) {
    for (int64_t p = 0; p < args.r; ++p) {
      double sum = 0;
      for (int64_t l = 0; l < args.k; ++l) sum += x[i * args.k + l] * a[p * args.k + l];
      u[i * args.r + p] = sum;
    }
    for (int64_t j = 0; j < args.n; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < args.r; ++p) sum += u[i * args.r + p] * b[j * args.r + p];
      y[i * args.n + j] += sum;
    }
  }
}

void LoraBackwardRef(const Context&, const LoraBackwardArgs& args) {
  const double* x = static_cast<const double*>(args.x);
  const double* u = static_cast<const double*>(args.u);
  const double* dy = static_cast<const double*>(args.dy);
  const double* a = static_cast<const double*>(args.a);
  const double* b = static_cast<const double*>(args.b);
  double* da = static_cast<double*>(args.da);
  double* db_t = static_cast<double*>(args.db_t);
  double* dx = static_cast<double*>(args.dx);
  std::vector<double> v(static_cast<size_t>(args.r));
  for (int64_t i = 0; i < args.m; ++i) {
    for (int64_t p = 0; p < args.r; ++p) {
      double sum = 0;
      for (int64_t j = 0; j < args.n; ++j) {
        sum += dy[i * args.n + j] * b[j * args.r + p];
        db_t[p * args.n + j] += u[i * args.r + p] * dy[i * args.n + j];
      }
      v[static_cast<size_t>(p)] = sum;
      for (int64_t l = 0; l < args.k; ++l) da[p * args.k + l] += sum * x[i * args.k + l];
    }
    if (dx == nullptr) continue;
    for (int64_t l = 0; l < args.k; ++l) {
      double sum = args.accumulate_dx ? dx[i * args.k + l] : 0;
      for (int64_t p = 0; p < args.r; ++p) sum += v[static_cast<size_t>(p)] * a[p * args.k + l];
      dx[i * args.k + l] = sum;
    }
  }
}

}  // namespace tidegate::kernels
