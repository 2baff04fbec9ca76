#include <gtest/gtest.h>

#include <type_traits>

#include "crypto/checkpoint_note.h"
#include "crypto/hash.h"
#include "permit/outbound.h"
#include "permit/release.h"
#include "tests/permit/played_gate.h"

// The one class that may mint, played by the test.
namespace tidegate::gate {
class Review {
 public:
  static permit::Cleared<Bytes> Mint(Bytes value, permit::Binding binding) {
    return permit::Cleared<Bytes>(std::move(value), std::move(binding));
  }
};
}  // namespace tidegate::gate

namespace tidegate::permit {
namespace {

static_assert(!std::is_copy_constructible_v<Cleared<Bytes>>);
static_assert(!std::is_default_constructible_v<Cleared<Bytes>>);
static_assert(!std::is_constructible_v<Cleared<Bytes>, Bytes, Binding>);
static_assert(!std::is_default_constructible_v<ReleasePass>);
static_assert(!std::is_aggregate_v<ReleasePass>);
static_assert(!std::is_default_constructible_v<Release>);
static_assert(!std::is_constructible_v<Release, protocols::Signed, protocols::ReleaseManifest,
                                       crypto::VerifyKey>);
static_assert(!std::is_copy_assignable_v<Cleared<Bytes>> &&
              !std::is_move_assignable_v<Cleared<Bytes>>);
static_assert(!std::is_default_constructible_v<Outbound> && !std::is_aggregate_v<Outbound>);

Binding SampleBinding() {
  Binding binding;
  binding.key.round = 3;
  binding.key.site = "north";
  binding.bytes = 2;
  return binding;
}

TEST(Cleared, IsConsumedOnceAndOnlyForItsUse) {
  Cleared<Bytes> cleared = gate::Review::Mint({1, 2}, SampleBinding());
  EXPECT_EQ(*gate::Sealing::Consume(cleared, SampleBinding()), (Bytes{1, 2}));
  EXPECT_EQ(gate::Sealing::Consume(cleared, SampleBinding()).error().code(),
            Code::kFailedPrecondition);
  Binding other = SampleBinding();
  other.digest[0] = 1;
  Cleared<Bytes> second = gate::Review::Mint({1, 2}, SampleBinding());
  EXPECT_EQ(gate::Sealing::Consume(second, other).error().code(), Code::kPermissionDenied);
  EXPECT_EQ(gate::Sealing::Consume(second, SampleBinding()).error().code(),
            Code::kFailedPrecondition)
      << "a wrong use spends it";
  Cleared<Bytes> third = gate::Review::Mint({1, 2}, SampleBinding());
  Cleared<Bytes> moved = std::move(third);
  EXPECT_EQ(gate::Sealing::Consume(third, SampleBinding()).error().code(),
            Code::kFailedPrecondition);
  EXPECT_TRUE(gate::Sealing::Consume(moved, SampleBinding()).has_value());
}

TEST(Cleared, IsBoundToJobRoundPhaseSiteSizeAndDigest) {
  Binding uses[6];
  for (Binding& use : uses) use = SampleBinding();
  uses[0].key.job[0] = 1;
  ++uses[1].key.round;
  ++uses[2].key.phase;
  uses[3].key.site = "south";
  ++uses[4].bytes;
  uses[5].digest[31] = 1;
  for (const Binding& use : uses) {
    Cleared<Bytes> cleared = gate::Review::Mint({1, 2}, SampleBinding());
    EXPECT_EQ(gate::Sealing::Consume(cleared, use).error().code(), Code::kPermissionDenied);
  }
}

TEST(Release, NeedsTheSitesSignatureFederationAndName) {
  const auto key = *crypto::SigningKey::Generate();
  protocols::ReleaseManifest manifest;
  manifest.federation[0] = 1;
  manifest.key.site = "north";
  const protocols::Signed document = gate::Sealing::Sign(key, manifest);
  EXPECT_TRUE(
      Release::Verify(document, key.verify_key(), manifest.federation, "north").has_value());
  EXPECT_EQ(
      Release::Verify(document, key.verify_key(), manifest.federation, "south").error().code(),
      Code::kPermissionDenied);
  EXPECT_EQ(Release::Verify(document, key.verify_key(), {}, "north").error().code(),
            Code::kPermissionDenied);
  protocols::Signed other = document;
  other.signature = *key.Sign(crypto::domains::kReceipt, document.body.items);
  EXPECT_EQ(Release::Verify(other, key.verify_key(), manifest.federation, "north").error().code(),
            Code::kUnauthenticated);
  other = document;
  other.body.items[20] ^= 1;
  EXPECT_EQ(Release::Verify(other, key.verify_key(), manifest.federation, "north").error().code(),
            Code::kUnauthenticated);
}

class OutboundTest : public testing::Test {
 protected:
  OutboundTest() {
    manifest_.key.site = "north";
    manifest_.ledger_index = 7;
    manifest_.blocks.items = {crypto::Sha256::Of(block_)};
  }
  Release Verified() {
    return *Release::Verify(gate::Sealing::Sign(key_, manifest_), key_.verify_key(), {}, "north");
  }
  std::string Head(uint64_t size, const std::string& name, const crypto::SigningKey& key) {
    return *crypto::SignCheckpoint({"tidegate.example/north", size, {}}, name, key);
  }

  const crypto::SigningKey key_ = *crypto::SigningKey::Generate();
  const Bytes block_ = Bytes(100, 5);
  protocols::ReleaseManifest manifest_;
};

TEST_F(OutboundTest, AnOfferIsTheReleaseAndAHeadThatCoversIt) {
  const std::string head = Head(8, "north", key_);
  const auto offer = Outbound::Offer(Verified(), head);
  ASSERT_TRUE(offer) << offer.error().message();
  EXPECT_EQ(offer->channel(), protocols::Channel::kControl);
  EXPECT_EQ(offer->type(), protocols::MessageType::kOffer);
  const auto message = protocols::Decode<protocols::Offer>(offer->body());
  ASSERT_TRUE(message);
  EXPECT_EQ(message->release, Verified().document());
  EXPECT_EQ(message->ledger_head.text, head);
}

// Nor can the field of the head carry anything else out.
TEST_F(OutboundTest, AHeadThatIsNotTheSitesOrDoesNotCoverTheLeafIsRefused) {
  const auto code = [&](const std::string& head) {
    const auto offer = Outbound::Offer(Verified(), head);
    return offer ? Code::kOk : offer.error().code();
  };
  EXPECT_EQ(code(Head(8, "north", key_)), Code::kOk);
  EXPECT_EQ(code(Head(7, "north", key_)), Code::kPermissionDenied);
  EXPECT_EQ(code(Head(8, "south", key_)), Code::kUnauthenticated);
  EXPECT_EQ(code(Head(8, "north", *crypto::SigningKey::Generate())), Code::kUnauthenticated);
  EXPECT_EQ(code("any text\n"), Code::kInvalidArgument);
  EXPECT_EQ(code(Head(8, "north", key_) + "more\n"), Code::kInvalidArgument);
  EXPECT_EQ(code(""), Code::kInvalidArgument);
}

TEST_F(OutboundTest, ABlockIsTheOneThatWasReleased) {
  const auto chunk = Outbound::Block(Verified(), 0, block_);
  ASSERT_TRUE(chunk);
  EXPECT_EQ(chunk->channel(), protocols::Channel::kBulk);
  const auto decoded = protocols::DecodeChunk(chunk->body());
  ASSERT_TRUE(decoded);
  EXPECT_EQ(Bytes(decoded->bytes.begin(), decoded->bytes.end()), block_);
  Bytes other = block_;
  other[50] ^= 1;
  EXPECT_EQ(Outbound::Block(Verified(), 0, other).error().code(), Code::kPermissionDenied);
  EXPECT_EQ(Outbound::Block(Verified(), 1, block_).error().code(), Code::kPermissionDenied);
  EXPECT_EQ(Outbound::Block(Verified(), 0, {}).error().code(), Code::kPermissionDenied);
}

}  // namespace
}  // namespace tidegate::permit
