// The definition of right for the head and its loss: double, one row at a time, all logits of it.
#include <cmath>

#include "kernels/internal/ops.h"
#include "kernels/internal/weights.h"

namespace tidegate::kernels {
namespace {

double WeightAt(const StoredWeights& w, int64_t index) {
  switch (w.format()) {
    case WeightFormat::kF32:
      return static_cast<const float*>(w.data())[index];
    case WeightFormat::kBF16:
      return WidenBF16(static_cast<const uint16_t*>(w.data())[index]);
    default:
      return static_cast<const double*>(w.data())[index];
  }
}

// p = logits of one row; returns log(sum of exp(logit)).
double RowLogits(const double* h, const StoredWeights& w, double* p) {
  const int64_t vocab = w.n(), k = w.k();
  double max = -HUGE_VAL;
  for (int64_t j = 0; j < vocab; ++j) {
    double logit = 0;
    for (int64_t d = 0; d < k; ++d) logit += h[d] * WeightAt(w, j * k + d);
    p[j] = logit;
    max = logit > max ? logit : max;
  }
  double sum = 0;
  for (int64_t j = 0; j < vocab; ++j) sum += std::exp(p[j] - max);
  return max + std::log(sum);
}

}  // namespace

void HeadLossRef(const Context& context, const HeadLossArgs& args) {
  const int64_t vocab = args.w->n(), k = args.w->k();
  Workspace::Scope scope(*context.workspace);
  const StoredWeights& w = Stored(args.w);
  double* p = context.workspace->Array<double>(static_cast<size_t>(vocab));
  for (int64_t i = 0; i < args.m; ++i) {
    const double lse = RowLogits(static_cast<const double*>(args.h) + i * k, w, p);
    static_cast<double*>(args.loss)[i] = lse - p[args.targets[i]];
    if (args.lse) static_cast<double*>(args.lse)[i] = lse;
    if (!args.dh) continue;
    const double weight = args.weights ? static_cast<double>(args.weights[i]) : 1.0;
    double* dh = static_cast<double*>(args.dh) + i * k;
    for (int64_t d = 0; d < k; ++d) dh[d] = 0;
    for (int64_t j = 0; j < vocab; ++j) {
      const double g = weight * (std::exp(p[j] - lse) - (j == args.targets[i] ? 1.0 : 0.0));
      for (int64_t d = 0; d < k; ++d) dh[d] += g * WeightAt(w, j * k + d);
    }
  }
}

}  // namespace tidegate::kernels
