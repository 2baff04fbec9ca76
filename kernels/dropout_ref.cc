#include "kernels/internal/ops.h"
#include "kernels/internal/philox.h"

namespace tidegate::kernels {
namespace {

// Word index%4 of the block for `index`.
uint32_t Word(const DropoutKey& key, uint64_t index) {
  uint32_t c[4] = {static_cast<uint32_t>(index / 4), static_cast<uint32_t>(index / 4 >> 32),
                   key.step, key.stream};
  uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{kPhiloxM0} * c[0], p1 = uint64_t{kPhiloxM1} * c[2];
    c[0] = static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0;
    c[1] = static_cast<uint32_t>(p1);
    c[2] = static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1;
    c[3] = static_cast<uint32_t>(p0);
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  return c[index % 4];
}

double Factor(const DropoutKey& key, double p, int64_t i) {
  return Word(key, static_cast<uint64_t>(i)) >= DropoutThreshold(p) ? 1 / (1 - p) : 0;
}

}  // namespace

void DropoutForwardRef(const Context&, const DropoutForwardArgs& args) {
  const double* x = static_cast<const double*>(args.x);
  double* y = static_cast<double*>(args.y);
  for (int64_t i = 0; i < args.count; ++i) y[i] = x[i] * Factor(args.key, args.p, i);
}

void DropoutBackwardRef(const Context&, const DropoutBackwardArgs& args) {
  const double* dy = static_cast<const double*>(args.dy);
  double* dx = static_cast<double*>(args.dx);
  for (int64_t i = 0; i < args.count; ++i) dx[i] += dy[i] * Factor(args.key, args.p, i);
}

}  // namespace tidegate::kernels
