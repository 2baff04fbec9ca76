// C tiles of 32 × 32 in four registers. Weights are packed into panels of 32 columns as a call
// needs them (some 2 % of its time at 2048 rows); a panel's block of k stays in the first cache
// while the rows of an item, which stay in the second, pass it.
#include <omp.h>

#include "kernels/internal/amx_linear.h"
#include "kernels/internal/amx_scope.h"
#include "kernels/internal/avx512_tiles.h"

namespace tidegate::kernels {
namespace {

constexpr int64_t kPanel = 32;             // columns, and rows of a C tile
constexpr int64_t kDeep = 32;              // of k, a step
constexpr int64_t kStepBytes = 2 * 1024;   // a step of a panel: two tiles
constexpr int64_t kBlockSteps = 10;        // of k between two stores of C
constexpr int64_t kItemBytes = 768 << 10;  // rows of x that an item holds in the cache
constexpr int64_t kFewRows = 128;          // an item with fewer would read panels too often
constexpr int64_t kGroupRows = 256, kGroup = 8;
constexpr int64_t kChunkBytes = 4 << 20;  // packed weights at a time

int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

__mmask32 First(int64_t n) {
  return n >= 32 ? ~__mmask32{0} : n <= 0 ? 0 : static_cast<__mmask32>((1u << n) - 1);
}

// A matrix that is multiplied from the right, [k, n] or its transpose in memory.
struct Operand {
  const uint16_t* data;
  int64_t n, k;
  bool transposed;
};

// Panel `panel`, k from 32·step: sixteen rows of pairs along k for each half of its columns.
void PackStep(const Operand& b, int64_t panel, int64_t step, uint16_t* out) {
  const int64_t column = panel * kPanel, deep = step * kDeep;
  if (b.transposed) {
    const __mmask32 mask = First(b.k - deep);
    for (int64_t half = 0; half < 2; ++half) {
      __m512i x[16];
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t row = column + 16 * half + i;
        x[i] = row < b.n ? _mm512_maskz_loadu_epi16(mask, b.data + row * b.k + deep)
                         : _mm512_setzero_si512();
      }
      Transpose16(x);
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i) _mm512_storeu_si512(out + half * 512 + i * 32, x[i]);
    }
    return;
  }
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8,
                                       39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  const __mmask32 mask = First(b.n - column);
  for (int64_t i = 0; i < 16; ++i) {
    const int64_t row = deep + 2 * i;
    const uint16_t* at = b.data + row * b.n + column;
    const __m512i even = row < b.k ? _mm512_maskz_loadu_epi16(mask, at) : _mm512_setzero_si512();
    const __m512i odd =
        row + 1 < b.k ? _mm512_maskz_loadu_epi16(mask, at + b.n) : _mm512_setzero_si512();
    _mm512_storeu_si512(out + i * 32, _mm512_permutex2var_epi16(even, low, odd));
    _mm512_storeu_si512(out + 512 + i * 32, _mm512_permutex2var_epi16(even, high, odd));
  }
}

void PackPanel(const Operand& b, int64_t panel, uint16_t* out) {
  for (int64_t step = 0; step * kDeep < b.k; ++step) {
    PackStep(b, panel, step, out + step * kStepBytes / 2);
  }
}

// Adds `steps` of 32 rows of A and a packed panel to the tiles 0 to 3. stride in bytes.
inline void Multiply(int64_t steps, const char* a, int64_t stride, const char* b) {
  for (int64_t s = 0; s < steps; ++s) {
    _tile_loadd(4, a, stride);
    _tile_loadd(6, b, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + 1024, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + 16 * stride, stride);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    a += 64;
    b += kStepBytes;
  }
}

inline void Zero() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

inline void Load(const float* c) {
  _tile_loadd(0, c, 4 * kPanel);
  _tile_loadd(1, c + 16, 4 * kPanel);
  _tile_loadd(2, c + 16 * kPanel, 4 * kPanel);
  _tile_loadd(3, c + 16 * kPanel + 16, 4 * kPanel);
}

inline void Store(float* c) {
  _tile_stored(0, c, 4 * kPanel);
  _tile_stored(1, c + 16, 4 * kPanel);
  _tile_stored(2, c + 16 * kPanel, 4 * kPanel);
  _tile_stored(3, c + 16 * kPanel + 16, 4 * kPanel);
}

inline __m512 Widen(const uint16_t* in) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

class Linear {
 public:
  Linear(const Context& context, const AmxLinearArgs& args)
      : context_(context),
        args_(args),
        w_{args.w, args.n, args.k, args.transposed},
        a_{args.a, args.r, args.k, args.transposed},
        b_{args.b, args.n, args.r, args.transposed},
        steps_((args.k + kDeep - 1) / kDeep),
        rank_(RoundUp(args.r, kPanel)),
        panels_(args.n / kPanel),
        scope_(*context.workspace) {
    Workspace& workspace = *context.workspace;
    const int64_t blocks = (steps_ + kBlockSteps - 1) / kBlockSteps;
    block_steps_ = (steps_ + blocks - 1) / blocks;
    chunk_ = Min(panels_, Max(1, kChunkBytes / (steps_ * kStepBytes)));
    // Enough items for all threads, of rows that fit the cache.
    int64_t fit = kItemBytes / (args.k * 2) / kPanel * kPanel;
    if (fit < kFewRows) {
      // Long rows: a block of k of them stays in the cache instead, while a group of panels passes.
      fit = kGroupRows;
      group_ = kGroup;
    }
    const int64_t share = (args.m + context.threads - 1) / context.threads;
    const int64_t parts = (share + fit - 1) / fit;
    item_rows_ = RoundUp((share + parts - 1) / parts, kPanel);
    const auto halves = [&](int64_t count) {
      return workspace.Array<uint16_t>(static_cast<size_t>(count));
    };
    packed_w_ = halves(chunk_ * steps_ * kStepBytes / 2);
    packed_b_ = halves(chunk_ * rank_ * kPanel);
    packed_a_ = halves(rank_ / kPanel * steps_ * kStepBytes / 2);
    padded_u_ = halves(RoundUp(args.m, kPanel) * rank_);
    last_rows_ = args.m % kPanel == 0 ? nullptr : halves(kPanel * args.k);
    scratch_floats_ = kPanel * (item_rows_ * group_ + kPanel);
    scratch_ = workspace.Array<float>(static_cast<size_t>(scratch_floats_ * context.threads));
  }

  void Run() {
    if (last_rows_ != nullptr) CopyLastRows();
    const int64_t items = (args_.m + item_rows_ - 1) / item_rows_;
#pragma omp parallel num_threads(context_.threads)
    {
      const AmxScope tiles;
      float* scratch = scratch_ + omp_get_thread_num() * scratch_floats_;
#pragma omp for schedule(static) nowait
      for (int64_t panel = 0; panel < rank_ / kPanel; ++panel) {
        PackPanel(a_, panel, packed_a_ + panel * steps_ * kStepBytes / 2);
      }
      for (int64_t first = 0; first < panels_; first += chunk_) {
        const int64_t count = Min(chunk_, panels_ - first);
#pragma omp for schedule(static)
        for (int64_t panel = 0; panel < count; ++panel) {
          PackPanel(w_, first + panel, packed_w_ + panel * steps_ * kStepBytes / 2);
          PackPanel(b_, first + panel, packed_b_ + panel * rank_ * kPanel);
        }
#pragma omp for schedule(static)
        for (int64_t item = 0; item < items; ++item) {
          const int64_t begin = item * item_rows_, end = Min(begin + item_rows_, args_.m);
          if (first == 0) LowRank(begin, end, scratch);
          for (int64_t panel = 0; panel < count; panel += group_) {
            Group(begin, end, first, panel, Min(group_, count - panel), scratch);
          }
        }
      }
    }
  }

 private:
  // The rows of x past the last multiple of 32, filled up with zeros.
  void CopyLastRows() {
    const int64_t first = args_.m / kPanel * kPanel;
    const size_t row = static_cast<size_t>(args_.k) * 2;
    __builtin_memcpy(last_rows_, args_.x + first * args_.k,
                     static_cast<size_t>(args_.m - first) * row);
    __builtin_memset(last_rows_ + (args_.m - first) * args_.k, 0,
                     static_cast<size_t>(first + kPanel - args_.m) * row);
  }

  const char* Rows(int64_t row) const {
    const bool whole = row + kPanel <= args_.m;
    return reinterpret_cast<const char*>(whole ? args_.x + row * args_.k : last_rows_);
  }

  // u of rows begin to end: dense for the caller, and padded to multiples of 32 columns.
  void LowRank(int64_t begin, int64_t end, float* c) const {
    for (int64_t panel = 0; panel < rank_ / kPanel; ++panel) {
      const uint16_t* packed = packed_a_ + panel * steps_ * kStepBytes / 2;
      const __mmask32 mask = First(args_.r - panel * kPanel);
      for (int64_t row = begin; row < end; row += kPanel) {
        Zero();
        BeforeTileLoads();
        Multiply(steps_, Rows(row), 2 * args_.k, reinterpret_cast<const char*>(packed));
        Store(c);
        for (int64_t i = 0; i < kPanel; ++i) {
          const __m512i both =
              Narrow(_mm512_loadu_ps(c + i * kPanel), _mm512_loadu_ps(c + i * kPanel + 16));
          _mm512_storeu_si512(padded_u_ + (row + i) * rank_ + panel * kPanel, both);
          if (row + i < end) {
            _mm512_mask_storeu_epi16(args_.u + (row + i) * args_.r + panel * kPanel, mask, both);
          }
        }
      }
    }
  }

  static __m512i Narrow(__m512 low, __m512 high) {
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
  }

  // Panels `panel` … of the chunk that begins at panel `first` of all.
  void Group(int64_t begin, int64_t end, int64_t first, int64_t panel, int64_t count,
             float* scratch) const {
    for (int64_t step = 0; step < steps_; step += block_steps_) {
      for (int64_t i = 0; i < count; ++i) {
        // Sums of the item's rows between blocks of k.
        float* sums = scratch + kPanel * kPanel + i * item_rows_ * kPanel;
        PanelBlock(begin, end, first + panel + i, step,
                   packed_w_ + (panel + i) * steps_ * kStepBytes / 2,
                   packed_b_ + (panel + i) * rank_ * kPanel, sums, scratch);
      }
    }
  }

  void PanelBlock(int64_t begin, int64_t end, int64_t panel, int64_t step, const uint16_t* w,
                  const uint16_t* b, float* sums, float* tile) const {
    const int64_t count = Min(block_steps_, steps_ - step);
    const char* packed = reinterpret_cast<const char*>(w) + step * kStepBytes;
    const bool last = step + count == steps_;
    for (int64_t row = begin; row < end; row += kPanel) {
      float* sum = sums + (row - begin) * kPanel;
      BeforeTileLoads();
      if (step == 0) {
        Zero();
      } else {
        Load(sum);
      }
      Multiply(count, Rows(row) + 64 * step, 2 * args_.k, packed);
      if (!last) {
        Store(sum);
        continue;
      }
      Multiply(rank_ / kDeep, reinterpret_cast<const char*>(padded_u_ + row * rank_), 2 * rank_,
               reinterpret_cast<const char*>(b));
      Store(tile);
      Finish(row, Min(kPanel, end - row), panel * kPanel, tile);
    }
  }

  void Finish(int64_t row, int64_t rows, int64_t column, const float* c) const {
    __m512 low = _mm512_setzero_ps(), high = low;
    if (args_.bias != nullptr) {
      low = Widen(args_.bias + column);
      high = Widen(args_.bias + column + 16);
    }
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t at = (row + i) * args_.n + column;
      __m512 left = _mm512_add_ps(_mm512_loadu_ps(c + i * kPanel), low);
      __m512 right = _mm512_add_ps(_mm512_loadu_ps(c + i * kPanel + 16), high);
      if (args_.residual != nullptr) {
        left = _mm512_add_ps(left, Widen(args_.residual + at));
        right = _mm512_add_ps(right, Widen(args_.residual + at + 16));
      }
      _mm512_storeu_si512(args_.y + at, Narrow(left, right));
    }
  }

  const Context& context_;
  const AmxLinearArgs& args_;
  const Operand w_, a_, b_;
  const int64_t steps_;  // of k
  const int64_t rank_;   // in whole steps
  const int64_t panels_;
  const Workspace::Scope scope_;
  int64_t group_ = 1;  // panels that pass a block of k of the item's rows
  int64_t block_steps_, chunk_, item_rows_, scratch_floats_;
  uint16_t* packed_w_;   // [panel of the chunk][step][two tiles]
  uint16_t* packed_b_;   // [panel of the chunk][step of the rank][two tiles]
  uint16_t* packed_a_;   // [panel of the rank][step][two tiles]
  uint16_t* padded_u_;   // [m, in whole panels][rank_]
  uint16_t* last_rows_;  // [32][k], null when m is a multiple
  float* scratch_;       // a thread: a C tile, and those of an item's rows
};

}  // namespace

void AmxLinear(const Context& context, const AmxLinearArgs& args) { Linear(context, args).Run(); }

}  // namespace tidegate::kernels
