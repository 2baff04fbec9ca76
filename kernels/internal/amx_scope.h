// What every AMX kernel begins with. Only for files compiled with AMX flags; internal linkage (see
// avx512_tiles.h).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tidegate::kernels {
namespace {

// Eight tiles of 16 rows of 64 bytes while it lives, for this thread.
class AmxScope {
 public:
  AmxScope() {
    alignas(64) struct {
      uint8_t palette, start_row, reserved[14];
      uint16_t row_bytes[16];
      uint8_t rows[16];
    } shape = {};
    shape.palette = 1;
    for (int i = 0; i < 8; ++i) {
      shape.row_bytes[i] = 64;
      shape.rows[i] = 16;
    }
    _tile_loadconfig(&shape);
  }
  ~AmxScope() { _tile_release(); }
  AmxScope(const AmxScope&) = delete;
  AmxScope& operator=(const AmxScope&) = delete;
};

// The compiler does not know that tile loads read memory.
inline void BeforeTileLoads() { __asm__ volatile("" ::: "memory"); }

}  // namespace
}  // namespace tidegate::kernels
