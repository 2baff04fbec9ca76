#include "kernels/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/internal/threads.h"

namespace tidegate::kernels {

// The quantiles of a normal distribution that make each of 16 codes equally likely, with zero among
// them (QLoRA, appendix E).
constexpr std::array<float, 16> kNf4Values = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

namespace {

int64_t Blocks(int64_t count, int64_t size) { return (count + size - 1) / size; }

size_t Padded(int64_t bytes) { return (static_cast<size_t>(bytes) + 63) / 64 * 64; }

// bitsandbytes' dynamic map of 8 signed bits: seven decades, the i-th with 2^i values each way, in
// float arithmetic throughout.
std::array<float, 256> MakeScaleMap() {
  std::array<float, 256> map{};
  size_t count = 0;
  for (int decade = 0; decade < 7; ++decade) {
    const int values = 1 << decade;
    const float step = (1.0f - 0.1f) / static_cast<float>(values);
    const auto boundary = [&](int i) {
      // From the nearer end and rounded once, as torch.linspace does it.
      return 2 * i < values + 1 ? std::fma(step, static_cast<float>(i), 0.1f)
                                : std::fma(-step, static_cast<float>(values - i), 1.0f);
    };
    const float power = static_cast<float>(std::pow(10.0, decade - 6));
    for (int i = 0; i < values; ++i) {
      const float value = power * ((boundary(i) + boundary(i + 1)) / 2.0f);
      map[count++] = value;
      map[count++] = -value;
    }
  }
  map[count++] = 0.0f;
  map[count++] = 1.0f;
  std::sort(map.begin(), map.end());
  return map;
}

// The index of the nearest value of the map.
uint8_t NearestScale(float x) {
  const std::array<float, 256>& map = ScaleMap();
  size_t index = 0;
  for (size_t half = map.size() / 2; half > 0; half /= 2) {
    const size_t at = index + half;
    index = x > (map[at - 1] + map[at]) / 2.0f ? at : index;
  }
  return static_cast<uint8_t>(index);
}

float LargestMagnitude(const float* x, int64_t count) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(x[i]));
  return largest;
}

void QuantizeRows(int threads, int64_t n, int64_t k, const float* w, int8_t* codes, float* scales) {
  const ScopedThreads scoped(threads);
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < n; ++row) {
    const float* x = w + row * k;
    scales[row] = LargestMagnitude(x, k);
    const float factor = scales[row] > 0 ? 127.0f / scales[row] : 0.0f;
    for (int64_t l = 0; l < k; ++l) {
      codes[row * k + l] = static_cast<int8_t>(std::nearbyint(x[l] * factor));
    }
  }
}

// The codes of up to a block of values: how many midpoints lie below each. Plain counting, which
// the compiler turns into vectors: a search for each value made loading a 7B take three times as
// long.
void CodesOf(const float* x, int64_t count, float unit, uint8_t* codes) {
  static constexpr std::array<float, 15> kMidpoints = [] {
    std::array<float, 15> midpoints{};
    for (size_t i = 0; i < midpoints.size(); ++i) {
      midpoints[i] = (kNf4Values[i] + kNf4Values[i + 1]) / 2.0f;
    }
    return midpoints;
  }();
  float scaled[kQuantBlock] = {};
  int32_t below[kQuantBlock] = {};
  for (int64_t i = 0; i < count; ++i) scaled[i] = x[i] / unit;
  for (const float midpoint : kMidpoints) {
    for (int64_t i = 0; i < kQuantBlock; ++i) below[i] += scaled[i] > midpoint ? 1 : 0;
  }
  for (int64_t i = 0; i < count; i += 2) {
    const int32_t second = i + 1 < count ? below[i + 1] : 0;
    codes[i / 2] = static_cast<uint8_t>(below[i] << 4 | second);
  }
}

// Codes and the float scale of each block.
void QuantizeBlocks(int threads, int64_t count, const float* w, uint8_t* codes, float* scales) {
  const ScopedThreads scoped(threads);
#pragma omp parallel for schedule(static)
  for (int64_t block = 0; block < Blocks(count, kQuantBlock); ++block) {
    const int64_t begin = block * kQuantBlock, values = std::min(kQuantBlock, count - begin);
    scales[block] = LargestMagnitude(w + begin, values);
    CodesOf(w + begin, values, scales[block] > 0 ? scales[block] : 1.0f, codes + begin / 2);
  }
}

// The scales less their mean, in blocks of their own.
void QuantizeScales(const std::vector<float>& scales, float* outer, uint8_t* codes) {
  double sum = 0;
  for (const float scale : scales) sum += scale;
  const float mean = static_cast<float>(sum / static_cast<double>(scales.size()));
  const int64_t count = static_cast<int64_t>(scales.size());
  const int64_t blocks = Blocks(count, kScaleBlock);
  for (int64_t block = 0; block < blocks; ++block) {
    const size_t begin = static_cast<size_t>(block * kScaleBlock);
    const size_t end = std::min(begin + kScaleBlock, scales.size());
    float largest = 0;
    for (size_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(scales[i] - mean));
    outer[block] = largest;
    const float unit = largest > 0 ? largest : 1.0f;
    for (size_t i = begin; i < end; ++i) codes[i] = NearestScale((scales[i] - mean) / unit);
  }
  outer[blocks] = mean;
}

}  // namespace

QuantizedLayout LayoutOf(WeightFormat format, int64_t n, int64_t k) {
  const int64_t count = n * k, blocks = Blocks(count, kQuantBlock);
  QuantizedLayout at;
  if (format == WeightFormat::kInt8) {
    at.scales = Padded(count);
    at.total = at.scales + Padded(4 * n);
  } else if (format == WeightFormat::kNf4) {
    at.scales = Padded(Blocks(count, 2));
    at.total = at.scales + Padded(4 * blocks);
  } else if (format == WeightFormat::kNf4Double) {
    const int64_t outer = Blocks(blocks, kScaleBlock);
    at.scales = Padded(Blocks(count, 2));
    at.offset = at.scales + static_cast<size_t>(4 * outer);
    at.scale_codes = at.scales + Padded(4 * (outer + 1));
    at.total = at.scale_codes + Padded(blocks);
  }
  return at;
}

const std::array<float, 256>& ScaleMap() {
  static const std::array<float, 256> map = MakeScaleMap();
  return map;
}

size_t QuantizedBytes(WeightFormat format, int64_t n, int64_t k) {
  return LayoutOf(format, n, k).total;
}

void Quantize(int threads, WeightFormat format, int64_t n, int64_t k, const float* w, void* out) {
  const QuantizedLayout at = LayoutOf(format, n, k);
  uint8_t* bytes = static_cast<uint8_t*>(out);
  std::memset(bytes, 0, at.total);  // the padding too: equal weights are equal bytes
  float* scales = reinterpret_cast<float*>(bytes + at.scales);
  if (n * k == 0) return;
  if (format == WeightFormat::kInt8) {
    QuantizeRows(threads, n, k, w, reinterpret_cast<int8_t*>(bytes), scales);
  } else if (format == WeightFormat::kNf4) {
    QuantizeBlocks(threads, n * k, w, bytes, scales);
  } else if (format == WeightFormat::kNf4Double) {
    std::vector<float> inner(static_cast<size_t>(Blocks(n * k, kQuantBlock)));
    QuantizeBlocks(threads, n * k, w, bytes, inner.data());
    QuantizeScales(inner, scales, bytes + at.scale_codes);
  }
}

QuantizedView ViewOf(WeightFormat format, int64_t n, int64_t k, const void* data) {
  const QuantizedLayout at = LayoutOf(format, n, k);
  const uint8_t* bytes = static_cast<const uint8_t*>(data);
  QuantizedView view;
  view.codes = bytes;
  view.scales = reinterpret_cast<const float*>(bytes + at.scales);
  if (format != WeightFormat::kNf4Double) return view;
  view.scale_codes = bytes + at.scale_codes;
  view.scale_map = ScaleMap().data();
  std::memcpy(&view.offset, bytes + at.offset, sizeof(view.offset));
  return view;
}

}  // namespace tidegate::kernels
