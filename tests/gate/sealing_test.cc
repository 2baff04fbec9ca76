#include "gate/sealing.h"

#include <gtest/gtest.h>

#include "crypto/document.h"
#include "gate_samples.h"
#include "permit/release.h"
#include "protocols/seal_binding.h"

namespace tidegate::gate {
namespace {

TEST(Sealing, WhatIsSealedOpensAsItWasAndOnlyAsWhatItWas) {
  const auto recipient = *crypto::AgreeSecretKey::Generate();
  const protocols::JobManifest job = SampleJob();
  protocols::RoundAnnouncement round;
  round.job = IdOf(job);
  round.round = 2;
  std::copy_n(recipient.public_key().bytes().begin(), 32, round.recipient.begin());
  const Bytes update = SampleUpdate(job, SampleHeader(job, 2));
  const std::string site = "north";
  const Digest layout = LayoutDigest(job);
  const protocols::Id16 id = IdOf(job);
  const auto judge = [&] {
    return Review::JudgeUpdate(
        {SamplePolicy(), job, round, id, site, layout, update, 70000, {}, false, std::nullopt});
  };
  auto verdict = judge();
  ASSERT_TRUE(verdict.cleared.has_value());
  const SealContext context{Federation(), job, round, layout};
  auto sealed = Seal(std::move(*verdict.cleared), context);
  ASSERT_TRUE(sealed.has_value()) << sealed.error().ToString();
  std::vector<ByteSpan> chunks;
  for (const auto& chunk : sealed->body.chunks) chunks.push_back(chunk.bytes);
  const protocols::UpdateKey key{id, 2, 0, site};
  const Bytes info = protocols::SealInfo(Federation(), job.suite);
  const Bytes aad = protocols::SealAad(key, job.base_hash, layout, job.codec);
  EXPECT_EQ(*crypto::OpenBody(sealed->body.header, chunks, recipient, info, aad, 1 << 20), update);
  const Bytes other = protocols::SealAad({id, 3, 0, site}, job.base_hash, layout, job.codec);
  EXPECT_FALSE(
      crypto::OpenBody(sealed->body.header, chunks, recipient, info, other, 1 << 20).has_value());

  const auto document = crypto::SignDocument(
      SiteKey(), crypto::domains::kRelease, MakeRelease(context, *sealed, verdict.intent, 5, 1000));
  ASSERT_TRUE(document.has_value());
  const auto release =
      permit::Release::Verify(*document, SiteKey().verify_key(), Federation(), site);
  ASSERT_TRUE(release.has_value());
  EXPECT_EQ(release->manifest().content, sealed->content);
  EXPECT_EQ(release->manifest().ledger_index, 5u);
  EXPECT_EQ(release->manifest().ciphertext_bytes, sealed->bytes);

  // A permit for round 2 does not seal for round 3.
  auto second = judge();
  protocols::RoundAnnouncement next = round;
  next.round = 3;
  EXPECT_EQ(Seal(std::move(*second.cleared), {Federation(), job, next, layout}).error().code(),
            Code::kPermissionDenied);
}

}  // namespace
}  // namespace tidegate::gate
