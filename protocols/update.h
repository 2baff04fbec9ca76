// The encoded update: a delta as exact integers, what the gate judges and the coordinator adds.
//
//   header (kUpdateHeaderBytes), then for each tensor of the phase's subset, in layout order:
//     kFixed32:  int32 q[count]                           value = q · 2^-28
//     kInt8:     float32 scale[ceil(count/256)], int8 q[count] padded with zeros to 4 bytes
//                                                         value = q · scale[i / 256]
//
// Little-endian. Scales are finite, >= 0 and at most kMaxUpdateValue/127; q is in −127 … 127
// (int8), |value| < kMaxUpdateValue. Everything is a function of header and layout: the length of a
// valid update is known before it is read. Pure functions; errors as DecodeError. See update.md.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "protocols/codec.h"
#include "protocols/documents.h"

namespace tidegate::protocols {

inline constexpr uint32_t kUpdateMagic = 0x31554754;  // "TGU1"
inline constexpr size_t kUpdateHeaderBytes = 208;
inline constexpr int64_t kInt8Group = 256;
inline constexpr int kFixed32Bits = 28;

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
  uint64_t values = 0;   // how many integers follow
  uint32_t weight = 0;   // 1 … kMaxWeight
  UpdateMetrics metrics;
};

// Bytes that an update of this layout, subset and codec has, header included.
uint64_t UpdateBytes(const Layout& layout, uint8_t groups, Codec codec);
// Values in the subset.
uint64_t UpdateValues(const Layout& layout, uint8_t groups);

void WriteUpdateHeader(const UpdateHeader& header, uint8_t* out);  // kUpdateHeaderBytes
Decoded<UpdateHeader> ReadUpdateHeader(std::span<const uint8_t> bytes);

// One tensor inside an update. Exactly one of fixed/int8 is set.
struct UpdateTensor {
  uint64_t first_value = 0;  // position in the layout's flat parameter buffer (whole layout)
  uint64_t count = 0;
  std::span<const uint8_t> fixed;   // count × int32, unaligned
  std::span<const uint8_t> scales;  // groups × float32, unaligned
  std::span<const int8_t> int8;
};

// A checked view of an update: header against the layout, length exact, every scale and integer in
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

}  // namespace tidegate::protocols

#include "protocols/update_inl.h"
