// A scripted site for tests and benchmarks of the coordinator: verifies what it is sent, makes a
// delta that is a function of (site, round, index), seals, signs and offers it, and keeps what it
// offered. Messages in, messages out; whoever owns it moves them. Not thread-safe.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "crypto/keyfile.h"
#include "protocols/header.h"
#include "protocols/messages.h"

namespace tidegate::offshore {

struct SiteMessage {
  protocols::Channel channel = protocols::Channel::kControl;
  protocols::MessageType type = protocols::MessageType::kError;
  Bytes body;
};

class FakeSite {
 public:
  FakeSite(std::string name, crypto::VerifyKey coordinator);

  const std::string& name() const { return name_; }
  const crypto::SigningKey& gate() const { return gate_; }
  const crypto::CurveKeyPair& link() const { return link_; }
  // Armoured SITE REQUEST.
  std::string Request() const;

  // Answers to a message. A document that does not verify is counted in `bad`.
  std::vector<SiteMessage> On(protocols::MessageType type, ByteSpan body);
  // What it would say after a reconnect.
  SiteMessage Lease() const;
  // Its connection was cut: transfers start over.
  void Reset();
  // Connected again: what it lacks and what it has to offer.
  std::vector<SiteMessage> Resume();

  // The offer of a round whose adapter is here; the same bytes every time.
  struct Spool {
    protocols::Offer offer;
    protocols::ReleaseManifest release;
    std::vector<Bytes> blocks;
  };
  const Spool& Make(uint32_t round);
  static SiteMessage OfferOf(const Spool& spool);
  // The value it adds to parameter i in a round.
  static float Delta(const std::string& site, uint32_t round, uint64_t i);

  // What it was told.
  std::optional<protocols::JobManifest> job;
  protocols::Id16 job_id{};
  std::optional<protocols::AdapterManifest> adapter;  // whole, in `parameters`
  std::vector<float> parameters;
  std::map<uint32_t, protocols::RoundAnnouncement> rounds;
  std::map<uint32_t, protocols::Receipt> receipts;
  std::map<uint32_t, Bytes> receipt_bytes;
  std::vector<protocols::AbandonNotice> notices;
  std::vector<protocols::ErrorMessage> errors;
  int bad = 0;
  bool ended = false;

  // How it misbehaves, or the default: not.
  bool silent = false;        // trains no round
  uint32_t weight = 1;        // in the update's header
  bool other_values = false;  // another delta than Delta's
  float push = 0;             // added to its first parameter each round, taken off its second

 private:
  std::vector<SiteMessage> OnAdapter(ByteSpan body);
  std::vector<SiteMessage> WantAdapter();
  std::vector<SiteMessage> OnRound(ByteSpan body);
  std::vector<SiteMessage> OnAdapterChunk(ByteSpan body);
  std::vector<SiteMessage> OnWant(const protocols::Want& want);
  std::vector<SiteMessage> SendBlocks(const Digest& content);
  std::vector<SiteMessage> OfferIfReady();
  // With the head as it is now, as a gate does.
  SiteMessage OfferNow(uint32_t round);
  std::string Head() const;
  void OnReceipt(ByteSpan body);

  struct Sending {
    uint32_t next = 0;
    uint64_t credit = 0;
    Bytes have;
    bool committed = false;
  };
  std::string name_;
  crypto::VerifyKey coordinator_;
  crypto::SigningKey gate_;
  crypto::CurveKeyPair link_;
  std::optional<protocols::AdapterManifest> newest_;  // that was told
  std::optional<protocols::AdapterManifest> coming_;  // that is being fetched
  std::map<uint32_t, Bytes> came_;
  std::map<uint32_t, Spool> spool_;
  std::map<Digest, Sending> sending_;
  uint64_t leaves_ = 0;
};

}  // namespace tidegate::offshore
