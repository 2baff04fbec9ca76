// A handle of a site: its socket, and the connection that its requests go over. Private to this
// module.
#pragma once

#include <array>
#include <map>

#include "onshore/api/client.h"
#include "sdk/abi.h"

struct tg_site {
  std::timed_mutex mutex;
  std::filesystem::path socket;
  tidegate::onshore::api::ApiClient client;
  // Digests of the held updates that were reviewed, by name: what a decision is about.
  std::map<std::string, std::array<uint8_t, 32>> reviewed;
};

namespace tidegate::sdk {

using onshore::api::ApiClient;

// Another connection to the same site.
Result<ApiClient> ConnectAgain(const tg_site& site, const Call& call);

// One request of a handle: locked, limited.
template <typename F>
int32_t Ask(tg_site* site, const tg_call* given, tg_error* error, F&& request) {
  return Guarded(error, [&]() -> Status {
    NotNull(site);
    const Call call(given);
    const Locked lock(site->mutex, call);
    TG_RETURN_IF_ERROR(lock.status());
    site->client.Limit(call.left(), call.cancel());
    return request(site->client, call);
  });
}

}  // namespace tidegate::sdk
