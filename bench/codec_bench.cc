// What each codec of an update costs and loses, on normal deltas: the table of protocols/update.md.
//   codec_bench [millions of values, 20]
#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <numbers>
#include <vector>

#include "base/clock.h"
#include "base/rng.h"
#include "federation/rounds/aggregate.h"
#include "federation/shared/delta_codec.h"
#include "protocols/update.h"

namespace tidegate {
namespace {

using protocols::Codec;
using protocols::Rounding;

// On the grid of fixed32; tensors in turn of four sizes, as the modules of a model have.
std::vector<double> NormalDelta(size_t n) {
  std::vector<double> delta(n);
  for (size_t i = 0; i < n; i += 2) {
    const auto words = RandomWords(1, RngPurpose::kTest, 0, i);
    const double radius = std::sqrt(-2 * std::log((words[0] + 0.5) * 0x1p-32));
    const double angle = 2 * std::numbers::pi * words[1] * 0x1p-32;
    const double size = std::ldexp(1e-3, -static_cast<int>(i / 65536 % 4));
    delta[i] = std::nearbyint(radius * std::cos(angle) * size * 0x1p28) * 0x1p-28;
    if (i + 1 < n) {
      delta[i + 1] = std::nearbyint(radius * std::sin(angle) * size * 0x1p28) * 0x1p-28;
    }
  }
  return delta;
}

double RelativeError(const protocols::UpdateView& view, const std::vector<double>& delta) {
  double error = 0, whole = 0;
  for (const auto& tensor : view.tensors()) {
    protocols::ForEachValue(tensor, [&](uint64_t i, double value) {
      error += (value - delta[i]) * (value - delta[i]);
      whole += delta[i] * delta[i];
    });
  }
  return std::sqrt(error / whole);
}

// Nanoseconds a value of what `run` does: the least of three.
template <typename F>
double Cost(size_t n, F&& run) {
  int64_t least = INT64_MAX;
  for (int i = 0; i < 3; ++i) {
    const int64_t begin = SystemClock().MonotonicMillis();
    run();
    least = std::min(least, SystemClock().MonotonicMillis() - begin);
  }
  return static_cast<double>(least) * 1e6 / static_cast<double>(n);
}

int Run(size_t n) {
  std::vector<double> delta = NormalDelta(n);
  protocols::Layout layout;
  for (size_t first = 0; first < n; first += 65536) {
    layout.tensors.items.push_back(
        {"t", 1, static_cast<uint32_t>(std::min(n - first, size_t{65536})), 0});
  }
  federation::WeightedSum sum(n);
  fmt::print(
      "codec    rounding    bytes/value  relative L2 error  ns/value: encode  parse    add\n");
  for (const Codec codec : {Codec::kFixed32, Codec::kBf16, Codec::kInt8, Codec::kInt4}) {
    for (const Rounding rounding : {Rounding::kNearest, Rounding::kStochastic}) {
      if (codec == Codec::kFixed32 && rounding == Rounding::kStochastic) continue;
      protocols::UpdateHeader header;
      header.codec = codec;
      header.groups = header.weight = 1;
      Result<Bytes> bytes = Internal("not run");
      const double encode = Cost(n, [&] {
        bytes = federation::EncodeDelta(header, layout, delta, {.rounding = rounding});
      });
      if (!bytes) {
        fmt::print(stderr, "{}\n", bytes.error().ToString());
        return 1;
      }
      auto view = protocols::UpdateView::Parse(*bytes, layout);
      const double parse = Cost(n, [&] { view = protocols::UpdateView::Parse(*bytes, layout); });
      Status added;
      const double add = Cost(n, [&] { added = sum.Add(*view, 3); });
      if (!view || !added.ok()) return 1;
      fmt::print("{:<8} {:<10} {:>12.3f} {:>17.3f}% {:>17.1f} {:>6.2f} {:>6.2f}\n",
                 protocols::CodecName(codec),
                 rounding == Rounding::kNearest ? "nearest" : "stochastic",
                 static_cast<double>(bytes->size() - protocols::kUpdateHeaderBytes) /
                     static_cast<double>(n),
                 100 * RelativeError(*view, delta), encode, parse, add);
    }
  }
  return 0;
}

}  // namespace
}  // namespace tidegate

int main(int argc, char** argv) {
  const long millions = argc > 1 ? std::atol(argv[1]) : 20;
  if (millions < 1 || millions > 200) {
    fmt::print(stderr, "give a number of millions, 1 … 200\n");
    return 2;
  }
  return tidegate::Run(static_cast<size_t>(millions) << 20);
}
