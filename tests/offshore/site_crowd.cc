#include "site_crowd.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "offshore/coordinator.h"

namespace tidegate::offshore {

Result<SiteCrowd> SiteCrowd::Enrol(const std::filesystem::path& dir, size_t sites,
                                   const nlohmann::json& submit) {
  SiteCrowd crowd;
  TG_ASSIGN_OR_RETURN(crowd.config_, LoadFederationConfig(dir));
  TG_ASSIGN_OR_RETURN(FederationKeys keys, LoadFederationKeys(dir));
  std::ranges::copy(keys.curve.public_key(), crowd.server_key_.begin());
  const crypto::VerifyKey key = keys.sign.verify_key();
  TG_ASSIGN_OR_RETURN(auto coordinator,
                      Coordinator::Open(dir, crowd.config_, std::move(keys), SystemClock()));
  TG_RETURN_IF_ERROR(coordinator->BeginTurn());
  const auto ask = [&](const nlohmann::json& request) -> Status {
    Status fatal;
    const auto answer = coordinator->OnRequest(request, &fatal);
    TG_RETURN_IF_ERROR(fatal);
    return answer ? OkStatus() : answer.error();
  };
  for (size_t i = 0; i < sites; ++i) {
    crowd.sites_.push_back(std::make_unique<FakeSite>(fmt::format("site-{:04}", i), key));
    TG_RETURN_IF_ERROR(
        ask({{"verb", "site_approve"}, {"request", crowd.sites_.back()->Request()}}));
  }
  TG_RETURN_IF_ERROR(ask(submit));
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const auto unsent, coordinator->EndTurn());
  return crowd;
}

void SiteCrowd::Dial() {
  for (auto& site : sites_) {
    drivers_.push_back(
        std::make_unique<SiteDriver>(*site, config_.address, config_.federation, server_key_));
  }
}

bool SiteCrowd::Step() {
  int wait = 1;
  return std::all_of(drivers_.begin(), drivers_.end(),
                     [&wait](const auto& driver) { return driver->Step(std::exchange(wait, 0)); });
}

size_t SiteCrowd::connected() const {
  return static_cast<size_t>(std::count_if(drivers_.begin(), drivers_.end(),
                                           [](const auto& driver) { return driver->connected(); }));
}

size_t SiteCrowd::ended(uint32_t rounds) const {
  return static_cast<size_t>(std::count_if(
      sites_.begin(), sites_.end(),
      [rounds](const auto& site) { return site->ended && site->receipts.size() == rounds; }));
}

}  // namespace tidegate::offshore
