// The ZAP handler (RFC 27): the allow-list of enrolled CURVE keys. It answers before any bind and
// fails closed: a key that is not listed, or any question it does not understand, is refused.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "transport/socket.h"

namespace tidegate::transport {

using CurveKey = std::array<uint8_t, 32>;

class ZapHandler {
 public:
  static Result<std::unique_ptr<ZapHandler>> Start(const ZmqContext& context);
  ~ZapHandler();

  // Thread-safe. A key is one site's; a site may have two while it changes keys.
  void Allow(const std::string& site, const CurveKey& key);
  void Revoke(const std::string& site);
  bool Lists(const std::string& site) const;
  uint64_t refused() const;

 private:
  ZapHandler() = default;
  void Serve();
  std::string SiteOf(ByteSpan key) const;

  ZmqSocket socket_, stop_in_, stop_out_;
  mutable std::mutex mutex_;
  std::map<CurveKey, std::string> keys_;
  uint64_t refused_ = 0;
  std::thread thread_;
};

}  // namespace tidegate::transport
