#include "offshore/open_store.h"

#include <unistd.h>

namespace tidegate::offshore {

namespace fs = std::filesystem;

Result<std::unique_ptr<federation::SharedStore>> ConnectStore(const fs::path& dir,
                                                              const FederationConfig& config) {
  char host[65] = {};
  if (::gethostname(host, sizeof(host) - 1) != 0) host[0] = '?';
  federation::SharedStoreOptions options;
  options.url = config.store;
  options.folder = config.shared_folder;
  options.holder = fmt::format("{}:{} (pid {})", host, dir.native(), ::getpid());
  options.takeover_millis = config.takeover_millis;
  return federation::SharedStore::Connect(options);
}

Result<federation::OpenedStore> OpenStore(const fs::path& dir, const FederationConfig& config) {
  if (config.store.empty()) {
    TG_ASSIGN_OR_RETURN(auto store, federation::OpenSqliteStore(dir / "store.db"));
    return federation::OpenedStore{std::move(store), dir, 0};
  }
  TG_ASSIGN_OR_RETURN(const auto shared, ConnectStore(dir, config));
  TG_ASSIGN_OR_RETURN(std::optional<federation::OpenedStore> opened, shared->Take());
  if (opened) return std::move(*opened);
  return Unavailable("the coordinator {} has this federation; ask there, or stop it first",
                     shared->holder());
}

}  // namespace tidegate::offshore
