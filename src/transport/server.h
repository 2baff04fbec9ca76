// The coordinator's side of the wire: one port, one ROUTER, CURVE, an allow-list that fails closed.
//
// What arrives is checked before anybody sees it: enrolled key, one frame a message, header,
// limits, HELLO first, once, and for the site whose key the connection has. A peer that breaks
// this, sends endless multipart or more than it could need is cut at its descriptor; a site's new
// connection replaces its old one, a new session all of them. A site has one connection for control
// and up to kMaxStripes for bulk. Refusals are counted and logged once a minute a cause.
//
// One thread calls the methods. The ZAP handler and the guard of the connections have threads of
// their own, so that an owner who is busy lets nobody in or through (connection_guard.h).
#pragma once

#include <poll.h>

#include <map>
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

using CurveKey = std::array<uint8_t, 32>;

struct ServerOptions {
  std::string address;  // "tcp://127.0.0.1:7443"; port 0 or * takes a free one
  protocols::Id16 federation{};
  std::map<std::string, CurveKey> sites;  // enrolled
  uint32_t lease_millis = 10'000;
  size_t max_connections = 2048;  // less when the process may not have so many descriptors
};

class Server {
 public:
  // Binds once the allow-list answers, and serves once a connection with an unknown key was seen
  // refused. kFailedPrecondition when the address is taken, kResourceExhausted for too few
  // descriptors, kInternal when the allow-list lets strangers in.
  static Result<std::unique_ptr<Server>> Bind(const ServerOptions& options,
                                              const crypto::CurveKeyPair& key);
  virtual ~Server() = default;

  struct Event {
    enum class Kind : uint8_t { kConnected, kMessage, kDisconnected };
    Kind kind{};
    std::string site;
    protocols::Channel channel = protocols::Channel::kControl;
    protocols::MessageType type{};  // kMessage
    Body body;
  };

  // Waits for something on the wire or on `extra` (whose revents are set), at most timeout_millis
  // (-1: for ever), and appends what there is, in the order of what happened: a connection's
  // messages before kDisconnected, that before the kConnected of the one that replaced it.
  // kConnected: the site has both channels, perhaps again. kDisconnected: it has lost the last
  // connection of a channel.
  virtual Status Poll(int timeout_millis, std::span<pollfd> extra, std::vector<Event>* events) = 0;

  // Queues a message, on the bulk channel for the stripe that has the least to do, so that bulk
  // messages may overtake each other. kUnavailable when the site is not connected on that channel,
  // kResourceExhausted when more than kMaxQueuedForSite would wait for it on all its connections,
  // or more than that less kQueuedControlShare and the message is bulk. Lost when the connection
  // is: the other side says LEASE and gets what it lacks.
  virtual Status Send(const std::string& site, protocols::Channel channel,
                      protocols::MessageType type, ByteSpan body) = 0;
  // As Send of a CHUNK on bulk, without a copy of the block in between.
  virtual Status SendChunk(const std::string& site, const protocols::Chunk& chunk) = 0;
  // Bytes that wait to be taken by libzmq for this site; for pacing bulk.
  virtual size_t Queued(const std::string& site, protocols::Channel channel) const = 0;
  virtual bool Connected(const std::string& site, protocols::Channel channel) const = 0;

  virtual void Allow(const std::string& site, const CurveKey& key) = 0;
  // Takes the key off the list and cuts the site's live connections.
  virtual void Revoke(const std::string& site) = 0;

  virtual const std::string& address() const = 0;  // with the real port
  virtual uint64_t refused() const = 0;            // messages and connections
};

}  // namespace tidegate::transport
