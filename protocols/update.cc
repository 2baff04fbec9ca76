#include "protocols/update.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

namespace tidegate::protocols {
namespace {

constexpr struct {
  std::string_view name;
  Codec codec;
} kCodecs[] = {{"fixed32", Codec::kFixed32},
               {"int8", Codec::kInt8},
               {"bf16", Codec::kBf16},
               {"int4", Codec::kInt4}};

constexpr uint64_t Padded(uint64_t bytes) { return (bytes + 3) / 4 * 4; }
// Of the numbers alone.
uint64_t NumberBytes(uint64_t count, Codec codec) {
  switch (codec) {
    case Codec::kFixed32:
      return 4 * count;
    case Codec::kBf16:
      return 2 * count;
    case Codec::kInt8:
      return count;
    case Codec::kInt4:
      return (count + 1) / 2;
  }
  return 0;
}
uint64_t Count(const LayoutTensor& t) { return static_cast<uint64_t>(t.rows) * t.cols; }
bool InSubset(const LayoutTensor& t, uint8_t groups) {
  return t.group < 8 && ((groups >> t.group) & 1) != 0;
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

std::string_view CodecName(Codec codec) {
  for (const auto& known : kCodecs) {
    if (known.codec == codec) return known.name;
  }
  return "unknown";
}

std::optional<Codec> CodecOf(std::string_view name) {
  for (const auto& known : kCodecs) {
    if (known.name == name) return known.codec;
  }
  return std::nullopt;
}

std::string CodecNames() {
  std::string names;
  for (const auto& known : kCodecs) {
    names += (names.empty() ? "" : ", ") + std::string(known.name);
  }
  return names;
}

bool GoodScale(float scale, Codec codec) {
  if (scale == 0.0f) return !std::signbit(scale);
  return scale >= kMinUpdateScale &&
         static_cast<double>(scale) * UpdateMaxQ(codec) < kMaxUpdateValue;
}

uint64_t UpdateTensorBytes(uint64_t count, Codec codec) {
  // More than kMaxUpdateValues are no size to multiply: such a tensor has no update.
  if (count > kMaxUpdateValues) return UINT64_MAX / kMaxTensors / 2;
  const uint64_t group = UpdateGroup(codec);
  const uint64_t scales = group == 0 ? 0 : 4 * ((count + group - 1) / group);
  return scales + Padded(NumberBytes(count, codec));
}

uint64_t UpdateBytes(const Layout& layout, uint8_t groups, Codec codec) {
  uint64_t bytes = kUpdateHeaderBytes;
  for (const LayoutTensor& t : layout.tensors.items) {
    if (InSubset(t, groups)) bytes += UpdateTensorBytes(Count(t), codec);
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
  if (codec < 1 || codec > static_cast<uint8_t>(EnumRange<Codec>::kLast))
    return Bad("codec " + std::to_string(codec) + " is not known");
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

// Of a group: the largest |q|, 128 or 8 where one is out of range.
int LargestQ(const UpdateTensor& t, uint64_t begin, uint64_t end) {
  const uint8_t* const q = t.q.data();
  if (t.codec == Codec::kInt8) {
    // In bytes, sixteen of them in a register.
    uint8_t largest = 0;
    for (uint64_t i = begin; i < end; ++i) {
      const int number = static_cast<int8_t>(q[i]);
      largest = std::max(largest, static_cast<uint8_t>(std::abs(number)));
    }
    return largest;
  }
  int most = 0;
  for (uint64_t i = begin / 2; i < (end + 1) / 2; ++i) {
    most = std::max({most, std::abs(LowHalf(q[i])), std::abs(HighHalf(q[i]))});
  }
  return most;
}

// Scale and numbers of every group: canonical, and in range.
std::optional<std::string> CheckGroups(const UpdateTensor& t) {
  const int max_q = UpdateMaxQ(t.codec);
  const uint64_t size = UpdateGroup(t.codec);
  for (uint64_t begin = 0; begin < t.count; begin += size) {
    const auto scale = static_cast<float>(update_detail::ScaleOf(t, begin / size));
    if (!GoodScale(scale, t.codec)) {
      return "a scale is not 0 or from 2^-40 to below " + std::to_string(kMaxUpdateValue / max_q);
    }
    const int most = LargestQ(t, begin, std::min(t.count, begin + size));
    if (most > max_q) {
      return "a number is " + std::to_string(-most) + "; the range is " + std::to_string(-max_q) +
             " … " + std::to_string(max_q);
    }
    if (scale == 0 && most != 0) return "a group with scale 0 has numbers that are not 0";
    if (scale != 0 && most != max_q) {
      return "a group's largest number is " + std::to_string(most) + ", not " +
             std::to_string(max_q) + ": its scale could be smaller";
    }
  }
  return std::nullopt;
}

std::optional<std::string> CheckBf16(const UpdateTensor& t) {
  // The bits of kMaxUpdateValue as a bfloat16; those of every larger number, infinity and NaN too,
  // are above them.
  constexpr uint32_t kLimit = std::bit_cast<uint32_t>(static_cast<float>(kMaxUpdateValue)) >> 16;
  bool bad = false;
  for (uint64_t i = 0; i < t.count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, t.q.data() + 2 * i, 2);
    bad |= (bits & 0x7fffu) >= kLimit || bits == 0x8000u;
  }
  if (!bad) return std::nullopt;
  return "a bf16 value is not finite, not below " + std::to_string(kMaxUpdateValue) +
         " or a negative zero";
}

Decoded<UpdateTensor> ReadTensor(std::span<const uint8_t> bytes, Codec codec, uint64_t count) {
  constexpr int64_t kMax = static_cast<int64_t>(kMaxUpdateValue) << kFixed32Bits;
  static_assert(kMax > INT32_MAX, "every int32 is in range on the grid of fixed32");
  UpdateTensor tensor;
  tensor.count = count;
  tensor.codec = codec;
  const uint64_t numbers = NumberBytes(count, codec);
  tensor.scales = bytes.first(bytes.size() - Padded(numbers));
  tensor.q = bytes.subspan(tensor.scales.size(), numbers);
  const auto padding = bytes.subspan(tensor.scales.size() + numbers);
  const bool odd_tail = codec == Codec::kInt4 && count % 2 == 1 && HighHalf(tensor.q.back()) != 0;
  if (odd_tail || std::any_of(padding.begin(), padding.end(), [](uint8_t b) { return b != 0; })) {
    return Bad("padding after a tensor is not zero");
  }
  std::optional<std::string> bad;
  if (UpdateGroup(codec) != 0) bad = CheckGroups(tensor);
  if (codec == Codec::kBf16) bad = CheckBf16(tensor);
  if (bad) return Bad(std::move(*bad));
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
      const uint64_t size = UpdateTensorBytes(count, header->codec);
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
