// Ed25519 and X25519 at their edges, case by case (tests/golden/curve_cases.py makes both tables).
#include <fstream>
#include <map>
#include <sstream>

#include "crypto/agree.h"
#include "crypto/hpke.h"
#include "crypto/sign.h"
#include "crypto/sign_internal.h"
#include "hex.h"

namespace tidegate::crypto {
namespace {

// Lines of words; comments left out.
std::vector<std::vector<std::string>> ReadTable(const std::string& name) {
  std::ifstream in(TIDEGATE_SOURCE_DIR "/tests/crypto/" + name);
  std::vector<std::vector<std::string>> rows;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("#")) continue;
    std::istringstream words(line);
    auto& row = rows.emplace_back();
    for (std::string word; words >> word;) row.push_back(word);
  }
  return rows;
}

TEST(Ed25519Edges, MatchesRfc8032) {
  const auto rows = ReadTable("rfc8032.txt");
  ASSERT_EQ(rows.size(), 5u);
  for (const auto& row : rows) {
    SCOPED_TRACE(row.at(0));
    const auto seed = MakeSecret<32>(Hex(row.at(1)), "seed");
    const auto key = SigningKey::FromSeed(*seed);
    ASSERT_TRUE(key);
    EXPECT_EQ(ToHex(key->verify_key().bytes()), row.at(2));
    const Bytes message = row.at(3) == "-" ? Bytes() : Hex(row.at(3));
    const auto signature = internal::BareEd25519::Sign(*key, message);
    ASSERT_TRUE(signature);
    EXPECT_EQ(ToHex(*signature), row.at(4));
    EXPECT_TRUE(internal::BareEd25519::Verify(key->verify_key(), message, Hex(row.at(4))).ok());
  }
}

TEST(Ed25519Edges, EachCaseIsAcceptedOrRefusedAsItsRowSays) {
  std::map<std::string, int> verdicts;
  int stricter_than_openssl = 0;
  for (const auto& row : ReadTable("ed25519_cases.txt")) {
    SCOPED_TRACE(row.at(0));
    ++verdicts[row.at(1)];
    if (row.at(1) != "ok" && row.at(2) == "accepts") ++stricter_than_openssl;
    const auto key = VerifyKey::FromBytes(Hex(row.at(3)));
    ASSERT_EQ(key.has_value(), row.at(1) != "key");
    if (!key) {
      EXPECT_EQ(key.error().code(), Code::kInvalidArgument);
      continue;
    }
    const Status status = internal::BareEd25519::Verify(*key, AsBytes("tidegate"), Hex(row.at(4)));
    EXPECT_EQ(status.code(), row.at(1) == "ok" ? Code::kOk : Code::kUnauthenticated);
  }
  EXPECT_EQ(verdicts["ok"], 2);
  EXPECT_EQ(verdicts["signature"], 20);
  EXPECT_EQ(verdicts["key"], 12);
  EXPECT_EQ(stricter_than_openssl, 7) << "OpenSSL alone would let these through";
}

// A signature of small order in R that its signer made for this very domain and payload.
TEST(Ed25519Edges, ASmallOrderRIsRefusedInEveryDomainAndNote) {
  const auto rows = ReadTable("ed25519_cases.txt");
  const auto row =
      std::find_if(rows.begin(), rows.end(), [](const auto& r) { return r.at(0) == "r-identity"; });
  ASSERT_NE(row, rows.end());
  const auto key = VerifyKey::FromBytes(Hex(row->at(3)));
  ASSERT_TRUE(key);
  const Status status = internal::BareEd25519::Verify(*key, AsBytes("tidegate"), Hex(row->at(4)));
  EXPECT_NE(status.message().find("small order"), std::string::npos) << status.message();
}

TEST(Ed25519Edges, AnEmptyPayloadIsAPayload) {
  const auto key = SigningKey::Generate();
  ASSERT_TRUE(key);
  const auto signature = key->Sign(domains::kJob, {});
  ASSERT_TRUE(signature);
  EXPECT_TRUE(key->verify_key().Verify(domains::kJob, {}, *signature).ok());
  EXPECT_FALSE(key->verify_key().Verify(domains::kJob, Bytes(1), *signature).ok());
  EXPECT_FALSE(key->verify_key().Verify(domains::kRound, {}, *signature).ok());
}

TEST(Ed25519Edges, AFlippedBitInAnyByteOfThePayloadOrKeyIsRefused) {
  const auto key = SigningKey::Generate();
  ASSERT_TRUE(key);
  Bytes payload = Counting(100, 3);
  const auto signature = key->Sign(domains::kJob, payload);
  ASSERT_TRUE(signature);
  for (size_t i = 0; i < payload.size(); ++i) {
    const auto flip = static_cast<uint8_t>(1u << i % 8);
    payload[i] ^= flip;
    EXPECT_FALSE(key->verify_key().Verify(domains::kJob, payload, *signature).ok()) << i;
    payload[i] ^= flip;
  }
  const ByteSpan key_bytes = key->verify_key().bytes();
  for (size_t i = 0; i < 32; ++i) {
    Bytes other(key_bytes.begin(), key_bytes.end());
    other[i] ^= static_cast<uint8_t>(1u << i % 8);
    const auto bad = VerifyKey::FromBytes(other);
    EXPECT_TRUE(!bad || !bad->Verify(domains::kJob, payload, *signature).ok()) << i;
  }
}

class X25519Edges : public ::testing::Test {
 protected:
  void SetUp() override {
    rows_ = ReadTable("x25519_cases.txt");
    ASSERT_EQ(rows_.size(), 27u);
    auto key = AgreeSecretKey::FromBytes(Hex(rows_[0].at(1)));
    ASSERT_TRUE(key);
    key_ = std::make_unique<AgreeSecretKey>(std::move(*key));
    rows_.erase(rows_.begin());
  }
  std::vector<std::vector<std::string>> rows_;
  std::unique_ptr<AgreeSecretKey> key_;
};

// RFC 7748: u is reduced and its top bit ignored, points of the twist are points; an all-zero
// secret is refused, as RFC 9180 demands.
TEST_F(X25519Edges, EachCaseGivesItsSecretOrIsRefused) {
  int refused = 0;
  for (const auto& row : rows_) {
    SCOPED_TRACE(row.at(0));
    const auto peer = AgreePublicKey::FromBytes(Hex(row.at(1)));
    if (row.at(2) == "refused") {
      ++refused;
      ASSERT_FALSE(peer);
      EXPECT_EQ(peer.error().code(), Code::kInvalidArgument);
      EXPECT_NE(peer.error().message().find("small order"), std::string::npos);
    } else {
      ASSERT_TRUE(peer) << peer.error().message();
      const auto shared = key_->Agree(*peer);
      ASSERT_TRUE(shared) << shared.error().message();
      EXPECT_EQ(ToHex(shared->reveal()), row.at(2));
    }
  }
  EXPECT_EQ(refused, 14);
}

// No recipient of HPKE goes on with such a point. (A sender can not be given one.)
TEST_F(X25519Edges, HpkeRefusesEveryPointOfSmallOrder) {
  for (const auto& row : rows_) {
    if (row.at(2) != "refused") continue;
    SCOPED_TRACE(row.at(0));
    EXPECT_EQ(SetupRecipient(Hex(row.at(1)), *key_, {}).error().code(), Code::kInvalidArgument);
  }
}

}  // namespace
}  // namespace tidegate::crypto
