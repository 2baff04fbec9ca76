// Memory by the megabyte, and what it costs to get it from the kernel: on a virtual machine a fresh
// page of 4 KiB takes as long as copying three.
#pragma once

#include <malloc.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace tidegate {

// A hint for a large buffer that is filled once and let go: one page of 2 MiB is handed over in a
// fraction of the time that 512 small ones take. For memory of the caller's own that is not touched
// yet; where the kernel does not want to, nothing happens.
inline void AdviseHugePages(void* data, size_t bytes) {
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const auto begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~(kHugePage - 1);
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kHugePage - 1);
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

// For a process through which blocks of 256 KiB pass by the hundred: libc keeps so much of what is
// freed for the next ones, and gives only buffers of over 4 MiB back at once.
inline void KeepFreedMemory() {
  ::mallopt(M_MMAP_THRESHOLD, 4 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 32 << 20);
  ::mallopt(M_TOP_PAD, 1 << 20);
}

}  // namespace tidegate
