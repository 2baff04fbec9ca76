// An OpenAI-compatible endpoint in front of the walled process that holds the models. It sees
// prompts and answers, opens no record and no model.
//
//   POST /v1/chat/completions   POST /v1/completions   GET /v1/models[/NAME]   GET /health
//
// On loopback by default. Without a key a request is refused whose Host is not the address that it
// was bound to, or localhost, so that no web page reaches it by a name of its own, or whose Origin
// is another; with a key every request but /health needs it.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace tidegate::serve {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8000;      // 0: a free one
  std::string api_key;  // empty: none is asked for
  size_t connections = 64;
  std::vector<std::string> worker;  // what to start: tidegate-trainer answer …
  std::chrono::seconds ready_within{600};
  int cancel = -1;  // ends the wait for the worker, with kCancelled, when it can be read; -1: none
  std::chrono::seconds answer_within{600};  // from one event of an answer to the next
};

class Server {
 public:
  // Starts the worker and serves from threads of its own, all signals blocked. kPermissionDenied
  // for an address that is not loopback without a key; kUnavailable when the address is taken or
  // the worker does not start.
  static Result<std::unique_ptr<Server>> Start(const ServerOptions& options);
  virtual ~Server() = default;  // ends answers, threads and worker
  virtual int port() const = 0;
  virtual std::vector<std::string> models() const = 0;
  virtual std::string walls() const = 0;
  // Starts the worker again when it has ended; to be called now and then. After kMostRestarts in a
  // row without an answer in between: kUnavailable.
  virtual Status KeepAlive() = 0;
};
inline constexpr int kMostRestarts = 5;

}  // namespace tidegate::serve
