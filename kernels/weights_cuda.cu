// Weight matrices on a device: kept as they came, unpacked into the activation type where a product
// needs them.
#include <memory>

#include "kernels/internal/cuda_launch.h"
#include "kernels/internal/cuda_ops.h"
#include "kernels/internal/cuda_vectors.h"

namespace tidegate::kernels {
namespace {

constexpr int kThreads = 256;

// The parts of a quantized matrix on the device.
struct Parts {
  const uint8_t* codes;
  const float* scales;
  const uint8_t* scale_codes;
  const float* scale_map;
  const float* offset;
};

SIMT_DEVICE float Nf4(uint32_t code) {
  // kNf4Values; device code can't read the host's.
  constexpr float kValues[16] = {
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
  return kValues[code];
}

template <WeightFormat kFormat>
SIMT_DEVICE float ScaleOfBlock(const Parts& parts, int64_t block) {
  if (kFormat == WeightFormat::kNf4) return parts.scales[block];
  // Apart, as the host has it: a fused multiply-add would round once less.
  const float scale = parts.scale_map[parts.scale_codes[block]] * parts.scales[block / kScaleBlock];
  return scale + *parts.offset;
}

// Values begin … begin+count-1 of the matrix, eight a thread; begin is a multiple of 64, so that
// eight lie in one block of 64.
template <WeightFormat kFormat, typename T>
SIMT_KERNEL(kThreads)
Unpack(Parts parts, int64_t k, int64_t begin, int64_t count, T* out) {
  const int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kPack;
  const int64_t left = count - at, first = begin + at;
  if (left <= 0) return;
  float v[kPack];
  if (kFormat == WeightFormat::kInt8) {
    SIMT_UNROLL
    for (int e = 0; e < kPack; ++e) {
      if (e >= left) break;
      const float scale = parts.scales[(first + e) / k] / 127.0f;
      v[e] = static_cast<float>(reinterpret_cast<const int8_t*>(parts.codes)[first + e]) * scale;
    }
  } else {
    const float scale = ScaleOfBlock<kFormat>(parts, first / kQuantBlock);
    SIMT_UNROLL
    for (int e = 0; e < kPack; ++e) {
      if (e >= left) break;
      const uint32_t pair = parts.codes[(first + e) / 2];
      v[e] = Nf4(e % 2 == 0 ? pair >> 4 : pair & 15) * scale;
    }
  }
  Store8(out + at, left, left >= kPack, v);
}

SIMT_KERNEL(kThreads)
WidenAll(int64_t count, const BF16* in, float* out) {
  const int64_t first = int64_t{blockIdx.x} * (kThreads * kPack) + threadIdx.x;
  SIMT_UNROLL
  for (int e = 0; e < kPack; ++e) {
    const int64_t i = first + e * kThreads;
    if (i < count) out[i] = Widen(in[i]);
  }
}

Parts PartsOf(const CudaWeights& w) {
  const QuantizedLayout at = LayoutOf(w.format(), w.n(), w.k());
  const uint8_t* bytes = static_cast<const uint8_t*>(w.data());
  return {bytes, reinterpret_cast<const float*>(bytes + at.scales), bytes + at.scale_codes,
          w.scale_map(), reinterpret_cast<const float*>(bytes + at.offset)};
}

template <typename T>
const T* UnpackRows(const Context& context, const CudaWeights& w, int64_t begin, int64_t rows) {
  // From the begin of a block on.
  const int64_t first = begin * w.k(), from = first / kQuantBlock * kQuantBlock;
  const int64_t count = first + rows * w.k() - from;
  T* out = context.workspace->Array<T>(static_cast<size_t>(count));
  const auto unpack = w.format() == WeightFormat::kInt8  ? Unpack<WeightFormat::kInt8, T>
                      : w.format() == WeightFormat::kNf4 ? Unpack<WeightFormat::kNf4, T>
                                                         : Unpack<WeightFormat::kNf4Double, T>;
  Launch(context, "unpacking weights", unpack, BlocksFor(count, kThreads * kPack), kThreads, 0,
         PartsOf(w), w.k(), from, count, out);
  return out + (first - from);
}

}  // namespace

CudaWeights::CudaWeights(const WeightSource& source) : StoredWeights(source) {
  if (source.format != WeightFormat::kNf4Double) return;
  const Device& device = CudaDevice();
  const std::array<float, 256>& map = ScaleMap();
  scale_map_ = static_cast<float*>(device.memory.allocate(sizeof(map)));
  const Context context;
  device.to_device(context, scale_map_, map.data(), sizeof(map));
  device.synchronize(context);
}

CudaWeights::~CudaWeights() {
  if (scale_map_ != nullptr) CudaDevice().memory.release(scale_map_);
}

template <typename T>
std::unique_ptr<PreparedWeights> PrepareWeightsCuda(const WeightSource& source) {
  const bool taken = source.format == WeightFormat::kBF16 || IsQuantized(source.format) ||
                     (sizeof(T) == 4 && source.format == WeightFormat::kF32);
  return taken ? std::make_unique<CudaWeights>(source) : nullptr;
}

template <typename T>
const T* WeightRows(const Context& context, const PreparedWeights* prepared, int64_t begin,
                    int64_t rows) {
  const CudaWeights& w = *static_cast<const CudaWeights*>(prepared);
  if (w.LiesAs(kTypeOf<T>)) return static_cast<const T*>(w.data()) + begin * w.k();
  if (IsQuantized(w.format())) return UnpackRows<T>(context, w, begin, rows);
  // bf16 for a table of floats.
  const int64_t count = rows * w.k();
  float* out = context.workspace->Array<float>(static_cast<size_t>(count));
  Launch(context, "widening weights", WidenAll, BlocksFor(count, kThreads * kPack), kThreads, 0,
         count, static_cast<const BF16*>(w.data()) + begin * w.k(), out);
  return reinterpret_cast<const T*>(out);
}

template std::unique_ptr<PreparedWeights> PrepareWeightsCuda<float>(const WeightSource&);
template std::unique_ptr<PreparedWeights> PrepareWeightsCuda<BF16>(const WeightSource&);
template const float* WeightRows<float>(const Context&, const PreparedWeights*, int64_t, int64_t);
template const BF16* WeightRows<BF16>(const Context&, const PreparedWeights*, int64_t, int64_t);

}  // namespace tidegate::kernels
