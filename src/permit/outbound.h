// Outbound: a message that a site's link may send, and there is no other. What carries data is made
// of a Release alone: its OFFER, with a head of the ledger that covers it, and its blocks, each
// with the hash that the gate signed. What link says of itself are structs of numbers.
// Immutable.
#pragma once

#include "permit/release.h"
#include "protocols/header.h"
#include "protocols/messages.h"

namespace tidegate::permit {

class Outbound {
 public:
  // kUnauthenticated or kInvalidArgument for a head that is not the site's, kPermissionDenied for
  // one that does not cover the release's leaf.
  static Result<Outbound> Offer(const Release& release, const std::string& ledger_head);
  // kPermissionDenied for bytes that are not block `index` of the release.
  static Result<Outbound> Block(const Release& release, uint32_t index, ByteSpan bytes);
  static Outbound Commit(const Release& release);

  static Outbound Say(const protocols::Lease& lease);
  static Outbound Say(const protocols::Want& want);
  static Outbound Say(const protocols::Credit& credit);

  protocols::Channel channel() const { return channel_; }
  protocols::MessageType type() const { return type_; }
  const Bytes& body() const { return body_; }

 private:
  Outbound(protocols::Channel channel, protocols::MessageType type, Bytes body)
      : channel_(channel), type_(type), body_(std::move(body)) {}

  protocols::Channel channel_;
  protocols::MessageType type_;
  Bytes body_;
};

}  // namespace tidegate::permit
