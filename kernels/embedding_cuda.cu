// Token embedding, its gradient, and sums over rows, on CUDA. No atomics: each place has one writer
// that adds in the order of the rows.
#include "kernels/internal/cuda_launch.h"
#include "kernels/internal/cuda_ops.h"
#include "kernels/internal/cuda_vectors.h"

namespace tidegate::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kSumRows = 128;  // rows of one partial sum

template <typename From, typename T>
SIMT_KERNEL(kThreads)
CopyRows(int64_t k, const int32_t* ids, const From* table, T* out, bool aligned) {
  const From* row = table + int64_t{ids[blockIdx.x]} * k;
  T* to = out + int64_t{blockIdx.x} * k;
  float v[kPack];
  for (int64_t i = int64_t{threadIdx.x} * kPack; i < k; i += kThreads * kPack) {
    Load8(row + i, k - i, aligned, v);
    Store8(to + i, k - i, aligned, v);
  }
}

// The block of the first row with an id adds all rows with that id; those of the others end.
template <typename T>
SIMT_KERNEL(kThreads)
AddRowsOfId(int64_t m, int64_t k, const int32_t* ids, const T* x, const float* weights, float sign,
            float* out) {
  SIMT_SHARED(uint32_t, found, [kThreads / simt::kWarp]);
  const int64_t first = blockIdx.x;
  const int32_t id = ids[first];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / simt::kWarp;
  for (int64_t begin = 0; begin < first; begin += kThreads) {
    const int64_t i = begin + thread;
    const uint32_t same = __ballot_sync(simt::kAllLanes, i < first && ids[i < m ? i : 0] == id);
    if (thread % simt::kWarp == 0) found[warp] = same;
    __syncthreads();
    uint32_t any = 0;
    for (int w = 0; w < kThreads / simt::kWarp; ++w) any |= found[w];
    if (any != 0) return;
    __syncthreads();
  }
  float* row = out + int64_t{id} * k;
  for (int64_t begin = first / kThreads * kThreads; begin < m; begin += kThreads) {
    const int64_t i = begin + thread;
    const bool wanted = i >= first && i < m && ids[i < m ? i : 0] == id;
    const uint32_t same = __ballot_sync(simt::kAllLanes, wanted);
    if (thread % simt::kWarp == 0) found[warp] = same;
    __syncthreads();
    for (int w = 0; w < kThreads / simt::kWarp; ++w) {
      for (uint32_t left = found[w]; left != 0; left &= left - 1) {
        const int64_t from = begin + w * simt::kWarp + __ffs(static_cast<int>(left)) - 1;
        const float factor = weights == nullptr ? sign : sign * weights[from];
        for (int64_t j = thread; j < k; j += kThreads) row[j] += factor * Widen(x[from * k + j]);
      }
    }
    __syncthreads();
  }
}

template <typename T>
SIMT_KERNEL(kThreads)
SumRowsOfBlock(int64_t m, int64_t n, const T* x, float* partial) {
  const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= n) return;
  const int64_t begin = int64_t{blockIdx.y} * kSumRows;
  const int64_t end = begin + kSumRows < m ? begin + kSumRows : m;
  float sum = 0;
  for (int64_t row = begin; row < end; ++row) sum += Widen(x[row * n + column]);
  partial[blockIdx.y * n + column] = sum;
}

SIMT_KERNEL(kThreads)
AddParts(const float* partial, int64_t rows, int64_t n, float* out) {
  const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= n) return;
  float sum = 0;
  for (int64_t row = 0; row < rows; ++row) sum += partial[row * n + column];
  out[column] += sum;
}

template <typename From, typename T>
void Copy(const Context& context, const EmbeddingArgs& args) {
  const int64_t k = args.table.k;
  Launch(context, "embedding", CopyRows<From, T>, static_cast<unsigned>(args.m), kThreads, 0, k,
         args.ids, static_cast<const From*>(args.table.data), static_cast<T*>(args.out),
         k % kPack == 0 && AllAligned16(args.table.data, args.out));
}

}  // namespace

template <typename T>
void EmbeddingCuda(const Context& context, const EmbeddingArgs& args) {
  if (args.table.format == WeightFormat::kF32) return Copy<float, T>(context, args);
  Copy<BF16, T>(context, args);
}

template <typename T>
void EmbeddingGradientCuda(const Context& context, const EmbeddingGradientArgs& args) {
  AddRowsById(context, args.m, args.k, args.ids, static_cast<const T*>(args.dx), nullptr, 1.0f,
              static_cast<float*>(args.dtable));
}

template <typename T>
void AddRowsById(const Context& context, int64_t m, int64_t k, const int32_t* ids, const T* x,
                 const float* weights, float sign, float* out) {
  Launch(context, "sum by id", AddRowsOfId<T>, static_cast<unsigned>(m), kThreads, 0, m, k, ids, x,
         weights, sign, out);
}

void AddColumnSums(const Context& context, const float* partial, int64_t rows, int64_t n,
                   float* out) {
  Launch(context, "sum of rows", AddParts, BlocksFor(n, kThreads), kThreads, 0, partial, rows, n,
         out);
}

template <typename T>
void AddRowSums(const Context& context, const T* x, int64_t m, int64_t n, float* out) {
  if (m == 0) return;
  const Workspace::Scope scope(*context.workspace);
  const unsigned parts = BlocksFor(m, kSumRows);
  float* partial = context.workspace->Array<float>(static_cast<size_t>(parts * n));
  Launch(context, "sum of rows", SumRowsOfBlock<T>, dim3(BlocksFor(n, kThreads), parts), kThreads,
         0, m, n, x, partial);
  AddColumnSums(context, partial, parts, n, out);
}

template void EmbeddingCuda<float>(const Context&, const EmbeddingArgs&);
template void EmbeddingCuda<BF16>(const Context&, const EmbeddingArgs&);
template void EmbeddingGradientCuda<float>(const Context&, const EmbeddingGradientArgs&);
template void EmbeddingGradientCuda<BF16>(const Context&, const EmbeddingGradientArgs&);
template void AddRowsById<float>(const Context&, int64_t, int64_t, const int32_t*, const float*,
                                 const float*, float, float*);
template void AddRowsById<BF16>(const Context&, int64_t, int64_t, const int32_t*, const BF16*,
                                const float*, float, float*);
template void AddRowSums<float>(const Context&, const float*, int64_t, int64_t, float*);
template void AddRowSums<BF16>(const Context&, const BF16*, int64_t, int64_t, float*);

}  // namespace tidegate::kernels
