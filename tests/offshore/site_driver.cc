#include "site_driver.h"

#include "base/clock.h"

namespace tidegate::offshore {

SiteDriver::SiteDriver(FakeSite& site, const std::string& address,
                       const protocols::Id16& federation, std::span<const uint8_t, 32> server_key)
    : site_(site) {
  transport::ClientOptions options;
  options.address = address;
  std::copy(server_key.begin(), server_key.end(), options.server_key.begin());
  options.site = site.name();
  options.federation = federation;
  client_ = std::move(transport::Client::Connect(options, site.link()).value());
}

void SiteDriver::Say(const SiteMessage& message) {
  // Lost with a connection: LEASE says later what is missing.
  [[maybe_unused]] const Status sent = client_->Send(message.channel, message.type, message.body);
}

bool SiteDriver::Step(int timeout_millis) {
  std::vector<transport::Client::Event> events;
  if (!client_->Poll(timeout_millis, {}, &events).ok()) return false;
  for (const auto& event : events) {
    if (event.kind == transport::Client::Event::Kind::kMessage) {
      for (const SiteMessage& answer : site_.On(event.type, event.body)) Say(answer);
    } else if (event.kind == transport::Client::Event::Kind::kConnected) {
      for (const SiteMessage& answer : site_.Resume()) Say(answer);
    }
  }
  const int64_t now = SystemClock().MonotonicMillis();
  if (client_->connected() && now >= lease_due_) {
    lease_due_ = now + 500;
    Say(site_.Lease());
  }
  return true;
}

}  // namespace tidegate::offshore
