// What every store does, whichever engine it lies in.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

#include "federation/server/shared_store.h"
#include "postgres_server.h"
#include "store_documents.h"

namespace tidegate::federation {
namespace {

namespace fs = std::filesystem;

enum class Engine : uint8_t { kSqlite, kPostgres };
void PrintTo(Engine engine, std::ostream* out) {
  *out << (engine == Engine::kSqlite ? "sqlite" : "postgres");
}

class StoreSuite : public ::testing::TestWithParam<Engine> {
 protected:
  void SetUp() override {
    std::string folder = (fs::path(::testing::TempDir()) / "store_suite_XXXXXX").native();
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    dir_ = folder;
    if (GetParam() == Engine::kSqlite) return;
    TIDEGATE_NEEDS_POSTGRES(server);
    const auto url = (*server)->NewDatabase();
    ASSERT_TRUE(url.has_value()) << url.error().ToString();
    url_ = *url;
  }
  void TearDown() override { fs::remove_all(dir_); }

  // As a process does that starts; the one before has ended.
  std::unique_ptr<Store> Open() {
    if (GetParam() == Engine::kSqlite) {
      auto store = OpenSqliteStore(dir_ / "store.db");
      EXPECT_TRUE(store.has_value()) << store.error().ToString();
      return store ? std::move(*store) : nullptr;
    }
    auto shared = SharedStore::Connect({url_, dir_, "suite", 10'000});
    EXPECT_TRUE(shared.has_value()) << shared.error().ToString();
    // The server may not have noticed yet that the connection before has ended.
    for (int i = 0; shared && i < 500; ++i) {
      auto opened = (*shared)->Take();
      EXPECT_TRUE(opened.has_value()) << opened.error().ToString();
      if (!opened) break;
      if (*opened) return std::move((**opened).store);
      ::usleep(10'000);
    }
    ADD_FAILURE() << "the lease is not free";
    return nullptr;
  }

  fs::path dir_;
  std::string url_;
};

TEST_P(StoreSuite, EveryCommitIsFoundWholeByWhoeverOpensItNext) {
  auto key = crypto::AgreeSecretKey::Generate();
  ASSERT_TRUE(key.has_value());
  const StoredUpdate a = UpdateOf("a", 1), b = UpdateOf("b", 2);
  const StoredContent moments{40, {Digest{1}, Digest{2}}};
  using Do = std::function<Status(Store&)>;
  const std::vector<std::pair<Do, const char*>> steps = {
      {[&](Store& s) { return s.PutSite(Site("a", 1)); }, "idle"},
      {[&](Store& s) { return s.PutSite(Site("b", 2)); }, "idle"},
      {[&](Store& s) {
         return s.AddJob({Job(), Document(3), "base", "{}"}, Document(4));
       },
       "idle"},
      {[&](Store& s) {
         return s.OpenRound(Job(), {1, 10}, Document(5), *key);
       },
       "collecting"},
      {[&](Store& s) { return s.AcceptUpdate(a, AcceptedEvent(a), Document(6)); }, "collecting"},
      {[&](Store& s) { return s.AcceptUpdate(b, AcceptedEvent(b), Document(7)); }, "aggregating"},
      {[&](Store& s) { return s.Publish(Job(), 1, {1}, Document(8), &moments); }, "ended"},
  };
  const crypto::Secret<32> secret = key->Serialize();
  for (size_t i = 0; i < steps.size(); ++i) {
    SCOPED_TRACE(i);
    {
      auto store = Open();
      ASSERT_NE(store, nullptr);
      ASSERT_TRUE(store->Begin().ok());
      ASSERT_TRUE(steps[i].first(*store).ok());
      // Dies in the turn.
    }
    {
      auto store = Open();
      ASSERT_NE(store, nullptr);
      EXPECT_STREQ(StateName(Replay(*store)), i == 0 ? "idle" : steps[i - 1].second);
      ASSERT_TRUE(store->Begin().ok());
      const Status status = steps[i].first(*store);
      ASSERT_TRUE(status.ok()) << status.ToString();
      ASSERT_TRUE(store->Commit().ok());
    }
    auto store = Open();
    ASSERT_NE(store, nullptr);
    EXPECT_STREQ(StateName(Replay(*store)), steps[i].second);
    EXPECT_EQ(store->Sites()->size(), std::min<size_t>(i + 1, 2));
    EXPECT_EQ(store->Jobs()->size(), i >= 2 ? 1u : 0u);
    const auto kept = store->RecipientKey(Job(), 1);
    EXPECT_EQ(kept.has_value(), i >= 3 && i < 6);
    if (kept) {
      EXPECT_TRUE(crypto::Equal(kept->Serialize().reveal(), secret.reveal()));
    }
    EXPECT_EQ(store->ReceiptOf(a.key)->has_value(), i >= 4);
    EXPECT_EQ(store->Updates(Job(), 1)->size(), i < 4 ? 0u : std::min<size_t>(i - 3, 2));
    if (i < 2) continue;
    EXPECT_EQ(**store->Version(Job(), {}), i == 6 ? Document(8) : Document(4));
    EXPECT_EQ(*store->Moments(Job()), i == 6 ? std::optional(moments) : std::nullopt);
  }
}

TEST_P(StoreSuite, ItIsOneFederationsWithItsKeys) {
  auto store = Open();
  ASSERT_TRUE(store->BindFederation({Job()}).ok());
  EXPECT_TRUE(store->BindFederation({Job()}).ok());
  EXPECT_EQ(store->BindFederation({}).code(), Code::kFailedPrecondition);
  EXPECT_EQ(store->BindFederation({Job(), {1}}).code(), Code::kFailedPrecondition);
  EXPECT_EQ(store->BindFederation({Job(), {}, {1}}).code(), Code::kFailedPrecondition);
}

TEST_P(StoreSuite, ARefusedWriteLeavesTheRestOfItsTurn) {
  auto store = Open();
  ASSERT_TRUE(store->PutSite(Site("a", 1)).ok());
  ASSERT_TRUE(store->Begin().ok());
  ASSERT_TRUE(store->PutSite(Site("b", 2)).ok());
  EXPECT_EQ(store->PutSite(Site("c", 1)).code(), Code::kAlreadyExists) << "a's CURVE key";
  ASSERT_TRUE(store->PutSite(Site("d", 4)).ok());
  ASSERT_TRUE(store->Commit().ok());
  const auto sites = *store->Sites();
  ASSERT_EQ(sites.size(), 3u);
  EXPECT_EQ(sites[2].name, "d");
}

TEST_P(StoreSuite, TheLogTellsItsLinesInOrderAndInParts) {
  auto store = Open();
  ASSERT_TRUE(store->AddJob({Job(), Document(3), "base", "{}"}, Document(4)).ok());
  for (int64_t i = 1; i <= 5; ++i) ASSERT_TRUE(store->LogTime(Job(), {i}).ok());
  const auto first = *store->EventLog(Job(), 0, 3);
  ASSERT_EQ(first.size(), 3u);
  const auto rest = *store->EventLog(Job(), first[2].number, 10);
  ASSERT_EQ(rest.size(), 2u);
  EXPECT_EQ(rest[1].unix_millis, 5);
  EXPECT_STREQ(rest[1].kind, "time_passed");
}

TEST_P(StoreSuite, AKeyHasOneReceiptForEver) {
  auto store = Open();
  auto key = crypto::AgreeSecretKey::Generate();
  ASSERT_TRUE(store->PutSite(Site("a", 1)).ok());
  ASSERT_TRUE(store->AddJob({Job(), Document(3), "base", "{}"}, Document(4)).ok());
  ASSERT_TRUE(store->OpenRound(Job(), {1, 10}, Document(5), *key).ok());
  const StoredUpdate first = UpdateOf("a", 1), second = UpdateOf("a", 2);
  ASSERT_TRUE(store->AcceptUpdate(first, AcceptedEvent(first), Document(6)).ok());
  EXPECT_EQ(store->AcceptUpdate(second, AcceptedEvent(second), Document(7)).code(),
            Code::kAlreadyExists);
  EXPECT_EQ(**store->ReceiptOf(first.key), Document(6));
  EXPECT_EQ(store->Events(Job())->size(), 2u) << "the refused update left an event";
  EXPECT_EQ((*store->Update(first.key))->content, first.content);
}

TEST_P(StoreSuite, ASiteInForceKeepsItsKeysAndARevokedOneMayComeBackWithOthers) {
  auto store = Open();
  ASSERT_TRUE(store->PutSite(Site("a", 1)).ok());
  EXPECT_TRUE(store->PutSite(Site("a", 1)).ok()) << "the same approval again";
  EXPECT_EQ(store->PutSite(Site("a", 2)).code(), Code::kAlreadyExists);
  EXPECT_EQ(store->PutSite(Site("b", 1)).code(), Code::kAlreadyExists) << "a's CURVE key";
  ASSERT_TRUE(store->RevokeSite("a", 9).ok());
  EXPECT_EQ(store->RevokeSite("a", 9).code(), Code::kNotFound);
  EXPECT_TRUE(store->PutSite(Site("a", 2)).ok());
  EXPECT_EQ(store->Sites()->front().revoked_unix_millis, 0);
}

TEST_P(StoreSuite, TheHeadOfALedgerIsOneOfItsSitesKeyAndMarkedUntilTheSiteIsApprovedAgain) {
  auto store = Open();
  const StoredSite site = Site("a", 1);
  ASSERT_TRUE(store->PutSite(site).ok());
  EXPECT_EQ(*store->Head("a", site.sign_key), std::nullopt);
  StoredHead head{7, Digest{3}, 0};
  ASSERT_TRUE(store->PutHead("a", site.sign_key, head).ok());
  EXPECT_EQ(*store->Head("a", site.sign_key), head);
  EXPECT_EQ(*store->Head("a", {}), std::nullopt) << "another key's ledger is another";
  EXPECT_EQ(*store->Head("b", site.sign_key), std::nullopt);
  head = {7, Digest{3}, 99};
  ASSERT_TRUE(store->PutHead("a", site.sign_key, head).ok());
  EXPECT_EQ(*store->Head("a", site.sign_key), head);
  ASSERT_TRUE(store->PutSite(site).ok());
  head.set_back_unix_millis = 0;
  EXPECT_EQ(*store->Head("a", site.sign_key), head);
}

TEST_P(StoreSuite, WhoWasAskedComesBackAndMomentsAreThoseOfTheNewestVersion) {
  auto store = Open();
  auto key = crypto::AgreeSecretKey::Generate();
  ASSERT_TRUE(store->AddJob({Job(), Document(3), "base", "{}"}, Document(4)).ok());
  ASSERT_TRUE(store->OpenRound(Job(), {1, 10, {"a", "b"}}, Document(5), *key).ok());
  ASSERT_TRUE(store->OpenRound(Job(), {2, 20}, Document(5), *key).ok());
  const auto events = *store->Events(Job());
  EXPECT_EQ(std::get<RoundOpened>(events.at(0)).asked, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(std::get<RoundOpened>(events.at(1)).asked.empty());
  const StoredContent first{4, {Digest{1}}}, second{8, {Digest{2}, Digest{3}}};
  ASSERT_TRUE(store->Publish(Job(), 1, {1}, Document(6), &first).ok());
  EXPECT_EQ(*store->Moments(Job()), first);
  ASSERT_TRUE(store->Publish(Job(), 2, {2}, Document(7), &second).ok());
  EXPECT_EQ(*store->Moments(Job()), second);
  ASSERT_TRUE(store->Publish(Job(), 3, {3}, Document(8), nullptr).ok());
  EXPECT_EQ(*store->Moments(Job()), std::nullopt);
}

TEST_P(StoreSuite, TheNewestUpdateOfEachSiteIsTheLastThatWasCounted) {
  auto store = Open();
  auto key = crypto::AgreeSecretKey::Generate();
  ASSERT_TRUE(store->PutSite(Site("a", 1)).ok());
  ASSERT_TRUE(store->PutSite(Site("b", 2)).ok());
  ASSERT_TRUE(store->AddJob({Job(), Document(3), "base", "{}"}, Document(4)).ok());
  EXPECT_TRUE(store->NewestUpdates(Job())->empty());
  for (uint32_t round = 1; round <= 3; ++round) {
    ASSERT_TRUE(store->OpenRound(Job(), {round, 10}, Document(5), *key).ok());
    for (const std::string site : {"a", "b"}) {
      StoredUpdate update = UpdateOf(site, static_cast<uint8_t>(round));
      update.key.round = round;
      update.train_loss_milli = 1000 * round + (site == "a" ? 1 : 2);
      update.heldout_loss_milli = 5000 * round;
      const bool late = site == "b" && round == 3;
      if (late) update.outcome = protocols::ReceiptOutcome::kLate;
      const auto event = late ? std::nullopt : std::optional(AcceptedEvent(update));
      ASSERT_TRUE(store->AcceptUpdate(update, event, Document(6)).ok());
    }
  }
  const auto newest = *store->NewestUpdates(Job());
  ASSERT_EQ(newest.size(), 2u);
  EXPECT_EQ(newest[0].key.site.text, "a");
  EXPECT_EQ(newest[0].train_loss_milli, 3001u);
  EXPECT_EQ(newest[0].heldout_loss_milli, 15000u);
  EXPECT_EQ(newest[1].key.round, 2u);
  EXPECT_EQ(newest[1].train_loss_milli, 2002u);
}

TEST_P(StoreSuite, EquivocationsAreKeptOnceAKey) {
  auto store = Open();
  const StoredUpdate update = UpdateOf("a", 1);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(store->LogEquivocation(update.key, update.content, i).ok());
  }
  EXPECT_EQ(*store->Equivocations(), 1u);
}

INSTANTIATE_TEST_SUITE_P(Sqlite, StoreSuite, ::testing::Values(Engine::kSqlite));
INSTANTIATE_TEST_SUITE_P(Postgres, StoreSuite, ::testing::Values(Engine::kPostgres));

}  // namespace
}  // namespace tidegate::federation
