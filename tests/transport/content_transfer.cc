#include "content_transfer.h"

#include <algorithm>
#include <bit>

namespace tidegate::transport {

using protocols::Channel;
using protocols::MessageType;

Bytes OfferOf(const protocols::ReleaseManifest& manifest) {
  protocols::Offer offer;
  offer.release.body.items = protocols::Encode(manifest);
  return protocols::Encode(offer);
}

ContentSender::ContentSender(Client& client, protocols::ReleaseManifest manifest, Source source,
                             size_t most_queued)
    : client_(client),
      manifest_(std::move(manifest)),
      source_(std::move(source)),
      most_queued_(most_queued),
      sender_(manifest_.content, static_cast<uint32_t>(manifest_.blocks.size())) {}

Status ContentSender::Step(int timeout_millis) {
  std::vector<Client::Event> events;
  TG_RETURN_IF_ERROR(client_.Poll(timeout_millis, {}, &events));
  for (const Client::Event& event : events) On(event);
  return Pump();
}

void ContentSender::On(const Client::Event& event) {
  // What cannot be sent is said again after the reconnect.
  const auto say = [this](MessageType type, ByteSpan body) {
    [[maybe_unused]] const Status sent = client_.Send(Channel::kControl, type, body);
  };
  if (event.kind != Client::Event::Kind::kMessage) {
    sender_.Reset();
    if (event.kind == Client::Event::Kind::kDisconnected) return;
    ++connects_;
    if (!done()) say(MessageType::kOffer, OfferOf(manifest_));
    return;
  }
  if (event.type == MessageType::kWant) {
    const auto want = protocols::Decode<protocols::Want>(event.body);
    if (want) sender_.OnWant(*want);
  } else if (event.type == MessageType::kCredit) {
    const auto credit = protocols::Decode<protocols::Credit>(event.body);
    if (credit) sender_.OnCredit(*credit);
  } else if (event.type == MessageType::kHave) {
    const auto have = protocols::Decode<protocols::Have>(event.body);
    size_t count = 0;
    for (const uint8_t b : have->bitmap.items) count += static_cast<size_t>(std::popcount(b));
    if (have && count == manifest_.blocks.size()) {
      say(MessageType::kCommit, protocols::Encode(protocols::Commit{manifest_.content}));
    }
  } else if (event.type == MessageType::kReceipt) {
    ++receipts_;
  }
}

Status ContentSender::Pump() {
  while (client_.connected() && client_.Queued(Channel::kBulk) < most_queued_) {
    const auto index = sender_.Next();
    if (!index) break;
    TG_ASSIGN_OR_RETURN(const Bytes block, source_(*index));
    const Status sent = client_.SendChunk({manifest_.content, *index, block});
    if (sent.code() == Code::kUnavailable) break;  // asked for again
    TG_RETURN_IF_ERROR(sent);
    ++chunks_;
  }
  return OkStatus();
}

Status ContentTaker::Step(int timeout_millis) {
  events_.clear();
  TG_RETURN_IF_ERROR(server_.Poll(timeout_millis, {}, &events_));
  for (const Server::Event& event : events_) {
    if (event.kind != Server::Event::Kind::kMessage) continue;
    if (event.type == MessageType::kOffer) TG_RETURN_IF_ERROR(OnOffer(event.site, event.body));
    if (event.type == MessageType::kChunk) TG_RETURN_IF_ERROR(OnChunk(event.site, event.body));
    if (event.type == MessageType::kCommit) TG_RETURN_IF_ERROR(OnCommit(event.site, event.body));
  }
  if (said_.empty()) return OkStatus();
  const bool promises = std::any_of(said_.begin(), said_.end(), [](const Said& said) {
    return said.type != MessageType::kCredit && said.type != MessageType::kWant;
  });
  if (promises) TG_RETURN_IF_ERROR(store_.Sync());
  for (const Said& said : std::exchange(said_, {})) {
    [[maybe_unused]] const Status sent =
        server_.Send(said.site, said.channel, said.type, said.body);
  }
  return OkStatus();
}

void ContentTaker::Say(const std::string& site, Channel channel, MessageType type, ByteSpan body) {
  said_.push_back({site, channel, type, Bytes(body.begin(), body.end())});
}

Status ContentTaker::OnOffer(const std::string& site, ByteSpan body) {
  const auto offer = protocols::Decode<protocols::Offer>(body);
  if (!offer) return DataLoss("an offer: {}", offer.error().reason);
  auto manifest = protocols::Decode<protocols::ReleaseManifest>(offer->release.body.items);
  if (!manifest) return DataLoss("a manifest: {}", manifest.error().reason);
  if (committed_.contains(manifest->content)) {
    Say(site, Channel::kControl, MessageType::kReceipt, {});
    return OkStatus();
  }
  std::vector<bool> have;
  for (const Digest& id : manifest->blocks.items) have.push_back(store_.Has(id));
  BlockReceiver receiver(manifest->content, manifest->ciphertext_bytes, manifest->blocks.items,
                         std::move(have), window_);
  taking_.emplace(Taking{std::move(*manifest), std::move(receiver)});
  Say(site, Channel::kControl, MessageType::kHave,
      protocols::Encode(taking_->receiver.HaveMessage()));
  for (const protocols::Want& want : taking_->receiver.Ask()) {
    Say(site, Channel::kControl, MessageType::kWant, protocols::Encode(want));
  }
  return OkStatus();
}

Status ContentTaker::OnChunk(const std::string& site, ByteSpan body) {
  const auto chunk = protocols::DecodeChunk(body);
  // Of a connection before this taker's time.
  if (!taking_ || (chunk && chunk->content != taking_->manifest.content)) return OkStatus();
  if (!chunk || !taking_->receiver.Fits(*chunk)) {
    ++refused_;
    return OkStatus();
  }
  BlockReceiver& receiver = taking_->receiver;
  if (receiver.has(chunk->index)) ++duplicates_;
  const Status put = store_.Put(taking_->manifest.blocks.items[chunk->index], chunk->bytes);
  if (put.code() == Code::kInvalidArgument) {
    ++refused_;
    return OkStatus();
  }
  TG_RETURN_IF_ERROR(put);
  if (const auto credit = receiver.Stored(chunk->index, chunk->bytes.size())) {
    Say(site, Channel::kControl, MessageType::kCredit, protocols::Encode(*credit));
  }
  if (receiver.complete() && !std::exchange(taking_->asked, true)) {
    Say(site, Channel::kControl, MessageType::kHave, protocols::Encode(receiver.HaveMessage()));
  }
  return OkStatus();
}

Status ContentTaker::OnCommit(const std::string& site, ByteSpan body) {
  const auto commit = protocols::Decode<protocols::Commit>(body);
  if (!commit) return DataLoss("a commit: {}", commit.error().reason);
  if (!committed_.contains(commit->content)) {
    if (!taking_ || taking_->manifest.content != commit->content || !taking_->receiver.complete()) {
      return OkStatus();
    }
    TG_RETURN_IF_ERROR(store_.Sync());
    TG_RETURN_IF_ERROR(commit_(taking_->manifest));
    committed_.insert(commit->content);
  }
  Say(site, Channel::kControl, MessageType::kReceipt, {});
  return OkStatus();
}

}  // namespace tidegate::transport
