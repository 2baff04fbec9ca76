// Where link's connections go: to the coordinator, or to a SOCKS5 proxy that is asked for it. Found
// once, when the supervisor starts.
#pragma once

#include <sys/socket.h>

#include <memory>
#include <string>

#include "base/status.h"
#include "onshore/sandbox/socks_dial.h"
#include "onshore/supervisor/site_config.h"

namespace tidegate::onshore {

struct WayOut {
  // "192.0.2.1:7443"; "name:7443" where the proxy resolves the name.
  std::string coordinator;
  sockaddr_storage address{};               // the first hop: the coordinator or the proxy
  std::shared_ptr<const SocksRoute> proxy;  // null: none
};

// Resolves names, each in a child process that ends within five seconds: a resolver parses bytes of
// strangers, and this process is in the trusted base. Then reads the proxy's password.
Result<WayOut> FindWayOut(const SiteConfig& config);

// The address behind SCHEME + "HOST:PORT"; `key` is site.toml's, for errors.
Result<sockaddr_storage> ResolveAddress(std::string_view key, std::string_view scheme,
                                        const std::string& text);

// The one line of a file, 1 to 255 bytes. The file must be this user's own with mode 0600 or 0400
// and no link.
Result<std::string> ReadProxyPassword(const std::filesystem::path& file);

}  // namespace tidegate::onshore
