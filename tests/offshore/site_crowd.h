// Many scripted sites of one coordinator process over real connections, in one thread: for tests
// and benchmarks of many. Not thread-safe.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fake_site.h"
#include "offshore/federation_config.h"
#include "site_driver.h"

namespace tidegate::offshore {

class SiteCrowd {
 public:
  // Enrols so many sites in the folder of a coordinator that does not run, and submits the job
  // (a verb's request).
  static Result<SiteCrowd> Enrol(const std::filesystem::path& dir, size_t sites,
                                 const nlohmann::json& submit);

  // Once the coordinator runs.
  void Dial();
  // One look at every connection, of which the first is waited for a millisecond. False when a
  // transport is broken.
  bool Step();
  size_t connected() const;
  // Sites that have the final adapter and a receipt of every round.
  size_t ended(uint32_t rounds) const;
  const std::vector<std::unique_ptr<FakeSite>>& sites() const { return sites_; }

 private:
  FederationConfig config_;
  std::array<uint8_t, 32> server_key_{};
  std::vector<std::unique_ptr<FakeSite>> sites_;
  std::vector<std::unique_ptr<SiteDriver>> drivers_;
};

}  // namespace tidegate::offshore
