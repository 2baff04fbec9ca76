#include "federation/shared/delta_codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tidegate::federation {
namespace {

using protocols::Codec;
using protocols::kInt8Group;

uint64_t Count(const protocols::LayoutTensor& t) { return static_cast<uint64_t>(t.rows) * t.cols; }

Status EncodeFixed(std::span<const double> values, uint8_t* out) {
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

Status EncodeInt8(std::span<const double> values, double factor, uint8_t* out) {
  const size_t groups = (values.size() + kInt8Group - 1) / kInt8Group;
  uint8_t* q = out + 4 * groups;
  for (size_t g = 0; g < groups; ++g) {
    const auto group = values.subspan(g * kInt8Group,
                                      std::min<size_t>(kInt8Group, values.size() - g * kInt8Group));
    double max = 0;
    for (const double x : group) {
      if (!std::isfinite(x)) return FailedPrecondition("a delta is not finite: the run diverged");
      max = std::max(max, std::abs(x * factor));
    }
    if (max >= protocols::kMaxUpdateValue / 2) {
      return FailedPrecondition("a delta of {} is over the limit {}: lower the learning rate", max,
                                protocols::kMaxUpdateValue / 2);
    }
    const auto scale = static_cast<float>(max / 127.0);
    std::memcpy(out + 4 * g, &scale, 4);
    for (size_t i = 0; i < group.size(); ++i) {
      const double x = group[i] * factor;
      const double r = scale > 0 ? std::nearbyint(x / static_cast<double>(scale)) : 0.0;
      q[g * kInt8Group + i] =
          static_cast<uint8_t>(static_cast<int8_t>(std::clamp(r, -127.0, 127.0)));
    }
  }
  return OkStatus();
}

Status EncodeTensors(const protocols::UpdateHeader& header, const protocols::Layout& layout,
                     std::span<const double> delta, double factor, Bytes& out) {
  std::fill(out.begin() + protocols::kUpdateHeaderBytes, out.end(), uint8_t{0});
  size_t offset = protocols::kUpdateHeaderBytes, flat = 0;
  for (const auto& t : layout.tensors.items) {
    const uint64_t count = Count(t);
    if ((header.groups >> t.group) & 1) {
      const auto values = delta.subspan(flat, count);
      if (header.codec == Codec::kFixed32) {
        TG_RETURN_IF_ERROR(EncodeFixed(values, out.data() + offset));
        offset += 4 * count;
      } else {
        TG_RETURN_IF_ERROR(EncodeInt8(values, factor, out.data() + offset));
        offset += 4 * ((count + kInt8Group - 1) / kInt8Group) + (count + 3) / 4 * 4;
      }
    }
    flat += count;
  }
  return OkStatus();
}

}  // namespace

Result<Bytes> EncodeUpdate(protocols::UpdateHeader header, const protocols::Layout& layout,
                           std::span<const float> start, std::span<const float> result,
                           double norm_clip) {
  uint64_t total = 0;
  header.tensors = 0;
  for (const auto& t : layout.tensors.items) {
    total += Count(t);
    header.tensors += (header.groups >> t.group) & 1;
  }
  header.values = protocols::UpdateValues(layout, header.groups);
  if (start.size() != total || result.size() != total || header.values == 0) {
    return Internal("{} and {} parameters do not fit a layout of {}", start.size(), result.size(),
                    total);
  }
  std::vector<double> delta(total);
  for (uint64_t i = 0; i < total; ++i) {
    delta[i] = static_cast<double>(result[i]) - static_cast<double>(start[i]);
  }
  Bytes out(protocols::UpdateBytes(layout, header.groups, header.codec));
  protocols::WriteUpdateHeader(header, out.data());
  double factor = 1.0;
  // Rounding may put the encoded norm a little over the clip again: then a little more is taken
  // off.
  for (int attempt = 0; attempt < 64; ++attempt) {
    TG_RETURN_IF_ERROR(EncodeTensors(header, layout, delta, factor, out));
    auto view = protocols::UpdateView::Parse(out, layout);
    if (!view) return Internal("an encoded update does not parse: {}", view.error().reason);
    const double norm = view->L2Norm();
    if (norm_clip <= 0 || norm <= norm_clip) return out;
    if (header.codec == Codec::kFixed32) {
      return FailedPrecondition("the delta's norm {} is over the clip {}; fixed32 is never scaled",
                                norm, norm_clip);
    }
    factor *= std::min(norm_clip / norm, 1.0 - 0x1p-10);
  }
  return Internal("a delta could not be clipped to {}", norm_clip);
}

}  // namespace tidegate::federation
