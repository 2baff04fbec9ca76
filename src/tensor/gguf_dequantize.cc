// Block formats of ggml (ggml/src/ggml-quants.c describes them; the arithmetic is float32).
#include <array>
#include <cstring>

#include "tensor/gguf.h"

namespace tidegate::tensor {
namespace {

float LoadHalf(const uint8_t* p) { return HalfToFloat(LoadLe16(p)); }

// f16 scale, 32 signed bytes.
void DecodeQ8_0(const uint8_t* p, float* out) {
  const float d = LoadHalf(p);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(p[2 + i]));
}

// f16 scale, 16 bytes: low nibbles are weights 0-15, high nibbles 16-31, both minus 8.
void DecodeQ4_0(const uint8_t* p, float* out) {
  const float d = LoadHalf(p);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((p[2 + i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((p[2 + i] >> 4) - 8);
  }
}

// f16 scale, f16 minimum, 16 bytes of nibbles.
void DecodeQ4_1(const uint8_t* p, float* out) {
  const float d = LoadHalf(p), m = LoadHalf(p + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(p[4 + i] & 15) + m;
    out[i + 16] = d * static_cast<float>(p[4 + i] >> 4) + m;
  }
}

// f16 scale of scales, f16 scale of minima, 8 pairs of 6-bit (scale, minimum), 256 nibbles.
void DecodeQ4_K(const uint8_t* p, float* out) {
  const float d = LoadHalf(p), dmin = LoadHalf(p + 2);
  const uint8_t* packed = p + 4;
  const uint8_t* quants = p + 16;
  for (int group = 0; group < 8; ++group) {
    int scale, minimum;
    if (group < 4) {
      scale = packed[group] & 63;
      minimum = packed[group + 4] & 63;
    } else {
      scale = (packed[group + 4] & 15) | ((packed[group - 4] >> 6) << 4);
      minimum = (packed[group + 4] >> 4) | ((packed[group] >> 6) << 4);
    }
    const float d1 = d * static_cast<float>(scale), m1 = dmin * static_cast<float>(minimum);
    const uint8_t* q = quants + 32 * (group / 2);
    const int shift = 4 * (group % 2);
    for (int i = 0; i < 32; ++i) {
      out[32 * group + i] = d1 * static_cast<float>((q[i] >> shift) & 15) - m1;
    }
  }
}

// 128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales, f16 scale; 16 weights a scale.
void DecodeQ6_K(const uint8_t* p, float* out) {
  const float d = LoadHalf(p + 208);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* low = p + 64 * half;
    const uint8_t* high = p + 128 + 32 * half;
    const uint8_t* scales = p + 192 + 8 * half;
    for (int quarter = 0; quarter < 4; ++quarter) {
      for (int i = 0; i < 32; ++i) {
        const int nibble = (low[i + 32 * (quarter % 2)] >> (4 * (quarter / 2))) & 15;
        const int q = (nibble | (((high[i] >> (2 * quarter)) & 3) << 4)) - 32;
        const float scale = static_cast<float>(static_cast<int8_t>(scales[2 * quarter + i / 16]));
        out[128 * half + 32 * quarter + i] = d * scale * static_cast<float>(q);
      }
    }
  }
}

struct TypeRow {
  GgmlType type;
  GgmlTypeInfo info;
};

constexpr std::array<TypeRow, 8> kTypes = {{
    {GgmlType::kF32, {"F32", 1, 4}},
    {GgmlType::kF16, {"F16", 1, 2}},
    {GgmlType::kQ4_0, {"Q4_0", 32, 18}},
    {GgmlType::kQ4_1, {"Q4_1", 32, 20}},
    {GgmlType::kQ8_0, {"Q8_0", 32, 34}},
    {GgmlType::kQ4_K, {"Q4_K", 256, 144}},
    {GgmlType::kQ6_K, {"Q6_K", 256, 210}},
    {GgmlType::kBF16, {"BF16", 1, 2}},
}};

void DecodeBlock(GgmlType type, const uint8_t* in, float* out) {
  switch (type) {
    case GgmlType::kQ8_0:
      return DecodeQ8_0(in, out);
    case GgmlType::kQ4_0:
      return DecodeQ4_0(in, out);
    case GgmlType::kQ4_1:
      return DecodeQ4_1(in, out);
    case GgmlType::kQ4_K:
      return DecodeQ4_K(in, out);
    case GgmlType::kQ6_K:
      return DecodeQ6_K(in, out);
    case GgmlType::kF32:
    case GgmlType::kF16:
    case GgmlType::kBF16:
      return;  // not blocks; ToFloats reads them
  }
}

}  // namespace

const GgmlTypeInfo* FindGgmlType(uint32_t type) {
  for (const TypeRow& row : kTypes) {
    if (static_cast<uint32_t>(row.type) == type) return &row.info;
  }
  return nullptr;
}

int64_t GgufTensor::num_elements() const {
  const GgmlTypeInfo* info = FindGgmlType(static_cast<uint32_t>(type));
  return static_cast<int64_t>(bytes.size() / info->block_bytes * info->block_elements);
}

Status Dequantize(const GgufTensor& tensor, int64_t begin, std::span<float> out) {
  const GgmlTypeInfo* info = FindGgmlType(static_cast<uint32_t>(tensor.type));
  const int64_t count = static_cast<int64_t>(out.size());
  const int64_t total = tensor.num_elements();
  if (begin < 0 || begin > total || count > total - begin || begin % info->block_elements != 0 ||
      count % info->block_elements != 0) {
    return InvalidArgument("elements {}..{} are not whole blocks of tensor \"{}\" ({} elements)",
                           begin, begin + count, tensor.name, total);
  }
  const uint8_t* in = tensor.bytes.data() + begin / info->block_elements * info->block_bytes;
  switch (tensor.type) {
    case GgmlType::kF32:
      ToFloats(DType::kF32, in, out);
      return OkStatus();
    case GgmlType::kF16:
      ToFloats(DType::kF16, in, out);
      return OkStatus();
    case GgmlType::kBF16:
      ToFloats(DType::kBF16, in, out);
      return OkStatus();
    default:
      break;
  }
  for (size_t at = 0; at < out.size(); at += info->block_elements, in += info->block_bytes) {
    DecodeBlock(tensor.type, in, out.data() + at);
  }
  return OkStatus();
}

}  // namespace tidegate::tensor
