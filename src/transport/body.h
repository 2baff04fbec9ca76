// The body of a received message, in the memory that libzmq received it into: a block is not
// copied until it is written. Copies share it. Immutable.
#pragma once

#include <memory>
#include <utility>

#include "base/bytes.h"

namespace tidegate::transport {

class Body {
 public:
  Body() = default;
  // `owner` keeps `bytes` alive.
  Body(ByteSpan bytes, std::shared_ptr<const void> owner)
      : bytes_(bytes), owner_(std::move(owner)) {}
  operator ByteSpan() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  const uint8_t* data() const { return bytes_.data(); }

 private:
  ByteSpan bytes_;
  std::shared_ptr<const void> owner_;
};

}  // namespace tidegate::transport
