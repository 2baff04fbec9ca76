#include <gtest/gtest.h>

#include <type_traits>

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
static_assert(!std::is_constructible_v<Release, protocols::Signed, protocols::ReleaseManifest>);

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

}  // namespace
}  // namespace tidegate::permit
