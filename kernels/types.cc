#include "kernels/types.h"

#include <algorithm>
#include <new>

namespace tidegate::kernels {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMinBlock = size_t{1} << 16;

}  // namespace

const Memory& HostMemory() {
  static constexpr Memory kHost = {
      [](size_t bytes) { return ::operator new (bytes, std::align_val_t{kAlignment}); },
      [](void* memory) { ::operator delete (memory, std::align_val_t{kAlignment}); }};
  return kHost;
}

struct Workspace::Block {
  Block(const Memory& from, size_t bytes)
      : memory(from), data(static_cast<char*>(from.allocate(bytes))), size(bytes) {}
  ~Block() { memory.release(data); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  const Memory& memory;
  char* data;
  size_t size;
  size_t used = 0;
};

Workspace::Workspace(const Memory& memory) : memory_(memory) {}
Workspace::~Workspace() = default;

void* Workspace::Allocate(size_t bytes) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  bytes = std::max(bytes + kAlignment - 1, kAlignment) / kAlignment * kAlignment;
  const bool empty = current_ == 0 && (blocks_.empty() || blocks_[0]->used == 0);
  // Nothing is in use: make one block of the pieces that past growth left.
  if (empty && blocks_.size() > 1) {
    blocks_.clear();
    blocks_.push_back(std::make_unique<Block>(memory_, std::max(bytes, high_water_)));
  }
  while (current_ < blocks_.size() && blocks_[current_]->size - blocks_[current_]->used < bytes) {
    ++current_;
    if (current_ < blocks_.size()) blocks_[current_]->used = 0;
  }
  if (current_ == blocks_.size()) {
    const size_t grown = blocks_.empty() ? kMinBlock : high_water_ / 2;
    blocks_.push_back(std::make_unique<Block>(memory_, std::max({bytes, grown, kMinBlock})));
  }
  Block& block = *blocks_[current_];
  void* memory = block.data + block.used;
  block.used += bytes;
  size_t in_use = 0;
  for (size_t i = 0; i <= current_; ++i) in_use += blocks_[i]->used;
  high_water_ = std::max(high_water_, in_use);
  return memory;
}

size_t Workspace::high_water() const { return high_water_; }

Workspace::Scope::Scope(Workspace& workspace)
    : workspace_(workspace),
      block_(workspace.current_),
      used_(workspace.current_ < workspace.blocks_.size()
                ? workspace.blocks_[workspace.current_]->used
                : 0) {}

Workspace::Scope::~Scope() {
  workspace_.current_ = block_;
  if (block_ < workspace_.blocks_.size()) workspace_.blocks_[block_]->used = used_;
}

}  // namespace tidegate::kernels
