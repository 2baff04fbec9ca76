// COORD/coordinator.toml and COORD/keys: which federation this coordinator runs. Values.
#pragma once

#include <filesystem>
#include <string>

#include "base/status.h"
#include "crypto/keyfile.h"
#include "protocols/documents.h"

namespace tidegate::offshore {

struct FederationConfig {
  std::string name;
  protocols::Id16 federation{};
  std::string address;  // "tcp://203.0.113.5:7443": where sites dial; goes into approvals
  std::string listen;   // "tcp://*:7443": where we bind; from the address' port when not given
  uint64_t block_store_bytes = 64ull << 30;
  uint32_t keep_versions = 8;  // adapter versions of a job whose content is kept
  uint32_t lease_millis = 10'000;
  // Shared with other coordinators of the federation: a postgresql:// url without a password, and
  // the folder that all of them reach. Empty: the store is in this folder, and this process' alone.
  std::string store;
  std::filesystem::path shared_folder;
  uint32_t takeover_millis = 10'000;  // a coordinator that is silent for so long is taken over
  // "127.0.0.1:7444": the status page and Prometheus' metrics; empty: none.
  std::string web_host;
  int web_port = 0;
};

// Unknown keys are errors, with the line.
Result<FederationConfig> LoadFederationConfig(const std::filesystem::path& dir);

struct FederationKeys {
  crypto::SigningKey sign;
  crypto::CurveKeyPair curve;
};
// COORD/keys/sign.key and link.key.
Result<FederationKeys> LoadFederationKeys(const std::filesystem::path& dir);

}  // namespace tidegate::offshore
