#include "permit/outbound.h"

#include "crypto/checkpoint_note.h"
#include "crypto/hash.h"

namespace tidegate::permit {

using protocols::Channel;
using protocols::MessageType;

Result<Outbound> Outbound::Offer(const Release& release, const std::string& ledger_head) {
  const auto& manifest = release.manifest();
  const auto head = crypto::OpenCheckpoint(ledger_head, manifest.key.site.text, release.site_key());
  if (!head) return Unexpected(head.error().WithContext("the ledger head of an offer"));
  if (head->size <= manifest.ledger_index) {
    return PermissionDenied("the ledger head of {} leaves does not cover leaf {} of the release",
                            head->size, manifest.ledger_index);
  }
  protocols::Offer offer;
  offer.release = release.document();
  offer.ledger_head.text = ledger_head;
  return Outbound(Channel::kControl, MessageType::kOffer, protocols::Encode(offer));
}

Result<Outbound> Outbound::Block(const Release& release, uint32_t index, ByteSpan bytes) {
  const auto& blocks = release.manifest().blocks.items;
  if (index >= blocks.size() || crypto::Sha256::Of(bytes) != blocks[index]) {
    return PermissionDenied("{} bytes are not block {} of the {} that the gate released",
                            bytes.size(), index, blocks.size());
  }
  return Outbound(Channel::kBulk, MessageType::kChunk,
                  protocols::EncodeChunk({release.manifest().content, index, bytes}));
}

Outbound Outbound::Commit(const Release& release) {
  return {Channel::kControl, MessageType::kCommit,
          protocols::Encode(protocols::Commit{release.manifest().content})};
}

Outbound Outbound::Say(const protocols::Lease& lease) {
  return {Channel::kControl, MessageType::kLease, protocols::Encode(lease)};
}

Outbound Outbound::Say(const protocols::Want& want) {
  return {Channel::kBulk, MessageType::kWant, protocols::Encode(want)};
}

Outbound Outbound::Say(const protocols::Credit& credit) {
  return {Channel::kBulk, MessageType::kCredit, protocols::Encode(credit)};
}

}  // namespace tidegate::permit
