// What several processes that share a store may and may not do: the lease, the folder, the keys.
// Each test is of two holders, of which the first lost the lease in another way.
#include "federation/server/shared_store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/clock.h"
#include "base/file.h"
#include "postgres_server.h"
#include "store_documents.h"

namespace tidegate::federation {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kLong = 60'000;

class PostgresShared : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string folder = (fs::path(::testing::TempDir()) / "shared_store_XXXXXX").native();
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    dir_ = folder;
    TIDEGATE_NEEDS_POSTGRES(server);
    server_ = *server;
    const auto url = server_->NewDatabase();
    ASSERT_TRUE(url.has_value()) << url.error().ToString();
    url_ = *url;
  }
  void TearDown() override { fs::remove_all(dir_); }

  std::unique_ptr<SharedStore> Connect(const std::string& name, int64_t takeover_millis) {
    auto shared = SharedStore::Connect({url_, dir_, name, takeover_millis});
    EXPECT_TRUE(shared.has_value()) << shared.error().ToString();
    return shared ? std::move(*shared) : nullptr;
  }
  // At once, or nothing.
  static std::optional<OpenedStore> TryTake(SharedStore& shared) {
    auto opened = shared.Take();
    EXPECT_TRUE(opened.has_value()) << opened.error().ToString();
    return opened ? std::move(*opened) : std::nullopt;
  }
  static OpenedStore Take(SharedStore& shared) {
    const int64_t end = SystemClock().MonotonicMillis() + 20'000;
    while (SystemClock().MonotonicMillis() < end) {
      if (auto opened = TryTake(shared)) return std::move(*opened);
      ::usleep(5'000);
    }
    ADD_FAILURE() << "the lease is not free";
    return {};
  }
  std::string Ask(const std::string& sql) {
    const auto answer = server_->Ask(url_, sql);
    EXPECT_TRUE(answer.has_value()) << answer.error().ToString();
    return answer.value_or("");
  }
  // As if the database had not heard of the holder for long. The holder's thread may still be about
  // to renew what was just taken: then it is made so again.
  OpenedStore TakeExpired(SharedStore& shared) {
    const int64_t end = SystemClock().MonotonicMillis() + 20'000;
    while (SystemClock().MonotonicMillis() < end) {
      Ask("UPDATE lease SET until = clock_timestamp() - interval '1 second'");
      if (auto opened = TryTake(shared)) return std::move(*opened);
    }
    ADD_FAILURE() << "the lease is not free";
    return {};
  }

  PostgresServer* server_ = nullptr;
  fs::path dir_;
  std::string url_;
};

TEST_F(PostgresShared, OneHasTheLeaseAndTheOtherTakesItWhenTheFirstHasEnded) {
  auto first = Connect("one", kLong), second = Connect("two", kLong);
  auto held = TryTake(*first);
  ASSERT_TRUE(held.has_value());
  EXPECT_EQ(held->generation, 1);
  EXPECT_EQ(held->folder, dir_ / "state.1");
  EXPECT_FALSE(TryTake(*second).has_value());
  EXPECT_EQ(second->holder(), "one");
  ASSERT_TRUE(held->store->PutSite(Site("a", 1)).ok());
  held.reset();
  const OpenedStore next = Take(*second);
  EXPECT_EQ(next.generation, 2);
  EXPECT_EQ(next.folder, dir_ / "state.2");
  EXPECT_FALSE(fs::exists(dir_ / "state.1"));
  EXPECT_EQ(next.store->Sites()->size(), 1u);
}

TEST_F(PostgresShared, WhoIsSilentForTooLongLosesItAndCanWriteNothingMore) {
  auto first = Connect("one", kLong), second = Connect("two", kLong);
  auto held = TryTake(*first);
  ASSERT_TRUE(held.has_value());
  ASSERT_TRUE(held->store->PutSite(Site("a", 1)).ok());
  // Stopped in the middle of a turn: the other does not wait for its transaction.
  ASSERT_TRUE(held->store->Begin().ok());
  ASSERT_TRUE(held->store->PutSite(Site("b", 2)).ok());
  const OpenedStore next = TakeExpired(*second);
  ASSERT_NE(next.store, nullptr);
  EXPECT_EQ(held->store->StillOurs().code(), Code::kUnavailable);
  EXPECT_EQ(held->store->Commit().code(), Code::kUnavailable);
  EXPECT_EQ(held->store->Begin().code(), Code::kUnavailable);
  EXPECT_EQ(next.store->Sites()->size(), 1u);
  EXPECT_TRUE(next.store->PutSite(Site("b", 3)).ok());
}

TEST_F(PostgresShared, WhoseSessionLivesOnIsRefusedByTheNumberOfTheLease) {
  auto first = Connect("one", kLong), second = Connect("two", kLong);
  auto held = TryTake(*first);
  ASSERT_TRUE(held.has_value());
  // Its session is taken for another's, and so not ended.
  Ask("UPDATE lease SET backend = 0");
  const OpenedStore next = Take(*second);
  ASSERT_NE(next.store, nullptr);
  for (const Status& status :
       {held->store->Begin(), held->store->PutSite(Site("a", 1)), held->store->LogTime(Job(), {1}),
        held->store->LogEquivocation({Job(), 1, 0, "a"}, {}, 1), held->store->RevokeSite("a", 1),
        held->store->PutHead("a", {}, {}), held->store->PutNotice(Job(), 1, Document(1)),
        held->store->AddJob({Job(), Document(3), "base", "{}"}, Document(4))}) {
    EXPECT_EQ(status.code(), Code::kUnavailable) << status.ToString();
    EXPECT_NE(status.message().find("another coordinator has taken over"), std::string::npos);
  }
  EXPECT_EQ(held->store->StillOurs().code(), Code::kUnavailable);
  EXPECT_TRUE(next.store->Sites()->empty());
}

TEST_F(PostgresShared, ATurnThatHasBegunEndsBeforeAnotherTakesOver) {
  auto first = Connect("one", kLong), second = Connect("two", kLong);
  auto held = TryTake(*first);
  ASSERT_TRUE(held->store->Begin().ok());
  Ask("UPDATE lease SET backend = 0");
  EXPECT_FALSE(TryTake(*second).has_value()) << "its row is held by the turn";
  ASSERT_TRUE(held->store->PutSite(Site("a", 1)).ok());
  ASSERT_TRUE(held->store->Commit().ok());
  EXPECT_TRUE(held->store->StillOurs().ok());
  EXPECT_EQ(Take(*second).store->Sites()->size(), 1u);
}

TEST_F(PostgresShared, ALongTurnKeepsTheLeaseWhileItsThreadRenewsIt) {
  auto first = Connect("one", 4'000), second = Connect("two", kLong);
  auto held = TryTake(*first);
  ASSERT_TRUE(held.has_value());
  ASSERT_TRUE(held->store->Begin().ok());
  // A time that nobody but the thread replaces.
  Ask("UPDATE lease SET until = 'infinity'");
  const int64_t end = SystemClock().MonotonicMillis() + 20'000;
  while (Ask("SELECT until < 'infinity' FROM lease") != "t\n") {
    ASSERT_LT(SystemClock().MonotonicMillis(), end) << "the turn keeps the thread from renewing";
  }
  EXPECT_FALSE(TryTake(*second).has_value());
  ASSERT_TRUE(held->store->PutSite(Site("a", 1)).ok());
  EXPECT_TRUE(held->store->Commit().ok());
}

TEST_F(PostgresShared, NeitherTheDatabaseNorTheFolderAloneHasARoundsKey) {
  auto key = crypto::AgreeSecretKey::Generate();
  auto first = Connect("one", kLong);
  auto held = TryTake(*first);
  ASSERT_TRUE(held->store->AddJob({Job(), Document(3), "base", "{}"}, Document(4)).ok());
  ASSERT_TRUE(held->store->OpenRound(Job(), {1, 10}, Document(5), *key).ok());
  const auto secret = key->Serialize();
  const std::string row = Ask("SELECT encode(recipient_secret, 'hex') FROM rounds");
  EXPECT_EQ(row.size(), 65u);
  EXPECT_EQ(row.find(ToHex(secret.reveal())), std::string::npos);
  const auto files = [&] {
    std::vector<fs::path> found;
    for (const auto& entry : fs::recursive_directory_iterator(dir_)) {
      if (entry.path().parent_path().filename() == "round-keys") found.push_back(entry.path());
    }
    return found;
  };
  ASSERT_EQ(files().size(), 1u);
  const fs::path half = files()[0];
  EXPECT_EQ(fs::status(half).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  const auto bytes = ReadFile(half, 64);
  ASSERT_TRUE(bytes.has_value());
  EXPECT_FALSE(crypto::Equal(*bytes, secret.reveal()));
  // With another link to the file, what its erasing leaves can be seen.
  fs::create_hard_link(half, dir_ / "link");
  ASSERT_TRUE(held->store->PutNotice(Job(), 1, Document(9)).ok());
  EXPECT_EQ(files().size(), 1u) << "the commit comes first";
  ASSERT_TRUE(held->store->Checkpoint().ok());
  EXPECT_TRUE(files().empty());
  EXPECT_EQ(*ReadFile(dir_ / "link", 64), Bytes(64, 0));
  EXPECT_EQ(held->store->RecipientKey(Job(), 1).error().code(), Code::kNotFound);
}

TEST_F(PostgresShared, AHalfOfAKeyThatNoRowHasIsErasedByTheNextHolder) {
  auto key = crypto::AgreeSecretKey::Generate();
  auto first = Connect("one", kLong), second = Connect("two", kLong);
  auto held = TryTake(*first);
  ASSERT_TRUE(held->store->AddJob({Job(), Document(3), "base", "{}"}, Document(4)).ok());
  ASSERT_TRUE(held->store->OpenRound(Job(), {1, 10}, Document(5), *key).ok());
  ASSERT_TRUE(held->store->Begin().ok());
  ASSERT_TRUE(held->store->OpenRound(Job(), {2, 10}, Document(5), *key).ok());
  held.reset();
  const OpenedStore next = Take(*second);
  const auto count = std::distance(fs::directory_iterator(next.folder / "round-keys"), {});
  EXPECT_EQ(count, 1);
  EXPECT_TRUE(next.store->RecipientKey(Job(), 1).has_value());
}

TEST_F(PostgresShared, AFolderThatIsNotTheStoresIsRefused) {
  auto first = Connect("one", kLong);
  auto held = TryTake(*first);
  ASSERT_TRUE(held.has_value());
  held.reset();
  fs::remove_all(dir_);
  fs::create_directories(dir_);
  auto second = Connect("two", kLong);
  const int64_t end = SystemClock().MonotonicMillis() + 20'000;
  auto opened = second->Take();
  while (opened && !*opened && SystemClock().MonotonicMillis() < end) opened = second->Take();
  ASSERT_FALSE(opened.has_value());
  EXPECT_EQ(opened.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(opened.error().message().find("is it mounted?"), std::string::npos);
}

TEST_F(PostgresShared, APasswordInTheUrlIsRefusedAndNotRepeated) {
  for (const char* url :
       {"postgresql://tidegate:hunter2@localhost/db", "postgresql://localhost/db?password=hunter2",
        "postgresql://localhost/db?hunter2", "mysql://hunter2/"}) {
    const auto shared = SharedStore::Connect({url, dir_, "one", kLong});
    ASSERT_FALSE(shared.has_value()) << url;
    EXPECT_EQ(shared.error().code(), Code::kInvalidArgument);
    EXPECT_EQ(shared.error().message().find("hunter2"), std::string::npos);
  }
}

TEST_F(PostgresShared, ADatabaseThatDoesNotAnswerAndOneOfANewerSchemaAreNamed) {
  const auto nobody =
      SharedStore::Connect({"postgresql:///none?host=" + dir_.native(), dir_, "one", kLong});
  EXPECT_EQ(nobody.error().code(), Code::kUnavailable) << nobody.error().ToString();
  { auto first = Connect("one", kLong); }
  Ask("UPDATE schema_version SET version = 99");
  const auto newer = SharedStore::Connect({url_, dir_, "one", kLong});
  EXPECT_EQ(newer.error().code(), Code::kFailedPrecondition) << newer.error().ToString();
}

// As a store of schema 3 was: without the heads of ledgers.
TEST_F(PostgresShared, AStoreOfAnOlderSchemaIsBroughtToThisOne) {
  { auto first = Connect("one", kLong); }
  Ask("DROP TABLE heads; UPDATE schema_version SET version = 3");
  auto second = Connect("two", kLong);
  auto held = TryTake(*second);
  ASSERT_TRUE(held.has_value());
  EXPECT_TRUE(held->store->PutHead("a", {}, {3, {}, 0}).ok());
  EXPECT_EQ(Ask("SELECT version FROM schema_version"), "4\n");
}

}  // namespace
}  // namespace tidegate::federation
