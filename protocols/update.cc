#include "protocols/update.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace tidegate::protocols {
namespace {

constexpr float kMaxScale = static_cast<float>(kMaxUpdateValue / 127.0);

uint64_t Count(const LayoutTensor& t) { return static_cast<uint64_t>(t.rows) * t.cols; }
uint64_t Groups(uint64_t count) { return (count + kInt8Group - 1) / kInt8Group; }
bool InSubset(const LayoutTensor& t, uint8_t groups) {
  return t.group < 8 && ((groups >> t.group) & 1) != 0;
}
// More than kMaxUpdateValues are no size to multiply: such a tensor has no update.
uint64_t TensorBytes(uint64_t count, Codec codec) {
  if (count > kMaxUpdateValues) return UINT64_MAX / kMaxTensors / 2;
  if (codec == Codec::kFixed32) return 4 * count;
  return 4 * Groups(count) + (count + 3) / 4 * 4;
}

tl::unexpected<DecodeError> Bad(std::string reason) {
  return tl::unexpected(DecodeError{std::move(reason)});
}

// Writes or reads the header's fields in order; one list for both directions.
template <typename Io, typename H>
void HeaderFields(Io&& io, H& h) {
  uint32_t magic = kUpdateMagic;
  uint16_t version = 1;
  io(magic);
  io(version);
  io(h.phase);
  io(h.groups);
  io(h.job);
  io(h.round);
  io(h.codec);
  std::array<uint8_t, 3> zero{};
  io(zero);
  io(h.site);
  io(h.base_hash);
  io(h.layout_digest);
  io(h.tensors);
  io(h.weight);
  io(h.values);
  io(h.metrics.train_loss_milli);
  io(h.metrics.heldout_loss_milli);
  std::array<uint8_t, 16> reserved{};
  io(reserved);
}

}  // namespace

uint64_t UpdateBytes(const Layout& layout, uint8_t groups, Codec codec) {
  uint64_t bytes = kUpdateHeaderBytes;
  for (const LayoutTensor& t : layout.tensors.items) {
    if (InSubset(t, groups)) bytes += TensorBytes(Count(t), codec);
  }
  return bytes;
}

uint64_t UpdateValues(const Layout& layout, uint8_t groups) {
  uint64_t values = 0;
  for (const LayoutTensor& t : layout.tensors.items) {
    if (InSubset(t, groups)) values += Count(t);
  }
  return values;
}

void WriteUpdateHeader(const UpdateHeader& header, uint8_t* out) {
  UpdateHeader copy = header;
  const uint8_t* const begin = out;
  HeaderFields(
      [&out](const auto& field) {
        std::memcpy(out, &field, sizeof(field));
        out += sizeof(field);
      },
      copy);
  std::fill(out, const_cast<uint8_t*>(begin) + kUpdateHeaderBytes, uint8_t{0});
}

Decoded<UpdateHeader> ReadUpdateHeader(std::span<const uint8_t> bytes) {
  if (bytes.size() < kUpdateHeaderBytes) return Bad("an update is shorter than its header");
  const uint8_t* in = bytes.data();
  UpdateHeader header;
  HeaderFields(
      [&in](auto& field) {
        std::memcpy(&field, in, sizeof(field));
        in += sizeof(field);
      },
      header);
  // Canonical form: what was read, written again, is what came (magic, version and zeros included).
  const auto codec = static_cast<uint8_t>(header.codec);
  if (codec < 1 || codec > 2) return Bad("codec " + std::to_string(codec) + " is not known");
  std::array<uint8_t, kUpdateHeaderBytes> again;
  WriteUpdateHeader(header, again.data());
  if (std::memcmp(again.data(), bytes.data(), kUpdateHeaderBytes) != 0) {
    return Bad("an update's header is not in canonical form");
  }
  if (header.weight < 1 || header.weight > kMaxWeight) {
    return Bad("an update's weight " + std::to_string(header.weight) + " is not in 1 … " +
               std::to_string(kMaxWeight));
  }
  return header;
}

namespace {

Decoded<UpdateTensor> ReadTensor(std::span<const uint8_t> bytes, Codec codec, uint64_t count) {
  UpdateTensor tensor;
  tensor.count = count;
  if (codec == Codec::kFixed32) {
    tensor.fixed = bytes;
    constexpr int64_t kMax = static_cast<int64_t>(kMaxUpdateValue) << kFixed32Bits;
    static_assert(kMax > INT32_MAX, "every int32 is in range on this grid");
    return tensor;
  }
  const uint64_t groups = Groups(count);
  tensor.scales = bytes.first(4 * groups);
  const auto* q = reinterpret_cast<const int8_t*>(bytes.data() + 4 * groups);
  tensor.int8 = {q, count};
  for (uint64_t g = 0; g < groups; ++g) {
    float scale;
    std::memcpy(&scale, tensor.scales.data() + 4 * g, 4);
    if (!(scale >= 0.0f && scale <= kMaxScale) || (scale == 0.0f && std::signbit(scale))) {
      return Bad("a scale is not in 0 … " + std::to_string(kMaxScale));
    }
  }
  if (std::find(tensor.int8.begin(), tensor.int8.end(), int8_t{-128}) != tensor.int8.end()) {
    return Bad("an int8 value is -128; the range is -127 … 127");
  }
  for (uint64_t i = count; i < (count + 3) / 4 * 4; ++i) {
    if (q[i] != 0) return Bad("padding after a tensor is not zero");
  }
  return tensor;
}

}  // namespace

Decoded<UpdateView> UpdateView::Parse(std::span<const uint8_t> bytes, const Layout& layout) {
  auto header = ReadUpdateHeader(bytes);
  if (!header) return tl::unexpected(header.error());
  UpdateView view;
  view.header_ = *header;
  const uint64_t expected = UpdateBytes(layout, header->groups, header->codec);
  if (bytes.size() != expected) {
    return Bad("an update has " + std::to_string(bytes.size()) + " bytes, its layout says " +
               std::to_string(expected));
  }
  uint64_t offset = kUpdateHeaderBytes, flat = 0, values = 0;
  uint8_t seen = 0;
  for (uint32_t i = 0; i < layout.tensors.size(); ++i) {
    const LayoutTensor& t = layout.tensors.items[i];
    const uint64_t count = Count(t);
    if (InSubset(t, header->groups)) {
      const uint64_t size = TensorBytes(count, header->codec);
      auto tensor = ReadTensor(bytes.subspan(offset, size), header->codec, count);
      if (!tensor) return tl::unexpected(DecodeError{t.name.text + ": " + tensor.error().reason});
      tensor->first_value = flat;
      view.tensors_.push_back(*tensor);
      offset += size;
      values += count;
      seen |= static_cast<uint8_t>(1u << t.group);
    }
    flat += count;
  }
  if (view.tensors_.empty() || seen != header->groups || header->tensors != view.tensors_.size() ||
      header->values != values) {
    return Bad("an update's counts are not those of its layout and subset");
  }
  return view;
}

double UpdateView::L2Norm() const {
  double sum = 0;
  for (const UpdateTensor& t : tensors_) {
    ForEachValue(t, [&sum](uint64_t, double value) { sum += value * value; });
  }
  return std::sqrt(sum);
}

}  // namespace tidegate::protocols
