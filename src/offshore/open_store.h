// The store that coordinator.toml names: SQLite in the coordinator's own folder, or one that
// several coordinators share.
#pragma once

#include <filesystem>
#include <memory>

#include "base/status.h"
#include "federation/server/shared_store.h"
#include "offshore/federation_config.h"

namespace tidegate::offshore {

// A connection to the store that `config` says is shared. Waits for nobody.
Result<std::unique_ptr<federation::SharedStore>> ConnectStore(const std::filesystem::path& dir,
                                                              const FederationConfig& config);

// At once: kUnavailable while another process has it, and names who.
Result<federation::OpenedStore> OpenStore(const std::filesystem::path& dir,
                                          const FederationConfig& config);

}  // namespace tidegate::offshore
