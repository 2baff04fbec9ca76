// Aligned memory that a model holds: one owner, released on destruction. Not thread-safe.
#pragma once

#include <cstddef>
#include <new>
#include <utility>

namespace tidegate::model {

inline constexpr size_t kAlignment = 64;

// Uninitialised bytes at a 64-byte boundary. Throws std::bad_alloc when the system has none.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t bytes)
      : data_(static_cast<std::byte*>(::operator new (bytes, std::align_val_t{kAlignment}))),
        size_(bytes) {}
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~AlignedBuffer() {
    if (data_ != nullptr) ::operator delete (data_, std::align_val_t{kAlignment});
  }
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Hands out consecutive blocks of one buffer. With a null base it only adds up sizes: the same walk
// measures a layout and then lays it out.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}
  void* Take(size_t bytes) {
    void* block = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return block;
  }
  size_t used() const { return used_; }

 private:
  std::byte* base_;
  size_t used_ = 0;
};

}  // namespace tidegate::model
