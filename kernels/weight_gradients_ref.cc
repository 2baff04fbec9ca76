// The definition of right for the gradients of a base's weights: double, plain loops.
#include <cmath>
#include <vector>

#include "kernels/internal/ops.h"

namespace tidegate::kernels {

void LinearGradientRef(const Context&, const LinearGradientArgs& args) {
  const double* x = static_cast<const double*>(args.x);
  const double* dy = static_cast<const double*>(args.dy);
  double* dw = static_cast<double*>(args.dw);
  double* db = static_cast<double*>(args.db);
  for (int64_t i = 0; i < args.m; ++i) {
    for (int64_t j = 0; j < args.n; ++j) {
      const double g = dy[i * args.n + j];
      for (int64_t l = 0; l < args.k; ++l) dw[j * args.k + l] += g * x[i * args.k + l];
      if (db != nullptr) db[j] += g;
    }
  }
}

void RmsNormGradientRef(const Context&, const RmsNormGradientArgs& args) {
  const double* x = static_cast<const double*>(args.x);
  const double* dy = static_cast<const double*>(args.dy);
  for (int64_t i = 0; i < args.m; ++i) {
    const double rstd = static_cast<const double*>(args.rstd)[i];
    for (int64_t j = 0; j < args.n; ++j) {
      static_cast<double*>(args.dw)[j] += dy[i * args.n + j] * x[i * args.n + j] * rstd;
    }
  }
}

void EmbeddingGradientRef(const Context&, const EmbeddingGradientArgs& args) {
  const double* dx = static_cast<const double*>(args.dx);
  double* table = static_cast<double*>(args.dtable);
  for (int64_t i = 0; i < args.m; ++i) {
    for (int64_t l = 0; l < args.k; ++l) table[args.ids[i] * args.k + l] += dx[i * args.k + l];
  }
}

void HeadGradientRef(const Context& context, const HeadGradientArgs& args) {
  const int64_t vocab = args.w->n(), k = args.w->k();
  const double* h = static_cast<const double*>(args.h);
  double* dw = static_cast<double*>(args.dw);
  std::vector<double> logits(static_cast<size_t>(args.m * vocab));
  LogitsRef(context, {args.w, args.m, args.h, logits.data()});
  for (int64_t i = 0; i < args.m; ++i) {
    const double weight = args.weights != nullptr ? static_cast<double>(args.weights[i]) : 1.0;
    const double lse = static_cast<const double*>(args.lse)[i];
    for (int64_t j = 0; j < vocab; ++j) {
      const double p = std::exp(logits[static_cast<size_t>(i * vocab + j)] - lse);
      const double g = weight * (p - (j == args.targets[i] ? 1.0 : 0.0));
      for (int64_t l = 0; l < k; ++l) dw[j * k + l] += g * h[i * k + l];
    }
  }
}

}  // namespace tidegate::kernels
