// What the golden updates of protocols/vectors/v1 hold (tests/golden/wire_vectors.py made them from
// the page), for the test that reads them and for the one that encodes them.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "protocols/update.h"

namespace tidegate::protocols {

// The text of a file of protocols/vectors/v1; empty when it is missing.
inline std::string VectorText(const std::string& name) {
  std::ifstream file(std::string(TIDEGATE_SOURCE_DIR) + "/protocols/vectors/v1/" + name);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::vector<uint8_t> VectorBytes(const std::string& name) {
  std::string text = VectorText(name);
  while (text.ends_with('\n')) text.pop_back();
  const auto bytes = FromHex(text);
  return bytes ? std::vector<uint8_t>(bytes->begin(), bytes->end()) : std::vector<uint8_t>();
}

template <size_t N>
std::array<uint8_t, N> CountingFrom(uint8_t first) {
  std::array<uint8_t, N> out;
  for (size_t i = 0; i < N; ++i) out[i] = static_cast<uint8_t>(first + i);
  return out;
}

inline Layout GoldenLayout() {
  Layout layout;
  layout.tensors.items = {{"layer.0.lora_A", 1, 257, 0}, {"layer.0.lora_B", 3, 2, 1}};
  return layout;
}

struct GoldenUpdate {
  const char* name;
  Codec codec;
};
inline constexpr GoldenUpdate kGoldenUpdates[] = {{"update_int8.hex", Codec::kInt8},
                                                  {"update_fixed32.hex", Codec::kFixed32},
                                                  {"update_bf16.hex", Codec::kBf16},
                                                  {"update_int4.hex", Codec::kInt4}};

// Of all but fixed32, which shares B alone.
inline UpdateHeader GoldenHeader(Codec codec, const Hash32& layout_digest) {
  const bool both = codec != Codec::kFixed32;
  UpdateHeader header;
  header.job = CountingFrom<16>(9);
  header.round = 3;
  header.phase = both ? 0 : 1;
  header.groups = both ? 3 : 2;
  header.codec = codec;
  const std::string site = "north";
  std::copy(site.begin(), site.end(), header.site.begin());
  header.base_hash = CountingFrom<32>(2);
  header.layout_digest = layout_digest;
  header.tensors = both ? 2 : 1;
  header.values = both ? 263 : 6;
  header.weight = 4096;
  header.metrics = {2345, 6789};
  return header;
}

// The values of the whole layout; those that the update does not share are 0.
inline std::vector<double> GoldenValues(Codec codec) {
  std::vector<double> values(263, 0.0);
  const auto b_is = [&values](const std::array<double, 6>& b, double step) {
    for (size_t i = 0; i < 6; ++i) values[257 + i] = b[i] * step;
  };
  switch (codec) {
    case Codec::kFixed32:
      b_is({1, -1, 1 << 27, -(1 << 30), 12345, 0}, 0x1p-28);
      break;
    case Codec::kInt8:
      for (int i = 0; i < 256; ++i) values[size_t(i)] = (i * 37 % 255 - 127) * 0x1p-10;
      values[256] = 127 * 0x1p-7;
      b_is({1, -2, 3, -127, 5, 0}, 0x1p-12);
      break;
    case Codec::kBf16:
      for (int i = 0; i < 257; ++i) {
        values[size_t(i)] = std::ldexp(i * 37 % 255 - 127, -26 + i % 24);
      }
      b_is({31.875, -31.875, 0x1p-133, 0, -1.5, 0x1p-9}, 1);
      break;
    case Codec::kInt4: {
      constexpr double kScales[] = {0x1p-10, 0x1p-9, 0.75, 0x1p-40};
      for (int i = 0; i < 256; ++i) values[size_t(i)] = (i * 4 % 15 - 7) * kScales[i / 64];
      values[256] = 7 * 0x1p-7;
      b_is({1, -2, 3, -7, 5, 0}, 0x1p-12);
      break;
    }
  }
  return values;
}

}  // namespace tidegate::protocols
