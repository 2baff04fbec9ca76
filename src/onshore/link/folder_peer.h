// The coordinator as a site without a network sees it: a folder that a person carries. It answers
// what link says as the coordinator would, with what lies in the folder, and puts there what link
// may send (docs/formats/air-gap.md). An update is in the folder as a whole or not at all: its
// OFFER is written when its blocks are there, durable.
//
// What lies in the folder is hostile until checked: messages have their frame and the coordinator's
// signature, blocks their hash. A file that has not is refused by its name, said once and counted.
// What comes from here to link is no more believed there than what comes over a network. Not
// thread-safe.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "airgap/folder.h"
#include "airgap/messages.h"
#include "crypto/sign.h"
#include "permit/outbound.h"
#include "transport/transfer.h"

namespace tidegate::onshore {

class FolderPeer {
 public:
  FolderPeer(airgap::Folder folder, const protocols::Id16& federation, std::string site,
             const crypto::VerifyKey& coordinator)
      : folder_(std::move(folder)),
        federation_(federation),
        site_(std::move(site)),
        coordinator_(coordinator) {}

  using Message = airgap::Message;
  // JOB, ADAPTER, ROUND, RECEIPT and ABANDON of down/SITE, in the order of their names. An error is
  // the folder's: what is wrong with one file only leaves that file out.
  Result<std::vector<Message>> Documents();

  // What link says, and what the coordinator answers. An error is the medium's: full, gone, broken.
  Result<std::vector<Message>> On(const permit::Outbound& said);
  // The next CHUNK of an adapter that link has asked for, if it grants one. kNotFound or kDataLoss
  // when the block is not in the folder.
  Result<std::optional<Message>> NextChunk();

  // The gate was started anew and says again what it holds open.
  void ForgetOffers();
  // An update is on its way from the gate into the folder.
  bool busy() const { return !incoming_.empty(); }
  // Nothing more moves: what the gate no longer holds open goes, what the site knows is noted.
  Status Finish();

  // The gate has asked last for an adapter that is not in the folder.
  bool lacks_adapter() const { return lacks_adapter_; }

  size_t refused() const { return refused_.size(); }
  size_t offers() const { return open_.size(); }  // in the folder, without a receipt

 private:
  struct Incoming {
    protocols::UpdateKey key;
    Bytes offer;
    std::vector<Digest> blocks;
    transport::BlockReceiver receiver;
  };
  Result<Message> Load(const std::string& file);
  Status Check(const Message& message, const std::string& name);
  void Refuse(const std::string& file, const Status& why);
  Result<std::vector<Message>> OnOffer(const permit::Outbound& said);
  Result<std::vector<Message>> OnChunk(ByteSpan body);
  Result<std::vector<Message>> OnCommit(ByteSpan body);
  void OnWant(ByteSpan body);
  void OnCredit(ByteSpan body);

  airgap::Folder folder_;
  protocols::Id16 federation_;
  std::string site_;
  crypto::VerifyKey coordinator_;
  std::map<Digest, Bytes> receipts_;                   // by content: bodies of RECEIPT
  std::map<Digest, std::vector<Digest>> adapters_;     // by content: its blocks
  std::map<Digest, transport::BlockSender> outgoing_;  // by content
  std::map<Digest, Incoming> incoming_;                // by content
  std::set<std::string> open_;                         // files of up/SITE
  std::set<std::string> refused_;
  Bytes lease_;
  bool lacks_adapter_ = false;
};

}  // namespace tidegate::onshore
