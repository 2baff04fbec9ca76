// A content from a site to a server over any wire, as the protocol has it: OFFER, HAVE and WANT,
// CHUNKs within the credit, COMMIT, RECEIPT; again from the start after each kConnected. What it is
// made of is real (BlockSender, BlockReceiver, BlockStore); that nobody signs is all that is
// played.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>

#include "blocks/block_store.h"
#include "transport/client.h"
#include "transport/server.h"
#include "transport/transfer.h"

namespace tidegate::transport {

// An offer of `manifest`: its content, size and blocks count here.
Bytes OfferOf(const protocols::ReleaseManifest& manifest);

class ContentSender {
 public:
  using Source = std::function<Result<Bytes>(uint32_t index)>;
  ContentSender(Client& client, protocols::ReleaseManifest manifest, Source source,
                size_t most_queued = 2u << 20);

  // Answers what came, then sends what there is credit for.
  Status Step(int timeout_millis);
  bool done() const { return receipts_ > 0; }
  uint64_t chunks() const { return chunks_; }  // sent, those that were lost too
  uint64_t connects() const { return connects_; }
  uint64_t receipts() const { return receipts_; }

 private:
  void On(const Client::Event& event);
  Status Pump();

  Client& client_;
  protocols::ReleaseManifest manifest_;
  Source source_;
  size_t most_queued_;
  BlockSender sender_;
  uint64_t chunks_ = 0, connects_ = 0, receipts_ = 0;
};

class ContentTaker {
 public:
  // `commit` is called once a content is whole and durable, the first time COMMIT asks for it.
  using Commit = std::function<Status(const protocols::ReleaseManifest&)>;
  ContentTaker(Server& server, blocks::BlockStore& store, Commit commit,
               uint64_t window = kWindowBytes)
      : server_(server), store_(store), commit_(std::move(commit)), window_(window) {}

  Status Step(int timeout_millis);
  uint64_t duplicates() const { return duplicates_; }
  uint64_t refused() const { return refused_; }
  uint64_t commits() const { return committed_.size(); }

 private:
  struct Taking {
    protocols::ReleaseManifest manifest;
    BlockReceiver receiver;
    bool asked = false;
  };
  Status OnOffer(const std::string& site, ByteSpan body);
  Status OnChunk(const std::string& site, ByteSpan body);
  Status OnCommit(const std::string& site, ByteSpan body);
  void Say(const std::string& site, protocols::Channel channel, protocols::MessageType type,
           ByteSpan body);

  Server& server_;
  blocks::BlockStore& store_;
  Commit commit_;
  uint64_t window_;
  std::optional<Taking> taking_;
  std::set<Digest> committed_;
  std::vector<Server::Event> events_;
  struct Said {
    std::string site;
    protocols::Channel channel;
    protocols::MessageType type;
    Bytes body;
  };
  std::vector<Said> said_;  // goes out once the turn's blocks are durable
  uint64_t duplicates_ = 0, refused_ = 0;
};

}  // namespace tidegate::transport
