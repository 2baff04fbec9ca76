// Where an engine's numbers lie: in the host's memory, or in that of the device that its kernels
// run on; and the ways in and out. On the host these are plain copies or nothing at all. Internal
// to src/model. Not thread-safe.
#pragma once

#include <cstring>

#include "kernels/table.h"
#include "model/memory.h"

namespace tidegate::model {

class Residence {
 public:
  Residence(const kernels::KernelTable& table, int threads)
      : device_(table.device),
        workspace_(device_ == nullptr ? kernels::HostMemory() : device_->memory),
        context_{threads, &workspace_, device_ == nullptr ? nullptr : device_->make_stream()} {}
  ~Residence() {
    if (device_ != nullptr) device_->release_stream(context_.stream);
  }
  Residence(const Residence&) = delete;
  Residence& operator=(const Residence&) = delete;

  const kernels::Context& context() const { return context_; }
  const kernels::Device* device() const { return device_; }
  size_t scratch_bytes() const { return workspace_.high_water(); }

  // Between places of the engine.
  void Copy(void* to, const void* from, size_t bytes) const {
    if (device_ != nullptr) return device_->copy(context_, to, from, bytes);
    std::memcpy(to, from, bytes);
  }
  void Zero(void* at, size_t bytes) const {
    if (device_ != nullptr) return device_->zero(context_, at, bytes);
    std::memset(at, 0, bytes);
  }
  // The host's numbers where the ops can read them: at `place` on a device, else as they are. On a
  // device they must stay until the next ToHost or Wait.
  template <typename T>
  const T* In(const T* numbers, size_t count, void* place) const {
    if (device_ == nullptr) return numbers;
    device_->to_device(context_, place, numbers, count * sizeof(T));
    return static_cast<const T*>(place);
  }
  // To the host, once all that was asked for before has been done.
  void ToHost(void* to, const void* from, size_t bytes) const {
    if (device_ == nullptr) {
      std::memcpy(to, from, bytes);
      return;
    }
    device_->to_host(context_, to, from, bytes);
    Wait();
  }
  void Wait() const {
    if (device_ != nullptr) device_->synchronize(context_);
  }

 private:
  const kernels::Device* device_;
  kernels::Workspace workspace_;
  kernels::Context context_;
};

}  // namespace tidegate::model
