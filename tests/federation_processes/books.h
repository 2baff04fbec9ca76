// What a federation has written down, read from its folder once its processes have ended, and the
// claims that hold of it whatever happened meanwhile.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "crypto/sign.h"
#include "federation/rounds/round.h"
#include "gate/ledger_entry.h"
#include "protocols/documents.h"

namespace tidegate::federation_processes {

struct SiteBooks {
  Bytes ledger;
  std::vector<gate::IntentLeaf> intents;
  std::vector<protocols::Signed> receipts;
  std::vector<gate::AdapterLeaf> adapters;
  std::vector<gate::DatasetLeaf> datasets;
  protocols::AdapterManifest adapter;  // the newest it has
  std::vector<float> parameters;       // of that, from the blocks of its inbox
  uint64_t spooled = 0;                // blocks that wait for a receipt
};
Result<SiteBooks> ReadSite(const std::filesystem::path& site_dir);

struct CoordinatorBooks {
  std::optional<crypto::VerifyKey> key;
  protocols::Id16 id{};  // of the job
  protocols::JobManifest job;
  std::vector<federation::Event> events;
  std::vector<protocols::AdapterManifest> versions;                        // from 0
  std::vector<std::vector<float>> parameters;                              // by version
  std::map<std::pair<uint32_t, std::string>, protocols::Signed> receipts;  // by round, site
  uint64_t equivocations = 0;

  // Rounds whose sum has an update of this site.
  std::vector<uint32_t> Counted(const std::string& site) const;
  const std::vector<float>& Final() const { return parameters.back(); }
};
// Of the one job there is.
Result<CoordinatorBooks> ReadCoordinator(const std::filesystem::path& coordinator_dir);

// As GoogleTest failures that begin with `site`: one intent and one receipt for each of `rounds`
// and no other, the receipts those that the coordinator has, the ledger verified against each.
void ExpectExactlyOnce(const CoordinatorBooks& coordinator, const SiteBooks& books,
                       const std::string& site, const std::vector<uint32_t>& rounds);
// The site's newest adapter is the coordinator's last, bit for bit, and nothing waits there.
void ExpectFinalAdapter(const CoordinatorBooks& coordinator, const SiteBooks& books,
                        const std::string& site);

}  // namespace tidegate::federation_processes
