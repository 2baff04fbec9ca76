#include "federation/shared/delta_codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/rng.h"

namespace tidegate::federation {
namespace {

using protocols::Codec;
using protocols::Rounding;

// No value may be as large: after rounding it is still in the wire's range.
constexpr double kMaxDelta = protocols::kMaxUpdateValue / 2;

uint64_t Count(const protocols::LayoutTensor& t) { return static_cast<uint64_t>(t.rows) * t.cols; }

// Rounds to whole numbers, each in its own way. `position` is the value's, in the whole layout.
class Rounder {
 public:
  Rounder(const EncodeOptions& options, uint32_t round)
      : stochastic_(options.rounding == Rounding::kStochastic), key_(options.key), round_(round) {}

  double operator()(double x, uint64_t position) {
    return stochastic_ ? std::floor(x + Uniform(position)) : std::nearbyint(x);
  }

 private:
  // In (0, 1), so that a whole number stays what it is.
  double Uniform(uint64_t position) {
    if (position / 4 != block_) {
      block_ = position / 4;
      words_ = RandomWords(key_, RngPurpose::kStochasticRounding, round_, block_);
    }
    return (static_cast<double>(words_[position % 4]) + 0.5) * 0x1p-32;
  }

  bool stochastic_;
  uint64_t key_;
  uint32_t round_;
  uint64_t block_ = UINT64_MAX;
  std::array<uint32_t, 4> words_{};
};

// One tensor of the delta: its values times the factor of the clip.
struct Values {
  std::span<const double> delta;
  double factor;
  uint64_t first;  // its position in the whole layout

  size_t size() const { return delta.size(); }
  double operator[](size_t i) const { return delta[i] * factor; }
};

Status CheckRange(const Values& values) {
  double most = 0;
  bool finite = true;
  for (size_t i = 0; i < values.size(); ++i) {
    most = std::max(most, std::abs(values[i]));
    finite &= std::isfinite(values[i]);
  }
  if (!finite) return FailedPrecondition("a delta is not finite: the run diverged");
  if (most < kMaxDelta) return OkStatus();
  return FailedPrecondition("a delta of {} is over the limit {}: lower the learning rate", most,
                            kMaxDelta);
}

Status EncodeFixed(const Values& values, uint8_t* out) {
  for (size_t i = 0; i < values.size(); ++i) {
    const double scaled = values[i] * 0x1p28;
    const double q = std::nearbyint(scaled);
    if (q != scaled || std::abs(q) >= 0x1p31) {
      return InvalidArgument(
          "a delta of {} is not on the grid 2^-28 below 8, which the fixed32 codec needs",
          values[i]);
    }
    const auto integer = static_cast<int32_t>(q);
    std::memcpy(out + 4 * i, &integer, 4);
  }
  return OkStatus();
}

void EncodeBf16(const Values& values, Rounder& round, uint8_t* out) {
  for (size_t i = 0; i < values.size(); ++i) {
    const double x = values[i];
    // bfloat16: eight bits of mantissa, the smallest normal number is 2^-126.
    const int exponent = x == 0 ? -126 : std::max(std::ilogb(x), -126);
    const double q = round(std::ldexp(x, 7 - exponent), values.first + i);
    const auto value = static_cast<float>(std::ldexp(q, exponent - 7));
    const auto bits = static_cast<uint16_t>(value == 0 ? 0 : std::bit_cast<uint32_t>(value) >> 16);
    std::memcpy(out + 2 * i, &bits, 2);
  }
}

// `put(i, q)` stores number i of the tensor.
template <typename Put>
void EncodeGroups(const Values& values, Codec codec, Rounder& round, uint8_t* scales, Put&& put) {
  const size_t group = protocols::UpdateGroup(codec);
  const int max_q = protocols::UpdateMaxQ(codec);
  for (size_t begin = 0; begin < values.size(); begin += group, scales += 4) {
    const size_t end = std::min(begin + group, values.size());
    double max = 0;
    for (size_t i = begin; i < end; ++i) max = std::max(max, std::abs(values[i]));
    auto scale = static_cast<float>(max / max_q);
    if (scale < protocols::kMinUpdateScale) scale = 0;
    std::memcpy(scales, &scale, 4);
    for (size_t i = begin; i < end; ++i) {
      const double x = values[i];
      // The largest is the range's end, whatever the scale was rounded to.
      const double q = scale == 0 ? 0.0
                       : std::abs(x) == max
                           ? std::copysign(max_q, x)
                           : round(x / static_cast<double>(scale), values.first + i);
      put(i, std::clamp(static_cast<int>(q), -max_q, max_q));
    }
  }
}

void EncodeTensor(const Values& values, Codec codec, Rounder& round, uint8_t* out) {
  if (codec == Codec::kBf16) return EncodeBf16(values, round, out);
  const size_t group = protocols::UpdateGroup(codec);
  uint8_t* const q = out + 4 * ((values.size() + group - 1) / group);
  if (codec == Codec::kInt8) {
    return EncodeGroups(values, codec, round, out,
                        [q](size_t i, int number) { q[i] = static_cast<uint8_t>(number); });
  }
  EncodeGroups(values, codec, round, out, [q](size_t i, int number) {
    q[i / 2] |= static_cast<uint8_t>((number & 0xf) << (i % 2 * 4));
  });
}

Status EncodeTensors(const protocols::UpdateHeader& header, const protocols::Layout& layout,
                     std::span<const double> delta, const EncodeOptions& options, double factor,
                     Bytes& out) {
  std::fill(out.begin() + protocols::kUpdateHeaderBytes, out.end(), uint8_t{0});
  Rounder round(options, header.round);
  size_t offset = protocols::kUpdateHeaderBytes, flat = 0;
  for (const auto& t : layout.tensors.items) {
    const uint64_t count = Count(t);
    if ((header.groups >> t.group) & 1) {
      const Values values{delta.subspan(flat, count), factor, flat};
      if (header.codec == Codec::kFixed32) {
        TG_RETURN_IF_ERROR(EncodeFixed(values, out.data() + offset));
      } else {
        TG_RETURN_IF_ERROR(CheckRange(values));
        EncodeTensor(values, header.codec, round, out.data() + offset);
      }
      offset += protocols::UpdateTensorBytes(count, header.codec);
    }
    flat += count;
  }
  return OkStatus();
}

}  // namespace

Result<Bytes> EncodeDelta(protocols::UpdateHeader header, const protocols::Layout& layout,
                          std::span<double> delta, const EncodeOptions& options) {
  uint64_t total = 0;
  header.tensors = 0;
  for (const auto& t : layout.tensors.items) {
    total += Count(t);
    header.tensors += (header.groups >> t.group) & 1;
  }
  header.values = protocols::UpdateValues(layout, header.groups);
  if (delta.size() != total || header.values == 0) {
    return Internal("a delta of {} values does not fit a layout of {}", delta.size(), total);
  }
  Bytes out(protocols::UpdateBytes(layout, header.groups, header.codec));
  protocols::WriteUpdateHeader(header, out.data());
  const double clip = options.norm_clip;
  double factor = 1.0;
  // Rounding may put the encoded norm a little over the clip again: then a little more is taken
  // off.
  for (int attempt = 0; attempt < 64; ++attempt) {
    TG_RETURN_IF_ERROR(EncodeTensors(header, layout, delta, options, factor, out));
    auto view = protocols::UpdateView::Parse(out, layout);
    if (!view) return Internal("an encoded update does not parse: {}", view.error().reason);
    const double norm = view->L2Norm();
    if (clip <= 0 || norm <= clip) {
      if (factor != 1.0) {
        for (double& x : delta) x *= factor;
      }
      return out;
    }
    if (header.codec == Codec::kFixed32) {
      return FailedPrecondition("the delta's norm {} is over the clip {}; fixed32 is never scaled",
                                norm, clip);
    }
    factor *= std::min(clip / norm, 1.0 - 0x1p-10);
  }
  return Internal("a delta could not be clipped to {}", clip);
}

std::vector<double> Difference(std::span<const float> start, std::span<const float> result) {
  std::vector<double> delta(result.size());
  for (size_t i = 0; i < delta.size(); ++i) {
    delta[i] = static_cast<double>(result[i]) - static_cast<double>(start[i]);
  }
  return delta;
}

Result<Bytes> EncodeUpdate(const protocols::UpdateHeader& header, const protocols::Layout& layout,
                           std::span<const float> start, std::span<const float> result,
                           double norm_clip) {
  if (start.size() != result.size()) {
    return Internal("{} and {} parameters have no difference", start.size(), result.size());
  }
  std::vector<double> delta = Difference(start, result);
  return EncodeDelta(header, layout, delta, {.norm_clip = norm_clip});
}

}  // namespace tidegate::federation
