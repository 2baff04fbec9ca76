#include "books.h"

#include <gtest/gtest.h>

#include <cstring>

#include "audit/ledger_verify.h"
#include "base/file.h"
#include "blocks/block_store.h"
#include "crypto/document.h"
#include "crypto/keyfile.h"
#include "federation/server/store.h"
#include "gate/ledger_file.h"
#include "onshore/gate_process/spool.h"

namespace tidegate::federation_processes {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kQuota = 1ull << 30;
constexpr uint32_t kMostRounds = 100;

template <typename T>
Result<T> Decoded(ByteSpan bytes, const char* what) {
  auto value = protocols::Decode<T>(bytes);
  if (!value) return DataLoss("{}: {}", what, value.error().reason);
  return std::move(*value);
}

Result<std::vector<float>> ParametersOf(const protocols::AdapterManifest& manifest,
                                        blocks::BlockStore& store) {
  Bytes bytes;
  for (const Digest& id : manifest.blocks.items) {
    TG_ASSIGN_OR_RETURN(const Bytes block, store.Get(id));
    bytes.insert(bytes.end(), block.begin(), block.end());
  }
  if (bytes.size() != manifest.content_bytes) return DataLoss("an adapter of another size");
  std::vector<float> parameters(bytes.size() / sizeof(float));
  std::memcpy(parameters.data(), bytes.data(), bytes.size());
  return parameters;
}

}  // namespace

Result<SiteBooks> ReadSite(const fs::path& site_dir) {
  SiteBooks books;
  const fs::path gate = site_dir / "gate";
  TG_ASSIGN_OR_RETURN(books.ledger, ReadFile(gate / "ledger", gate::kMaxLedgerBytes));
  TG_ASSIGN_OR_RETURN(const auto entries, audit::ReadLedger(books.ledger, site_dir.native()));
  for (const gate::LedgerEntry& entry : entries) {
    const Bytes& body = entry.body.items;
    if (entry.type == gate::LeafType::kIntent) {
      TG_ASSIGN_OR_RETURN(auto intent, Decoded<gate::IntentLeaf>(body, "an intent"));
      books.intents.push_back(std::move(intent));
    } else if (entry.type == gate::LeafType::kReceipt) {
      TG_ASSIGN_OR_RETURN(auto receipt, Decoded<gate::ReceiptLeaf>(body, "a receipt"));
      books.receipts.push_back(std::move(receipt.receipt));
    } else if (entry.type == gate::LeafType::kAdapter) {
      TG_ASSIGN_OR_RETURN(auto adapter, Decoded<gate::AdapterLeaf>(body, "an adapter"));
      books.adapters.push_back(std::move(adapter));
    } else if (entry.type == gate::LeafType::kDataset) {
      TG_ASSIGN_OR_RETURN(auto dataset, Decoded<gate::DatasetLeaf>(body, "a dataset"));
      books.datasets.push_back(std::move(dataset));
    }
  }
  TG_ASSIGN_OR_RETURN(auto spool, onshore::GateSpool::Open(gate));
  TG_ASSIGN_OR_RETURN(const auto waiting, spool.spool().List());
  books.spooled = waiting.size();
  TG_ASSIGN_OR_RETURN(const auto document, spool.LoadDocument("adapter"));
  if (!document) return NotFound("{} has no adapter", gate.native());
  TG_ASSIGN_OR_RETURN(books.adapter, Decoded<protocols::AdapterManifest>(document->body.items,
                                                                         "the adapter's manifest"));
  TG_ASSIGN_OR_RETURN(books.parameters, ParametersOf(books.adapter, spool.inbox()));
  return books;
}

std::vector<uint32_t> CoordinatorBooks::Counted(const std::string& site) const {
  std::vector<uint32_t> rounds;
  for (const federation::Event& event : events) {
    const auto* accepted = std::get_if<federation::UpdateAccepted>(&event);
    if (accepted != nullptr && accepted->site == site) rounds.push_back(accepted->round);
  }
  return rounds;
}

Result<CoordinatorBooks> ReadCoordinator(const fs::path& coordinator_dir) {
  CoordinatorBooks books;
  TG_ASSIGN_OR_RETURN(const auto store, federation::OpenSqliteStore(coordinator_dir / "store.db"));
  TG_ASSIGN_OR_RETURN(auto blocks, blocks::BlockStore::Open(coordinator_dir / "blocks", kQuota));
  TG_ASSIGN_OR_RETURN(const auto jobs, store->Jobs());
  TG_ASSIGN_OR_RETURN(const crypto::SigningKey key,
                      crypto::ReadSigningKey(coordinator_dir / "keys" / "sign.key"));
  books.key = key.verify_key();
  if (jobs.size() != 1) return FailedPrecondition("{} jobs", jobs.size());
  books.id = jobs[0].id;
  TG_ASSIGN_OR_RETURN(books.job,
                      Decoded<protocols::JobManifest>(jobs[0].manifest.body.items, "the job"));
  TG_ASSIGN_OR_RETURN(books.events, store->Events(books.id));
  TG_ASSIGN_OR_RETURN(books.equivocations, store->Equivocations());
  for (uint32_t version = 0;; ++version) {
    TG_ASSIGN_OR_RETURN(const auto document, store->Version(books.id, version));
    if (!document) break;
    TG_ASSIGN_OR_RETURN(auto manifest,
                        Decoded<protocols::AdapterManifest>(document->body.items, "a version"));
    TG_ASSIGN_OR_RETURN(auto parameters, ParametersOf(manifest, blocks));
    books.versions.push_back(std::move(manifest));
    books.parameters.push_back(std::move(parameters));
  }
  for (uint32_t round = 1; round <= kMostRounds; ++round) {
    for (const protocols::Name& site : books.job.sites.items) {
      TG_ASSIGN_OR_RETURN(const auto receipt, store->ReceiptOf({books.id, round, 0, site}));
      if (receipt) books.receipts.emplace(std::pair(round, site.text), *receipt);
    }
  }
  if (books.versions.empty()) return DataLoss("the store has no version");
  return books;
}

void ExpectExactlyOnce(const CoordinatorBooks& coordinator, const SiteBooks& books,
                       const std::string& site, const std::vector<uint32_t>& rounds) {
  std::vector<uint32_t> exported, received;
  std::map<uint32_t, Digest> contents;
  for (const gate::IntentLeaf& intent : books.intents) {
    EXPECT_EQ(intent.key.job, coordinator.id) << site;
    EXPECT_EQ(intent.key.site.text, site);
    exported.push_back(intent.key.round);
    contents[intent.key.round] = intent.content;
  }
  EXPECT_EQ(exported, rounds) << site << ": rounds of the intents";
  for (const protocols::Signed& document : books.receipts) {
    const auto receipt = protocols::Decode<protocols::Receipt>(document.body.items);
    ASSERT_TRUE(receipt.has_value()) << site;
    const uint32_t round = receipt->key.round;
    received.push_back(round);
    EXPECT_EQ(receipt->content, contents[round]) << site << ": content of round " << round;
    const auto kept = coordinator.receipts.find({round, site});
    ASSERT_NE(kept, coordinator.receipts.end()) << site << ": round " << round;
    EXPECT_EQ(kept->second, document) << site << ": the receipt of round " << round;
    const auto verified =
        audit::VerifyLedger(books.ledger, site, coordinator.key, protocols::Encode(kept->second));
    ASSERT_TRUE(verified.has_value()) << site << ": " << verified.error().ToString();
    EXPECT_TRUE(verified->head_covers.has_value()) << site << ": round " << round;
    EXPECT_EQ(verified->exports, rounds.size()) << site;
  }
  std::sort(received.begin(), received.end());
  EXPECT_EQ(received, rounds) << site << ": rounds of the receipts";
}

void ExpectFinalAdapter(const CoordinatorBooks& coordinator, const SiteBooks& books,
                        const std::string& site) {
  EXPECT_TRUE(books.adapter.final) << site;
  EXPECT_EQ(books.adapter, coordinator.versions.back()) << site;
  EXPECT_EQ(books.parameters, coordinator.Final()) << site;
  EXPECT_EQ(books.spooled, 0u) << site;
  ASSERT_FALSE(books.adapters.empty()) << site;
  EXPECT_TRUE(books.adapters.back().final) << site;
  EXPECT_EQ(books.adapters.back().content, coordinator.versions.back().content) << site;
}

}  // namespace tidegate::federation_processes
