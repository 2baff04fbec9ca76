#include "onshore/link/folder_peer.h"

#include "base/log.h"
#include "crypto/document.h"

namespace tidegate::onshore {
namespace {

using airgap::Message;
using protocols::MessageType;

// Its two files beside the offers, and what a crash left.
constexpr size_t kMaxUpEntries = 4 * protocols::kMaxFolderOffers;
constexpr uint64_t kWindow = 2u << 20;

template <typename T>
Message MessageOf(MessageType type, const T& message) {
  return {type, protocols::Encode(message)};
}

// The signed document in the body of a message that carries one, and in whose domain it is signed.
Result<std::pair<protocols::Signed, crypto::SignDomain>> DocumentIn(const Message& message) {
  // All five are one Signed.
  const auto document = protocols::Decode<protocols::Signed>(message.body);
  if (!document) return DataLoss("its body: {}", document.error().reason);
  switch (message.type) {
    case MessageType::kJob:
      return std::pair(*document, crypto::domains::kJob);
    case MessageType::kAdapter:
      return std::pair(*document, crypto::domains::kAdapter);
    case MessageType::kRound:
      return std::pair(*document, crypto::domains::kRound);
    case MessageType::kReceipt:
      return std::pair(*document, crypto::domains::kReceipt);
    case MessageType::kAbandon:
      return std::pair(*document, crypto::domains::kAbandon);
    default:
      return InvalidArgument("{} is no message that comes in a folder",
                             protocols::MessageTypeName(message.type));
  }
}

}  // namespace

// Verifies it, and remembers what later answers need of it.
Status FolderPeer::Check(const Message& message, const std::string& name) {
  const auto found = DocumentIn(message);
  if (!found) return found.error().WithContext(name);
  const auto& [document, domain] = *found;
  if (message.type == MessageType::kReceipt) {
    TG_ASSIGN_OR_RETURN(const auto receipt, crypto::OpenDocument<protocols::Receipt>(
                                                coordinator_, domain, document, name));
    if (receipt.key.site.text != site_ || receipt.federation != federation_) {
      return PermissionDenied("{} is the receipt of another site's update", name);
    }
    receipts_[receipt.content] = message.body;
    return OkStatus();
  }
  if (message.type == MessageType::kAdapter) {
    TG_ASSIGN_OR_RETURN(const auto adapter, crypto::OpenDocument<protocols::AdapterManifest>(
                                                coordinator_, domain, document, name));
    const auto [it, fresh] = adapters_.try_emplace(adapter.content, adapter.blocks.items);
    // A sender counts the blocks that were there when it was asked.
    if (!fresh && it->second != adapter.blocks.items) {
      return InvalidArgument("{} names other blocks for a content than a file before it", name);
    }
    return OkStatus();
  }
  return coordinator_.Verify(domain, document.body.items, document.signature).WithContext(name);
}

Result<Message> FolderPeer::Load(const std::string& file) {
  const airgap::Place place = {"down", site_, file};
  TG_ASSIGN_OR_RETURN(Message message, airgap::ReadMessage(folder_, place, federation_));
  TG_RETURN_IF_ERROR(Check(message, folder_.NameOf(place)));
  return message;
}

void FolderPeer::Refuse(const std::string& file, const Status& why) {
  if (refused_.insert(file).second) LogWarning("file_refused {}", why.ToString());
}

Result<std::vector<Message>> FolderPeer::Documents() {
  TG_ASSIGN_OR_RETURN(const auto files,
                      folder_.List({"down", site_}, protocols::kMaxFolderMessages));
  std::vector<Message> messages;
  for (const std::string& file : files) {
    // Half-written when the medium was pulled out: the exchange writes it again.
    if (file.ends_with(".tmp")) continue;
    auto message = Load(file);
    if (message) {
      messages.push_back(std::move(*message));
    } else {
      Refuse(file, message.error());
    }
  }
  return messages;
}

void FolderPeer::ForgetOffers() {
  incoming_.clear();
  open_.clear();
}

Result<std::vector<Message>> FolderPeer::On(const permit::Outbound& said) {
  switch (said.type()) {
    case MessageType::kOffer:
      return OnOffer(said);
    case MessageType::kChunk:
      return OnChunk(said.body());
    case MessageType::kCommit:
      return OnCommit(said.body());
    case MessageType::kWant:
      OnWant(said.body());
      break;
    case MessageType::kCredit:
      OnCredit(said.body());
      break;
    case MessageType::kLease:
      lease_ = said.body();
      break;
    default:
      break;
  }
  return std::vector<Message>();
}

Result<std::vector<Message>> FolderPeer::OnOffer(const permit::Outbound& said) {
  const auto offer = protocols::Decode<protocols::Offer>(said.body());
  const auto release =
      offer
          ? protocols::Decode<protocols::ReleaseManifest>(offer->release.body.items)
          : protocols::Decoded<protocols::ReleaseManifest>(tl::unexpect, protocols::DecodeError{});
  if (!release) return Internal("link made an offer that does not decode");
  // Taken already: as the coordinator answers an offer that comes again.
  if (const auto it = receipts_.find(release->content); it != receipts_.end()) {
    return std::vector<Message>{{MessageType::kReceipt, it->second}};
  }
  std::vector<bool> have;
  for (const Digest& id : release->blocks.items) have.push_back(folder_.Block(id).has_value());
  transport::BlockReceiver receiver(release->content, release->ciphertext_bytes,
                                    release->blocks.items, std::move(have), kWindow);
  std::vector<Message> answers = {MessageOf(MessageType::kHave, receiver.HaveMessage())};
  for (const protocols::Want& want : receiver.Ask()) {
    answers.push_back(MessageOf(MessageType::kWant, want));
  }
  incoming_.erase(release->content);
  incoming_.emplace(release->content, Incoming{release->key, said.body(), release->blocks.items,
                                               std::move(receiver)});
  return answers;
}

Result<std::vector<Message>> FolderPeer::OnChunk(ByteSpan body) {
  std::vector<Message> answers;
  const auto chunk = protocols::DecodeChunk(body);
  const auto it = chunk ? incoming_.find(chunk->content) : incoming_.end();
  if (it == incoming_.end() || !it->second.receiver.Fits(*chunk)) return answers;
  Incoming& incoming = it->second;
  if (!incoming.receiver.has(chunk->index)) {
    TG_RETURN_IF_ERROR(folder_.PutBlock(incoming.blocks[chunk->index], chunk->bytes));
  }
  if (const auto credit = incoming.receiver.Stored(chunk->index, chunk->bytes.size())) {
    answers.push_back(MessageOf(MessageType::kCredit, *credit));
  }
  if (incoming.receiver.complete()) {
    answers.push_back(MessageOf(MessageType::kHave, incoming.receiver.HaveMessage()));
  }
  return answers;
}

Result<std::vector<Message>> FolderPeer::OnCommit(ByteSpan body) {
  const auto commit = protocols::Decode<protocols::Commit>(body);
  const auto it = commit ? incoming_.find(commit->content) : incoming_.end();
  if (it == incoming_.end() || !it->second.receiver.complete()) return std::vector<Message>();
  const Incoming& incoming = it->second;
  const airgap::Place place = airgap::OfferPlace(incoming.key);
  TG_RETURN_IF_ERROR(folder_.SyncBlocks());
  TG_RETURN_IF_ERROR(
      airgap::WriteMessage(folder_, place, federation_, {MessageType::kOffer, incoming.offer}));
  LogInfo("update_in_folder round={} blocks={} file={}", incoming.key.round, incoming.blocks.size(),
          place.back());
  open_.insert(place.back());
  incoming_.erase(it);
  return std::vector<Message>();
}

void FolderPeer::OnWant(ByteSpan body) {
  const auto want = protocols::Decode<protocols::Want>(body);
  const auto adapter = want ? adapters_.find(want->content) : adapters_.end();
  lacks_adapter_ = want && adapter == adapters_.end();
  if (adapter == adapters_.end()) return;
  const auto blocks = static_cast<uint32_t>(adapter->second.size());
  const auto it =
      outgoing_.try_emplace(want->content, want->content, blocks, transport::kWindowBytes).first;
  // A range that is refused is not sent; the gate says again what it lacks.
  [[maybe_unused]] const bool taken = it->second.OnWant(*want);
}

void FolderPeer::OnCredit(ByteSpan body) {
  const auto credit = protocols::Decode<protocols::Credit>(body);
  const auto it = credit ? outgoing_.find(credit->content) : outgoing_.end();
  if (it == outgoing_.end()) return;
  [[maybe_unused]] const bool taken = it->second.OnCredit(*credit);
}

Result<std::optional<Message>> FolderPeer::NextChunk() {
  for (auto& [content, sender] : outgoing_) {
    const auto index = sender.Next();
    if (!index) continue;
    auto block = folder_.Block(adapters_.at(content)[*index]);
    if (!block) {
      return Unexpected(block.error().WithContext(
          "an adapter is not whole in the folder; make the exchange once more"));
    }
    return Message{MessageType::kChunk, protocols::EncodeChunk({content, *index, *block})};
  }
  return std::nullopt;
}

Status FolderPeer::Finish() {
  TG_ASSIGN_OR_RETURN(const auto files, folder_.List({"up", site_}, kMaxUpEntries));
  for (const std::string& file : files) {
    if (file != airgap::LeasePlace(site_).back() && !open_.contains(file)) {
      TG_RETURN_IF_ERROR(folder_.Remove({"up", site_, file}));
    }
  }
  return airgap::WriteMessage(folder_, airgap::LeasePlace(site_), federation_,
                              {MessageType::kLease, lease_});
}

}  // namespace tidegate::onshore
