// Aligned memory that a model holds, the host's or a device's: one owner, released on destruction.
// Not thread-safe.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <new>
#include <utility>
#include <vector>

#include "kernels/table.h"

namespace tidegate::model {

inline constexpr size_t kAlignment = 64;
inline constexpr size_t kHugePage = 2 << 20;

// Uninitialised bytes at a 64-byte boundary. Large ones lie at a huge page's and ask for huge
// pages: with pages of 4 KiB two cores read weights at 24 GB/s where 40 are to be had (measured on
// a Xeon guest). With a device they are that device's, for its kernels alone to read and write.
// Throws std::bad_alloc when the system has none.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t bytes)
      : data_(static_cast<std::byte*>(::operator new(bytes, AlignmentOf(bytes)))), size_(bytes) {
    // Refused means slower, not wrong.
    if (size_ >= kHugePage) (void)::madvise(data_, size_, MADV_HUGEPAGE);
  }
  AlignedBuffer(size_t bytes, const kernels::Device* device) {
    if (device == nullptr) {
      *this = AlignedBuffer(bytes);
      return;
    }
    data_ = static_cast<std::byte*>(device->memory.allocate(bytes));
    size_ = bytes;
    device_ = device;
  }
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        device_(std::exchange(other.device_, nullptr)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(device_, other.device_);
    return *this;
  }
  ~AlignedBuffer() {
    if (data_ == nullptr) return;
    if (device_ != nullptr) {
      device_->memory.release(data_);
    } else {
      ::operator delete(data_, AlignmentOf(size_));
    }
  }
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  static std::align_val_t AlignmentOf(size_t bytes) {
    return std::align_val_t{bytes >= kHugePage ? kHugePage : kAlignment};
  }

  std::byte* data_ = nullptr;
  size_t size_ = 0;
  const kernels::Device* device_ = nullptr;
};

// Many blocks, given back together: small ones lie side by side in large buffers, so that they too
// are on huge pages. What is not used of the last buffer is never touched.
class Arena {
 public:
  explicit Arena(const kernels::Device* device = nullptr) : device_(device) {}
  // 64-byte aligned and uninitialised, at one place for good. Throws std::bad_alloc.
  std::byte* Take(size_t bytes) {
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (buffers_.empty() || buffers_.back().size() - used_ < bytes) {
      buffers_.emplace_back(std::max(bytes, kBuffer), device_);
      used_ = 0;
    }
    std::byte* block = buffers_.back().data() + used_;
    used_ += bytes;
    return block;
  }

 private:
  static constexpr size_t kBuffer = 64 << 20;
  const kernels::Device* device_;
  std::vector<AlignedBuffer> buffers_;
  size_t used_ = 0;  // of the last
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
