// Buffers of a test where a backend can reach them: as they are for the CPU, copied to a device and
// back for others.
#pragma once

#include <deque>
#include <memory>

#include "kernels/table.h"

namespace tidegate::kernels {

class Staging {
 public:
  // `aligned`: whether places are moved to a multiple of 16 bytes on a device.
  explicit Staging(const KernelTable& table, int threads = 1, bool aligned = false);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  const Context& context() const { return context_; }
  Workspace& workspace() { return workspace_; }

  // Where the backend finds bytes[offset]. The bytes must outlive this.
  void* Place(void* bytes, size_t count, size_t offset = 0);
  const void* Place(const void* bytes, size_t count) {
    return Place(const_cast<void*>(bytes), count);
  }
  template <typename T>
  const T* Array(const T* values, size_t count) {
    if (values == nullptr) return nullptr;
    return static_cast<const T*>(Place(static_cast<const void*>(values), count * sizeof(T)));
  }
  // All that was placed, as the ops have left it, back into the host's bytes.
  void Fetch();

 private:
  struct Region {
    void* host;
    size_t count;
    void* memory;  // the device's
    void* place;   // of the first byte
  };

  const Device* device_;
  bool aligned_;
  Workspace workspace_;
  Context context_;
  std::deque<Region> regions_;
};

}  // namespace tidegate::kernels
