// An update as a gate releases it, and the coordinator that takes it: what link carries between.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <vector>

#include "base/rng.h"
#include "blocks/content.h"
#include "crypto/checkpoint_note.h"
#include "crypto/document.h"
#include "protocols/messages.h"
#include "tests/permit/played_gate.h"
#include "transport/transfer.h"

namespace tidegate::onshore {

inline protocols::Id16 SampleFederation() {
  protocols::Id16 id{};
  id[3] = 7;
  return id;
}

// Sealed bytes, cut into blocks, with the OFFER that `key` signed.
struct SampleUpdate {
  SampleUpdate(const crypto::SigningKey& key, size_t size, uint64_t seed,
               const std::string& site = "north",
               const protocols::Id16& federation = SampleFederation())
      : bytes(size) {
    for (size_t i = 0; i < size; i += 16) {
      const auto words = RandomWords(seed, RngPurpose::kTest, 0, i);
      for (size_t j = i; j < std::min(size, i + 16); ++j) {
        bytes[j] = static_cast<uint8_t>(words[(j - i) / 4] >> 8 * (j % 4));
      }
    }
    const blocks::Content content = blocks::Cut(bytes, [this](const Digest&, ByteSpan block) {
      blocks.emplace_back(block.begin(), block.end());
    });
    manifest.federation = federation;
    manifest.key.round = static_cast<uint32_t>(seed);
    manifest.key.site = site;
    manifest.ciphertext_bytes = size;
    manifest.content = content.id;
    manifest.blocks.items = content.blocks;
    protocols::Offer message;
    message.release = gate::Sealing::Sign(key, manifest);
    message.ledger_head.text = *crypto::SignCheckpoint(
        {"tidegate.example/" + site, manifest.ledger_index + 1, {}}, site, key);
    offer = protocols::Encode(message);
  }
  Bytes ReceiptBody() const {
    protocols::Receipt receipt;
    receipt.key = manifest.key;
    receipt.content = manifest.content;
    const auto key = *crypto::SigningKey::Generate();
    return protocols::Encode(*crypto::SignDocument(key, crypto::domains::kReceipt, receipt));
  }

  Bytes bytes;
  std::vector<Bytes> blocks;
  protocols::ReleaseManifest manifest;
  Bytes offer;  // the OFFER's body
};

// The coordinator's end of one update.
struct SampleTaker {
  explicit SampleTaker(const protocols::ReleaseManifest& manifest)
      : receiver(manifest.content, manifest.ciphertext_bytes, manifest.blocks.items, {}) {}
  // False for a block that is not of the update.
  bool Take(const protocols::Chunk& chunk) {
    const auto verdict = receiver.Check(chunk);
    if (verdict == transport::BlockReceiver::Verdict::kRefused) return false;
    stored[chunk.index].assign(chunk.bytes.begin(), chunk.bytes.end());
    return true;
  }
  Bytes All() const {
    Bytes all;
    for (const auto& [index, block] : stored) all.insert(all.end(), block.begin(), block.end());
    return all;
  }

  transport::BlockReceiver receiver;
  std::map<uint32_t, Bytes> stored;
};

}  // namespace tidegate::onshore
