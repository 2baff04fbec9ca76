// The coordinator's status over HTTP, for people and for Prometheus: read-only, GET only, of the
// last status that the owner published. It takes no request into the coordinator.
//
//   /            the page            /api/status   JSON
//   /metrics     Prometheus' text    /chart.js     Chart.js as the system has it
//
// Meant for loopback: it asks for no password. A request whose Host is not the address that it was
// bound to, or localhost, is refused, so that no web page reaches it by a name of its own.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/status.h"

namespace tidegate::web {

struct StatusServerOptions {
  std::string host = "127.0.0.1";
  int port = 0;  // 0: a free one
  // Where Debian has it; the page says so when it is not there.
  std::filesystem::path chart_js = "/usr/share/javascript/chart.js/chart.min.js";
};

class StatusServer {
 public:
  // Serves from threads of its own, all signals blocked. kUnavailable when the address is taken.
  static Result<std::unique_ptr<StatusServer>> Start(const StatusServerOptions& options);
  virtual ~StatusServer() = default;  // ends the threads

  // Thread-safe. What is served from now on.
  virtual void Publish(const nlohmann::ordered_json& status) = 0;
  virtual int port() const = 0;
};

}  // namespace tidegate::web
