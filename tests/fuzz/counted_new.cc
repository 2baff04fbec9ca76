#include "counted_new.h"

#if defined(TIDEGATE_FUZZ_SANITIZED)

namespace tidegate::fuzz {
void LimitHeldMemory(size_t) {}
}  // namespace tidegate::fuzz

#else

#include <malloc.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>

namespace tidegate::fuzz {
namespace {

std::atomic<size_t> g_held{0};
std::atomic<size_t> g_most{0};  // 0: no bound

void* Count(void* memory, size_t size) {
  if (memory == nullptr) throw std::bad_alloc();
  const size_t held =
      g_held.fetch_add(::malloc_usable_size(memory), std::memory_order_relaxed) + size;
  const size_t most = g_most.load(std::memory_order_relaxed);
  if (most != 0 && held > most) {
    g_most.store(0, std::memory_order_relaxed);
    std::fprintf(stderr, "fuzz: an allocation of %zu bytes goes over the target's limit\n", size);
    std::abort();
  }
  return memory;
}

void Free(void* memory) {
  if (memory == nullptr) return;
  g_held.fetch_sub(::malloc_usable_size(memory), std::memory_order_relaxed);
  std::free(memory);
}

// A size over the bound is not asked for at all: the system might give it.
void* Allocate(size_t size, size_t alignment) {
  const size_t most = g_most.load(std::memory_order_relaxed);
  if (most != 0 && size > most) {
    g_most.store(0, std::memory_order_relaxed);
    std::fprintf(stderr, "fuzz: an allocation of %zu bytes goes over the target's limit\n", size);
    std::abort();
  }
  const size_t wanted = size == 0 ? 1 : size;
  if (alignment <= alignof(std::max_align_t)) return Count(std::malloc(wanted), size);
  return Count(std::aligned_alloc(alignment, (wanted + alignment - 1) / alignment * alignment),
               size);
}

}  // namespace

void LimitHeldMemory(size_t bytes) {
  g_most.store(bytes == 0 ? 0 : g_held.load(std::memory_order_relaxed) + bytes,
               std::memory_order_relaxed);
}

}  // namespace tidegate::fuzz

void* operator new(size_t size) { return tidegate::fuzz::Allocate(size, 0); }
void* operator new[](size_t size) { return tidegate::fuzz::Allocate(size, 0); }
void* operator new(size_t size, std::align_val_t alignment) {
  return tidegate::fuzz::Allocate(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size, std::align_val_t alignment) {
  return tidegate::fuzz::Allocate(size, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { tidegate::fuzz::Free(memory); }
void operator delete[](void* memory) noexcept { tidegate::fuzz::Free(memory); }
void operator delete(void* memory, size_t) noexcept { tidegate::fuzz::Free(memory); }
void operator delete[](void* memory, size_t) noexcept { tidegate::fuzz::Free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { tidegate::fuzz::Free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { tidegate::fuzz::Free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  tidegate::fuzz::Free(memory);
}
void operator delete[](void* memory, size_t, std::align_val_t) noexcept {
  tidegate::fuzz::Free(memory);
}

#endif
