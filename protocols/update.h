// The encoded update: a delta as exact numbers, what the gate judges and the coordinator adds.
//
//   header (kUpdateHeaderBytes), then for each tensor of the phase's subset, in layout order:
//     kFixed32:  int32 q[count]                          value = q · 2^-28
//     kInt8:     float32 scale[ceil(count/256)], int8 q[count]    value = q · scale[i / 256]
//     kBf16:     uint16 q[count]                         value = the bfloat16 of these bits
//     kInt4:     float32 scale[ceil(count/64)], q two a byte, low half first
//                                                        value = q · scale[i / 64]
//   each padded with zeros to 4 bytes.
//
// Little-endian. q is in −127 … 127 (int8) or −7 … 7 (int4); in a group with a scale one q is at
// the end of that range, so that there is one byte string for one update. |value| <
// kMaxUpdateValue, and no value is a negative zero. Everything is a function of header and layout:
// the length of a valid update is known before it is read. Pure functions; errors as DecodeError.
// See update.md.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "protocols/codec.h"
#include "protocols/documents.h"

namespace tidegate::protocols {

inline constexpr uint32_t kUpdateMagic = 0x31554754;  // "TGU1"
inline constexpr size_t kUpdateHeaderBytes = 208;
inline constexpr int64_t kInt8Group = 256, kInt4Group = 64;
inline constexpr int kInt8Max = 127, kInt4Max = 7;
inline constexpr int kFixed32Bits = 28;
// A group whose numbers are so small has scale 0: in the sum (kGridBits) they are nothing.
inline constexpr float kMinUpdateScale = 0x1p-40f;

// The words of job files and policies: "fixed32", "int8", "bf16", "int4".
std::string_view CodecName(Codec codec);
std::optional<Codec> CodecOf(std::string_view name);
std::string CodecNames();  // all of them, for an error's remedy

// The closed list of numbers that may go with an update, rounded to thousandths.
struct UpdateMetrics {
  uint32_t train_loss_milli = 0;    // mean loss of the round's local steps
  uint32_t heldout_loss_milli = 0;  // of the adapter the round started from; 0: not measured
};

struct UpdateHeader {
  Id16 job{};
  uint32_t round = 0;
  uint8_t phase = 0;
  uint8_t groups = 0;  // the phase's subset, a bit a group
  Codec codec = Codec::kInt8;
  std::array<uint8_t, kMaxName> site{};  // ASCII, zero-padded
  Hash32 base_hash{};
  Hash32 layout_digest{};
  uint32_t tensors = 0;  // how many follow
  uint64_t values = 0;   // how many numbers follow
  uint32_t weight = 0;   // 1 … kMaxWeight
  UpdateMetrics metrics;
};

// Bytes that an update of this layout, subset and codec has, header included.
uint64_t UpdateBytes(const Layout& layout, uint8_t groups, Codec codec);
// Bytes of one tensor of so many values.
uint64_t UpdateTensorBytes(uint64_t count, Codec codec);
// Values in the subset.
uint64_t UpdateValues(const Layout& layout, uint8_t groups);
// Values that share a scale, 0 where there are none; the largest q of a group.
constexpr uint64_t UpdateGroup(Codec codec) {
  return codec == Codec::kInt8 ? kInt8Group : codec == Codec::kInt4 ? kInt4Group : 0;
}
constexpr int UpdateMaxQ(Codec codec) { return codec == Codec::kInt4 ? kInt4Max : kInt8Max; }
// Whether a group may have this scale: 0, or from kMinUpdateScale to below kMaxUpdateValue / max q.
bool GoodScale(float scale, Codec codec);

void WriteUpdateHeader(const UpdateHeader& header, uint8_t* out);  // kUpdateHeaderBytes
Decoded<UpdateHeader> ReadUpdateHeader(std::span<const uint8_t> bytes);

// One tensor inside an update.
struct UpdateTensor {
  uint64_t first_value = 0;  // position in the layout's flat parameter buffer (whole layout)
  uint64_t count = 0;
  Codec codec = Codec::kInt8;
  std::span<const uint8_t> scales;  // a float32 a group, unaligned; empty where there are none
  std::span<const uint8_t> q;       // the numbers, unaligned, without padding
};

// A checked view of an update: header against the layout, length exact, every scale and number in
// range, padding zero. The bytes are borrowed.
class UpdateView {
 public:
  static Decoded<UpdateView> Parse(std::span<const uint8_t> bytes, const Layout& layout);
  const UpdateHeader& header() const { return header_; }
  const std::vector<UpdateTensor>& tensors() const { return tensors_; }
  // sqrt of the sum of squares of the values, in double, in order.
  double L2Norm() const;

 private:
  UpdateHeader header_;
  std::vector<UpdateTensor> tensors_;
};

// Calls f(position in the flat buffer, value) for every value of a tensor, in order. `value` is
// exact in double.
template <typename F>
void ForEachValue(const UpdateTensor& tensor, F&& f);
// The same with f(position of the first, a run of values), for what has to be fast.
template <typename F>
void ForEachRun(const UpdateTensor& tensor, F&& f);

}  // namespace tidegate::protocols

#include "protocols/update_inl.h"
