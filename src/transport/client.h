// A site's side of the wire: a connection for control and one or several for bulk to the one
// address, under CURVE.
//
// Dialled again for as long as it takes, with growing pauses, whatever ended it: the network, the
// coordinator's restart, a key that is not enrolled yet. HELLO is said on each connection; messages
// go only while control and a stripe of bulk are answered. What is lost with a connection is said
// again by the owner on kConnected. A coordinator that breaks the protocol is cut and told in the
// log. One thread.
#pragma once

#include <poll.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "crypto/keyfile.h"
#include "protocols/header.h"
#include "protocols/messages.h"
#include "transport/body.h"

namespace tidegate::transport {

struct ClientOptions {
  std::string address;  // "tcp://192.0.2.1:7443"
  std::array<uint8_t, 32> server_key{};
  std::string site;
  protocols::Id16 federation{};
  // Connections for bulk: several fill a long or lossy path that one can't (docs/operations.md).
  uint32_t stripes = 1;
};

class Client {
 public:
  static Result<std::unique_ptr<Client>> Connect(const ClientOptions& options,
                                                 const crypto::CurveKeyPair& key);
  virtual ~Client() = default;

  // kConnected: messages may go; what was under way before it may be lost, and is to be said again.
  // It comes without a kDisconnected when one of several bulk connections has ended.
  struct Event {
    enum class Kind : uint8_t { kConnected, kMessage, kDisconnected };
    Kind kind{};
    protocols::Channel channel = protocols::Channel::kControl;
    protocols::MessageType type{};
    Body body;
  };

  // Waits for something on the wire or on `extra` (whose revents are set), at most timeout_millis
  // and seldom longer than 100 ms, and appends what there is.
  virtual Status Poll(int timeout_millis, std::span<pollfd> extra, std::vector<Event>* events) = 0;
  // Bulk messages may overtake each other on several connections. kUnavailable while not connected,
  // kResourceExhausted when more than kMaxQueuedBytes wait.
  virtual Status Send(protocols::Channel channel, protocols::MessageType type, ByteSpan body) = 0;
  // As Send of a CHUNK on bulk.
  virtual Status SendChunk(const protocols::Chunk& chunk) = 0;
  virtual size_t Queued(protocols::Channel channel) const = 0;
  virtual bool connected() const = 0;
  virtual uint32_t lease_millis() const = 0;  // as the coordinator said it
  virtual uint64_t session() const = 0;

  static constexpr size_t kMaxQueuedBytes = 32u << 20;
};

}  // namespace tidegate::transport
