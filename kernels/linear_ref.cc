#include "kernels/internal/ops.h"
#include "kernels/internal/weights.h"

namespace tidegate::kernels {
namespace {

double Unpack(const StoredWeights& w, int64_t i) {
  const QuantizedView view = w.view();
  const double scale = ScaleOf(w.format(), view, w.k(), i);
  if (w.format() == WeightFormat::kInt8) {
    return static_cast<int8_t>(view.codes[i]) * scale;
  }
  const uint8_t pair = view.codes[i / 2];
  return kNf4Values[i % 2 == 0 ? pair >> 4 : pair & 15] * scale;
}

double Weight(const StoredWeights& w, int64_t i) {
  switch (w.format()) {
    case WeightFormat::kF32:
      return static_cast<const float*>(w.data())[i];
    case WeightFormat::kBF16:
      return WidenBF16(static_cast<const uint16_t*>(w.data())[i]);
    case WeightFormat::kF64:
      return static_cast<const double*>(w.data())[i];
    case WeightFormat::kInt8:
    case WeightFormat::kNf4:
    case WeightFormat::kNf4Double:
      return Unpack(w, i);
  }
  return 0;
}

void MultiplyTransposed(const StoredWeights& w, int64_t m, const double* x, const double* bias,
                        const double* residual, double* y) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < w.n(); ++j) {
      double sum = bias == nullptr ? 0 : bias[j];
      for (int64_t l = 0; l < w.k(); ++l) sum += x[i * w.k() + l] * Weight(w, j * w.k() + l);
      y[i * w.n() + j] = residual == nullptr ? sum : residual[i * w.n() + j] + sum;
    }
  }
}

}  // namespace

std::unique_ptr<PreparedWeights> PrepareWeightsRef(const WeightSource& source) {
  return std::make_unique<StoredWeights>(source);
}

void LinearForwardRef(const Context& context, const LinearForwardArgs& args) {
  MultiplyTransposed(Stored(args.w), args.m, static_cast<const double*>(args.x),
                     static_cast<const double*>(args.bias),
                     static_cast<const double*>(args.residual), static_cast<double*>(args.y));
  if (args.lora != nullptr) LoraForwardRef(context, *args.lora);
}

void LogitsRef(const Context&, const LogitsArgs& args) {
  MultiplyTransposed(Stored(args.w), args.m, static_cast<const double*>(args.h), nullptr, nullptr,
                     static_cast<double*>(args.logits));
}

void LinearBackwardRef(const Context& context, const LinearBackwardArgs& args) {
  const StoredWeights& w = Stored(args.w);
  const double* dy = static_cast<const double*>(args.dy);
  double* dx = static_cast<double*>(args.dx);
  for (int64_t i = 0; i < args.m; ++i) {
    for (int64_t l = 0; l < w.k(); ++l) {
      double sum = args.accumulate ? dx[i * w.k() + l] : 0;
      for (int64_t j = 0; j < w.n(); ++j) sum += dy[i * w.n() + j] * Weight(w, j * w.k() + l);
      dx[i * w.k() + l] = sum;
    }
  }
  if (args.lora != nullptr) LoraBackwardRef(context, *args.lora);
}

void EmbeddingRef(const Context&, const EmbeddingArgs& args) {
  const StoredWeights table(args.table);
  double* out = static_cast<double*>(args.out);
  for (int64_t i = 0; i < args.m; ++i) {
    for (int64_t l = 0; l < table.k(); ++l) {
      out[i * table.k() + l] = Weight(table, args.ids[i] * table.k() + l);
    }
  }
}

}  // namespace tidegate::kernels
