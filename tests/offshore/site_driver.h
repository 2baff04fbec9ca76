// A FakeSite over real sockets.
#pragma once

#include <memory>

#include "fake_site.h"
#include "transport/client.h"

namespace tidegate::offshore {

class SiteDriver {
 public:
  SiteDriver(FakeSite& site, const std::string& address, const protocols::Id16& federation,
             std::span<const uint8_t, 32> server_key);

  // Waits at most that long for the wire and answers what came. False on a broken transport.
  bool Step(int timeout_millis);
  bool connected() const { return client_->connected(); }

 private:
  void Say(const SiteMessage& message);
  FakeSite& site_;
  std::unique_ptr<transport::Client> client_;
  int64_t lease_due_ = 0;
};

}  // namespace tidegate::offshore
