#include "watched_free.h"

#include <malloc.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace {

const uint8_t* needle_bytes = nullptr;
size_t needle_size = 0;
int blocks = 0, found = 0;

void LookAt(void* block) {
  if (block == nullptr || needle_bytes == nullptr) return;
  ++blocks;
  if (memmem(block, malloc_usable_size(block), needle_bytes, needle_size) != nullptr) ++found;
}

}  // namespace

void* operator new(size_t size) {
  if (void* block = std::malloc(size == 0 ? 1 : size)) return block;
  throw std::bad_alloc();
}
void operator delete(void* block) noexcept {
  LookAt(block);
  std::free(block);
}
void operator delete(void* block, size_t) noexcept {
  LookAt(block);
  std::free(block);
}

namespace tidegate::crypto {

int FreedWith(ByteSpan needle, const std::function<void()>& work) {
  blocks = found = 0;
  needle_size = needle.size();
  needle_bytes = needle.data();
  work();
  needle_bytes = nullptr;
  return blocks == 0 ? -1 : found;
}

}  // namespace tidegate::crypto
