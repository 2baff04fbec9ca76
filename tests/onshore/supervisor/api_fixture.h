// A site with a client of its local API.
#pragma once

#include "onshore/api/client.h"
#include "tests/onshore/supervisor/site_fixture.h"

namespace tidegate::onshore {

struct PipeEnds {
  Fd read, write;
};
PipeEnds MakePipe();
// All that comes until the other end is closed, at most a minute.
std::string ReadAll(const Fd& fd);

class ApiTest : public SupervisorTest {
 protected:
  std::filesystem::path socket() const { return site_ / "api.sock"; }
  // Starts the site; gate and link have had their GO.
  void StartReady(const std::vector<std::string>& more = {});
  // Starts a trainer for job "J", which has had its GO.
  void StartTraining();
  api::ApiClient Connect() const;
  api::StatusReply Status(api::ApiClient& client) const;
  // A plain socket that is connected to the API, for what a client would not do.
  Fd Raw() const;
  // A file with this content, open for reading (or with other flags).
  Fd FileWith(const std::string& name, const std::string& content, int flags) const;
  // The next event with this code; fails after 20 s. What comes before is passed over.
  api::EventMessage NextEvent(api::ApiClient& client, EventCode code) const;
  // Whether the supervisor still serves a client that behaves.
  void ExpectServes();
};

}  // namespace tidegate::onshore
