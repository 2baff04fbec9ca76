// Link without descriptors: what it passes on between gate and coordinator. It keeps nothing that a
// restart would lose: the gate says again what is open, the coordinator what is new.
//
// From the coordinator it takes bodies as they came and hands them to the gate; from the gate it
// takes an OFFER and blocks that the coordinator has credit for; what it sends is a
// permit::Outbound, which is made of a verified release and of nothing else. Not thread-safe.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "crypto/sign.h"
#include "onshore/ipc/messages.h"
#include "permit/outbound.h"
#include "permit/release.h"
#include "protocols/header.h"
#include "protocols/messages.h"
#include "transport/transfer.h"

namespace tidegate::onshore {

struct ToGate {
  IpcType type;
  Bytes body;
};
struct BulkToGate {
  BulkKind kind;
  Hash32 content;
  uint32_t index;
  Bytes bytes;
};
// permit::Outbound: to the coordinator.
using LinkEffect = std::variant<permit::Outbound, ToGate, BulkToGate>;
using LinkEffects = std::vector<LinkEffect>;

class LinkCore {
 public:
  LinkCore(const crypto::VerifyKey& site_key, const protocols::Id16& federation, std::string site)
      : site_key_(site_key), federation_(federation), site_(std::move(site)) {}

  LinkEffects OnConnected(uint64_t session);
  LinkEffects OnDisconnected();
  LinkEffects OnCoordinator(protocols::MessageType type, ByteSpan body);
  LinkEffects OnGateMessage(IpcType type, ByteSpan body);
  LinkEffects OnGateBulk(BulkKind kind, const Hash32& content, uint32_t index, ByteSpan bytes);
  // Time for a LEASE.
  LinkEffects OnLease();
  // After every turn while the bulk queue has room: blocks that the coordinator has credit for are
  // asked of the gate.
  void Pump(LinkEffects* out);

  uint64_t refused() const { return refused_; }

 private:
  struct Outgoing {
    permit::Release release;
    permit::Outbound offer;
    transport::BlockSender sender;
    // Blocks asked of the gate and not here yet. One that comes and is not in it was asked for
    // under credit that is gone.
    std::set<uint32_t> asked;
  };
  struct Incoming {
    Hash32 content{};
    bool base = false;
    uint64_t ungranted = 0;
  };

  void TakeOffer(ByteSpan body, LinkEffects* out);
  void OnWant(ByteSpan body);
  void OnCredit(ByteSpan body);
  LinkEffects OnHave(ByteSpan body);
  LinkEffects OnError(ByteSpan body);
  void Forget(ByteSpan receipt);
  LinkEffects OnChunk(ByteSpan body);

  crypto::VerifyKey site_key_;
  protocols::Id16 federation_;
  std::string site_;
  bool connected_ = false;
  uint64_t session_ = 0;
  Known known_;
  std::map<Hash32, Outgoing> outgoing_;
  Incoming* FindIncoming(const Hash32& content);
  void ForgetIncoming(bool base);

  // One adapter and one part of a base at most.
  std::vector<Incoming> incoming_;
  // BASE and REVOKE of this connection: the coordinator says them once, a gate may be started anew.
  std::deque<BulkToGate> told_bases_;
  uint64_t refused_ = 0;
};

}  // namespace tidegate::onshore
