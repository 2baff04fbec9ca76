// What every kernel shares: element types, the execution context, the scratch arena.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace tidegate::kernels {

// Element type of activations. kF64 is the reference backend's, the others the fast backends'.
enum class DType : uint8_t { kF32 = 0, kBF16 = 1, kF64 = 2 };

// Element type of gradients of trained parameters, of losses and of statistics (rstd, lse):
// double for kF64, float for the others. Such pointers are `void*` below when they follow it.
constexpr DType GradType(DType activation) {
  return activation == DType::kF64 ? DType::kF64 : DType::kF32;
}
constexpr size_t SizeOf(DType dtype) {
  return dtype == DType::kF64 ? 8 : dtype == DType::kF32 ? 4 : 2;
}

enum class Backend : uint8_t { kRef = 0, kCpu = 1, kCuda = 2 };

// Where a backend's buffers lie. `allocate` throws std::bad_alloc; what it gives is aligned to 64
// bytes at least.
struct Memory {
  void* (*allocate)(size_t bytes);
  void (*release)(void* memory);
};
const Memory& HostMemory();

// Scratch memory: a stack of 64-byte aligned blocks that grows to the high-water mark and is kept.
// Not thread-safe; one per context. `memory` must outlive it.
class Workspace {
 public:
  explicit Workspace(const Memory& memory = HostMemory());
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // Memory valid until the enclosing Scope ends. Throws std::bad_alloc when the system has none.
  void* Allocate(size_t bytes);
  template <typename T>
  T* Array(size_t n) {
    return static_cast<T*>(Allocate(n * sizeof(T)));
  }
  // The most bytes that were in use at once.
  size_t high_water() const;

  // Frees on destruction what was allocated since construction.
  class Scope {
   public:
    explicit Scope(Workspace& workspace);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& workspace_;
    size_t block_, used_;
  };

 private:
  struct Block;
  const Memory& memory_;
  std::vector<std::unique_ptr<Block>> blocks_;
  size_t current_ = 0;
  size_t high_water_ = 0;
};

// Passed to every kernel. `threads` is how many the kernel may use, the caller's included; results
// are the same bits for any value. A device's kernels are queued on `stream` (KernelTable::device
// makes them) and take their scratch from a workspace in that device's memory.
struct Context {
  int threads = 1;
  Workspace* workspace = nullptr;
  void* stream = nullptr;
};

}  // namespace tidegate::kernels
