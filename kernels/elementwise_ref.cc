// RMSNorm, RoPE, SwiGLU, GeGLU and convert in double, as the headers define them.
#include <cmath>

#include "kernels/internal/ops.h"

namespace tidegate::kernels {

void RmsNormForwardRef(const Context&, const RmsNormForwardArgs& args) {
  const double* w = static_cast<const double*>(args.w);
  for (int64_t i = 0; i < args.m; ++i) {
    const double* x = static_cast<const double*>(args.x) + i * args.n;
    double* y = static_cast<double*>(args.y) + i * args.n;
    double squares = 0;
    for (int64_t j = 0; j < args.n; ++j) squares += x[j] * x[j];
    const double rstd = 1 / std::sqrt(squares / static_cast<double>(args.n) + args.eps);
    for (int64_t j = 0; j < args.n; ++j) y[j] = x[j] * rstd * w[j];
    if (args.rstd != nullptr) static_cast<double*>(args.rstd)[i] = rstd;
  }
}

void RmsNormBackwardRef(const Context&, const RmsNormBackwardArgs& args) {
  const double* w = static_cast<const double*>(args.w);
  for (int64_t i = 0; i < args.m; ++i) {
    const double* x = static_cast<const double*>(args.x) + i * args.n;
    const double* dy = static_cast<const double*>(args.dy) + i * args.n;
    double* dx = static_cast<double*>(args.dx) + i * args.n;
    const double rstd = static_cast<const double*>(args.rstd)[i];
    double dot = 0;
    for (int64_t j = 0; j < args.n; ++j) dot += dy[j] * w[j] * x[j];
    const double shared = dot * rstd * rstd * rstd / static_cast<double>(args.n);
    for (int64_t j = 0; j < args.n; ++j) {
      dx[j] = (args.accumulate ? dx[j] : 0) + (dy[j] * w[j] * rstd - x[j] * shared);
    }
  }
}

void RopeRef(const Context&, const RopeArgs& args) {
  const int64_t half = args.head_dim / 2;
  for (int64_t i = 0; i < args.m; ++i) {
    for (int64_t h = 0; h < args.heads; ++h) {
      double* x = static_cast<double*>(args.x) + (i * args.heads + h) * args.head_dim;
      for (int64_t j = 0; j < half; ++j) {
        const double c = args.cos[i * half + j];
        const double s = args.inverse ? -args.sin[i * half + j] : args.sin[i * half + j];
        const double first = x[j], second = x[j + half];
        x[j] = first * c - second * s;
        x[j + half] = second * c + first * s;
      }
    }
  }
}

void SwigluForwardRef(const Context&, const SwigluForwardArgs& args) {
  const double* gate = static_cast<const double*>(args.gate);
  const double* up = static_cast<const double*>(args.up);
  double* act = static_cast<double*>(args.act);
  for (int64_t i = 0; i < args.count; ++i) {
    const double sigmoid = 1 / (1 + std::exp(-gate[i]));
    act[i] = gate[i] * sigmoid * up[i];
  }
}

void SwigluBackwardRef(const Context&, const SwigluBackwardArgs& args) {
  const double* gate = static_cast<const double*>(args.gate);
  const double* up = static_cast<const double*>(args.up);
  const double* dact = static_cast<const double*>(args.dact);
  for (int64_t i = 0; i < args.count; ++i) {
    const double d = dact[i];
    const double sigmoid = 1 / (1 + std::exp(-gate[i]));
    const double silu = gate[i] * sigmoid;
    static_cast<double*>(args.dup)[i] = d * silu;
    static_cast<double*>(args.dgate)[i] = d * up[i] * (sigmoid + silu * (1 - sigmoid));
    if (args.act != nullptr) static_cast<double*>(args.act)[i] = silu * up[i];
  }
}

namespace {

constexpr double kTwiceRootTwoOverPi = 1.59576912160573071;
constexpr double kCubic = 0.044715;

double GeluSigmoid(double x) {
  return 1 / (1 + std::exp(-kTwiceRootTwoOverPi * (x + kCubic * x * x * x)));
}

}  // namespace

void GegluForwardRef(const Context&, const GegluForwardArgs& args) {
  const double* gate = static_cast<const double*>(args.gate);
  const double* up = static_cast<const double*>(args.up);
  for (int64_t i = 0; i < args.count; ++i) {
    static_cast<double*>(args.act)[i] = gate[i] * GeluSigmoid(gate[i]) * up[i];
  }
}

void GegluBackwardRef(const Context&, const GegluBackwardArgs& args) {
  const double* gate = static_cast<const double*>(args.gate);
  const double* up = static_cast<const double*>(args.up);
  const double* dact = static_cast<const double*>(args.dact);
  for (int64_t i = 0; i < args.count; ++i) {
    const double d = dact[i], x = gate[i];
    const double sigmoid = GeluSigmoid(x), gelu = x * sigmoid;
    const double inner = kTwiceRootTwoOverPi * (1 + 3 * kCubic * x * x);
    static_cast<double*>(args.dup)[i] = d * gelu;
    static_cast<double*>(args.dgate)[i] = d * up[i] * (sigmoid + gelu * (1 - sigmoid) * inner);
    if (args.act != nullptr) static_cast<double*>(args.act)[i] = gelu * up[i];
  }
}

void ConvertRef(const Context&, const ConvertArgs& args) {
  const double* in = static_cast<const double*>(args.in);
  double* out = static_cast<double*>(args.out);
  for (int64_t i = 0; i < args.count; ++i) out[i] = in[i] * args.scale;
}

}  // namespace tidegate::kernels
