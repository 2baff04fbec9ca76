#include "tokens/sharded_tokens.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <fstream>
#include <numeric>
#include <set>

#include "tokens/sample_order.h"

namespace tidegate::tokens {
namespace {

constexpr ShardKind kKind{.vocab_size = 1000, .tokenizer = 0x1234, .end_of_text = 7};

class Shards : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tg-shards-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // A shard of documents of these lengths; ids count up through the vocabulary.
  TokenIndex::Entry Write(const std::string& file, const std::vector<size_t>& documents,
                          const ShardKind& kind = kKind) {
    auto writer = ShardWriter::Create(folder_ / file, kind);
    EXPECT_TRUE(writer.has_value());
    for (const size_t length : documents) {
      std::vector<int32_t> ids(length);
      for (int32_t& id : ids) id = static_cast<int32_t>(next_++ % kind.vocab_size);
      EXPECT_TRUE(writer->Append(ids).ok());
      writer->EndDocument();
    }
    EXPECT_FALSE(std::filesystem::exists(folder_ / file)) << "before its end nothing is there";
    const auto facts = writer->Finish();
    EXPECT_TRUE(facts.has_value());
    return {file, *facts};
  }

  ShardedTokens TwoShards() {
    const TokenIndex index{kKind, {Write("a", {5, 10, 1}), Write("b", {2000, 3})}, 5};
    EXPECT_TRUE(WriteTokenIndex(folder_, index).ok());
    auto tokens = ShardedTokens::Open(folder_);
    EXPECT_TRUE(tokens.has_value()) << (tokens ? "" : tokens.error().ToString());
    return std::move(*tokens);
  }

  void Put(const std::string& file, ByteSpan bytes) {
    std::ofstream(folder_ / file, std::ios::binary) << AsText(bytes);
  }

  void Change(const std::string& file, size_t at, uint8_t by) {
    Bytes bytes = *ReadFile(folder_ / file, 1 << 20);
    bytes[at] ^= by;
    Put(file, bytes);
  }

  std::filesystem::path folder_;
  uint64_t next_ = 0;
};

TEST_F(Shards, AStreamOverShardsGivesEveryTokenInItsPlace) {
  const ShardedTokens tokens = TwoShards();
  EXPECT_EQ(tokens.tokens(), 2019u);
  EXPECT_EQ(tokens.documents(), 5u);
  EXPECT_EQ(tokens.kind(), kKind);
  EXPECT_TRUE(tokens.Verify().ok());
  for (const auto& [first, count] : std::vector<std::pair<uint64_t, size_t>>{
           {0, 2019}, {0, 1}, {15, 2}, {16, 100}, {2018, 1}, {2019, 0}}) {
    std::vector<int32_t> out(count);
    ASSERT_TRUE(tokens.Read(first, out).ok());
    for (size_t i = 0; i < count; ++i) EXPECT_EQ(out[i], static_cast<int32_t>((first + i) % 1000));
  }
  std::vector<int32_t> beyond(2);
  EXPECT_EQ(tokens.Read(2018, beyond).code(), Code::kInvalidArgument);
  EXPECT_EQ(tokens.Read(UINT64_MAX, beyond).code(), Code::kInvalidArgument);
}

TEST_F(Shards, LargeVocabulariesHaveFourBytesAToken) {
  const ShardKind large{.vocab_size = 100'000, .tokenizer = 1, .end_of_text = -1};
  next_ = 70'000;
  const auto entry = Write("wide", {100}, large);
  EXPECT_EQ(entry.facts.bytes, 128u + 400 + 8);
  const auto shard = Shard::Open(folder_ / "wide");
  ASSERT_TRUE(shard.has_value());
  std::vector<int32_t> out(100);
  ASSERT_TRUE(shard->Read(0, out).ok());
  EXPECT_EQ(out[99], 70'099);
  EXPECT_EQ(shard->kind(), large);
}

TEST_F(Shards, DocumentsEndWhereTheyWereEnded) {
  Write("a", {5, 10, 1});
  const auto shard = Shard::Open(folder_ / "a");
  ASSERT_TRUE(shard.has_value());
  ASSERT_EQ(shard->facts().documents, 3u);
  EXPECT_EQ(shard->DocumentEnd(0), 5u);
  EXPECT_EQ(shard->DocumentEnd(1), 15u);
  EXPECT_EQ(shard->DocumentEnd(2), 16u);
}

TEST_F(Shards, IdsOutsideTheVocabularyAreRefused) {
  auto writer = ShardWriter::Create(folder_ / "a", kKind);
  EXPECT_EQ(writer->Append(std::vector<int32_t>{1000}).code(), Code::kInvalidArgument);
  EXPECT_EQ(writer->Append(std::vector<int32_t>{-1}).code(), Code::kInvalidArgument);
  EXPECT_EQ(writer->Finish().error().code(), Code::kFailedPrecondition);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a"));
}

TEST_F(Shards, AFlippedBitAnywhereIsFound) {
  const auto entry = Write("a", {5, 10, 1});
  for (size_t at = 0; at < entry.facts.bytes; ++at) {
    Change("a", at, 0x80);
    const auto shard = Shard::Open(folder_ / "a");
    EXPECT_TRUE(!shard || shard->Verify().code() == Code::kDataLoss) << "byte " << at;
    Change("a", at, 0x80);
  }
  EXPECT_TRUE(Shard::Open(folder_ / "a")->Verify().ok());
}

TEST_F(Shards, ACutFileIsNoShard) {
  const auto entry = Write("a", {5, 10, 1});
  const Bytes whole = *ReadFile(folder_ / "a", 1 << 20);
  for (size_t size = 0; size < whole.size(); ++size) {
    Put("a", ByteSpan(whole).first(size));
    EXPECT_FALSE(Shard::Open(folder_ / "a").has_value()) << size;
  }
}

TEST_F(Shards, AFolderIsHeldToItsIndex) {
  TwoShards();
  Write("c", {2000, 4});
  std::filesystem::rename(folder_ / "c", folder_ / "b");
  EXPECT_EQ(ShardedTokens::Open(folder_).error().code(), Code::kDataLoss);
  std::filesystem::remove(folder_ / "index.json");
  EXPECT_EQ(ShardedTokens::Open(folder_).error().code(), Code::kNotFound);
}

TEST_F(Shards, IndexesThatCannotBeAreRefused) {
  TwoShards();
  const std::string good = *ReadTextFile(folder_ / "index.json", 1 << 20);
  const std::vector<std::pair<std::string, std::string>> changes = {
      {"\"a\"", "\"../a\""},
      {"\"a\"", "\"\""},
      {"\"a\"", "7"},
      {"1000", "-1"},
      {"1000", "99999999999"},
      {"\"version\": 1", "\"version\": 2"},
      {"\"shards\": [", "\"shards\": [5,"},
      {"tidegate tokens", "tokens"},
      {"\"tidegate tokens\"", "7"},
      {"\"format\"", "\"shape\""}};
  for (const auto& [from, to] : changes) {
    std::string bad = good;
    ASSERT_NE(bad.find(from), std::string::npos) << from;
    bad.replace(bad.find(from), from.size(), to);
    Put("index.json", AsBytes(bad));
    EXPECT_FALSE(ShardedTokens::Open(folder_).has_value()) << to;
  }
}

TEST_F(Shards, EachEpochHasEverySampleOnceInAnOrderOfItsOwn) {
  const ShardedTokens tokens = TwoShards();
  const auto stream = SampleStream::Make(tokens, 10, 3, true);
  ASSERT_TRUE(stream.has_value());
  EXPECT_EQ(stream->samples_per_epoch(), 201u);
  std::vector<std::vector<int32_t>> firsts(3);
  for (uint64_t index = 0; index < 603; ++index) {
    std::vector<int32_t> ids(11);
    ASSERT_TRUE(stream->Read(index, ids).ok());
    for (size_t i = 0; i < ids.size(); ++i)
      EXPECT_EQ(ids[i], (ids[0] + static_cast<int>(i)) % 1000);
    firsts[index / 201].push_back(ids[0]);
  }
  EXPECT_NE(firsts[0], firsts[1]);
  EXPECT_NE(firsts[1], firsts[2]);
  for (auto& epoch : firsts) std::sort(epoch.begin(), epoch.end());
  EXPECT_EQ(firsts[0], firsts[1]);
  EXPECT_EQ(firsts[1], firsts[2]);
}

TEST_F(Shards, FingerprintsTellTokensSeedsAndLengthsApart) {
  const ShardedTokens tokens = TwoShards();
  std::set<uint64_t> seen;
  for (const int64_t length : {10, 11}) {
    for (const uint64_t seed : {1, 2}) {
      seen.insert(SampleStream::Make(tokens, length, seed, true)->fingerprint());
    }
    seen.insert(SampleStream::Make(tokens, length, 1, false)->fingerprint());
  }
  EXPECT_EQ(seen.size(), 6u);
  EXPECT_EQ(SampleStream::Make(tokens, 2019, 1, true).error().code(), Code::kInvalidArgument);
  EXPECT_TRUE(SampleStream::Make(tokens, 2018, 1, true).has_value());
}

TEST(SampleOrder, IsAPermutationOfAnyCount) {
  for (const uint64_t count : {1, 2, 3, 4, 5, 15, 16, 17, 1000, 4097}) {
    const SampleOrder order(9, 2, count);
    std::vector<bool> seen(count);
    for (uint64_t place = 0; place < count; ++place) {
      const uint64_t at = order.At(place);
      ASSERT_LT(at, count);
      ASSERT_FALSE(seen[at]) << count << " at " << place;
      seen[at] = true;
    }
  }
  // A few places of more samples than any table could hold.
  const SampleOrder huge(9, 2, uint64_t{1} << 45);
  std::set<uint64_t> seen;
  for (uint64_t place = 0; place < 1000; ++place) seen.insert(huge.At(place * 35'184'372'088));
  EXPECT_EQ(seen.size(), 1000u);
}

// Where an item lands says nothing of where it was: the correlation of place and item is that of
// chance (its standard deviation is 1/sqrt(n)), and few items stay with their neighbour.
TEST(SampleOrder, LooksLikeChance) {
  constexpr uint64_t kCount = 10'007;
  for (const uint64_t seed : {1, 2, 3}) {
    const SampleOrder order(seed, 0, kCount);
    double product = 0;
    int neighbours = 0;
    for (uint64_t place = 0; place < kCount; ++place) {
      const double x = static_cast<double>(place) / kCount - 0.5;
      const double y = static_cast<double>(order.At(place)) / kCount - 0.5;
      product += x * y;
      neighbours += place > 0 && order.At(place) == order.At(place - 1) + 1;
    }
    EXPECT_LT(std::fabs(12 * product / kCount), 5 / std::sqrt(static_cast<double>(kCount)));
    EXPECT_LT(neighbours, 10);
  }
}

}  // namespace
}  // namespace tidegate::tokens
