#include "staging.h"

namespace tidegate::kernels {

Staging::Staging(const KernelTable& table, int threads, bool aligned)
    : device_(table.device),
      aligned_(aligned),
      workspace_(table.device == nullptr ? HostMemory() : table.device->memory),
      context_{threads, &workspace_, table.device == nullptr ? nullptr : device_->make_stream()} {}

Staging::~Staging() {
  for (const Region& region : regions_) device_->memory.release(region.memory);
  if (device_ != nullptr) device_->release_stream(context_.stream);
}

void* Staging::Place(void* bytes, size_t count, size_t offset) {
  if (device_ == nullptr) return static_cast<char*>(bytes) + offset;
  const size_t shift = aligned_ ? (16 - offset % 16) % 16 : 0;
  char* memory = static_cast<char*>(device_->memory.allocate(count + shift));
  regions_.push_back({bytes, count, memory, memory + shift});
  device_->to_device(context_, memory + shift, bytes, count);
  return memory + shift + offset;
}

void Staging::Fetch() {
  if (device_ == nullptr) return;
  for (const Region& region : regions_) {
    device_->to_host(context_, region.host, region.place, region.count);
  }
  device_->synchronize(context_);
}

}  // namespace tidegate::kernels
