// tidegate-link as a process behind its walls, with all that is around it played here: the
// supervisor (control pair, address pin), the gate (one end of its pair) and the coordinator (a
// transport::Server).
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "crypto/keyfile.h"
#include "onshore/ipc/control.h"
#include "onshore/ipc/peer.h"
#include "onshore/sandbox/address_pin.h"
#include "onshore/sandbox/spawn.h"
#include "tests/onshore/link/samples.h"
#include "transport/server.h"

namespace tidegate::onshore {

class LinkSite {
 public:
  LinkSite();
  ~LinkSite();

  // Binds the coordinator's port: a free one the first time, then the same.
  void StartServer();
  void StopServer() { server_.reset(); }
  uint32_t stripes = 1;                     // link's connections for bulk
  std::shared_ptr<const SocksRoute> route;  // through this proxy; null: none
  // Starts link on its pairs; false when it did not come to READY.
  bool StartLink();
  void KillLink();
  // Says stop and gives how link ended.
  std::optional<ChildEnd> StopLink();

  // Everybody takes turns until `done`. False when that lasts too long.
  bool Until(const std::function<bool()>& done);

  Peer& gate() { return *gate_; }
  transport::Server& server() { return *server_; }
  const crypto::SigningKey& site_key() const { return site_key_; }
  const std::string& log() const { return log_text_; }
  const std::filesystem::path& dir() const { return dir_; }
  AddressPin::Counts pin() const { return pin_ ? pin_->counts() : AddressPin::Counts(); }
  size_t dialling() const { return pin_ ? pin_->dialling() : 0; }
  const std::string& address() const { return address_; }
  int events(EventCode code) const;

  // What the gate and the coordinator do with what comes.
  std::function<void(const Peer::Received&)> on_gate;
  std::function<void(const transport::Server::Event&)> on_server;

 private:
  void Write(const std::string& name, const std::string& text) const;
  void Step();
  void StepPin();
  void StepControl();
  void StepGate();
  void ReadLog();

  std::filesystem::path dir_;
  crypto::SigningKey site_key_ = *crypto::SigningKey::Generate();
  crypto::CurveKeyPair link_key_ = *crypto::CurveKeyPair::Generate();
  crypto::CurveKeyPair server_key_ = *crypto::CurveKeyPair::Generate();
  std::string address_ = "tcp://127.0.0.1:*";
  std::unique_ptr<transport::Server> server_;
  Channel pair_;  // gate – link; both ends live as long as the site
  std::optional<Peer> gate_;
  Fd control_, pin_channel_, pin_listener_, log_;
  std::optional<AddressPin> pin_;
  Child child_;
  uint32_t generation_ = 10;
  bool ready_ = false;
  std::vector<uint32_t> events_;
  std::string log_text_;
};

}  // namespace tidegate::onshore
