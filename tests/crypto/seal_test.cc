// Sealed bodies: they come back, their size tells the bucket alone, and nothing altered opens.
#include "crypto/seal.h"

#include <map>
#include <sstream>

#include "crypto/gcm.h"
#include "crypto/hash.h"
#include "hex.h"
#include "open_body.h"
#include "protocols/seal_binding.h"
#include "tests/protocols/update_sample.h"

namespace tidegate::crypto {
namespace {

constexpr size_t kKiB = 1024;

Bytes Pattern(size_t size) {
  Bytes out(size);
  for (size_t i = 0; i < size; ++i) out[i] = static_cast<uint8_t>((i * 2654435761u) >> 13);
  return out;
}

std::vector<ByteSpan> Spans(const std::vector<SealedChunk>& chunks) {
  std::vector<ByteSpan> out;
  for (const SealedChunk& chunk : chunks) out.push_back(chunk.bytes);
  return out;
}

class Seal : public ::testing::Test {
 protected:
  void SetUp() override {
    auto key = AgreeSecretKey::Generate();
    ASSERT_TRUE(key);
    key_ = std::make_unique<AgreeSecretKey>(std::move(*key));
  }

  SealedBody Sealed(ByteSpan plaintext) {
    auto body = Sealer(key_->public_key(), Suite::kTg1, Counting(4, 1)).Seal(plaintext, aad_);
    EXPECT_TRUE(body);
    return std::move(*body);
  }
  Result<Bytes> Open(const SealHeader& header, const std::vector<ByteSpan>& chunks) {
    return OpenBody(header, chunks, *key_, Counting(4, 1), aad_);
  }

  std::unique_ptr<AgreeSecretKey> key_;
  Bytes aad_ = Counting(40, 9);
};

TEST(PadToBucket, StepsAreAsDocumented) {
  EXPECT_EQ(PadToBucket(0), 64 * kKiB);
  EXPECT_EQ(PadToBucket(1), 64 * kKiB);
  EXPECT_EQ(PadToBucket(64 * kKiB), 64 * kKiB);
  EXPECT_EQ(PadToBucket(64 * kKiB + 1), 128 * kKiB);
  EXPECT_EQ(PadToBucket(1024 * kKiB - 1), 1024 * kKiB);
  EXPECT_EQ(PadToBucket(1024 * kKiB), 1024 * kKiB);
  EXPECT_EQ(PadToBucket(1024 * kKiB + 1), 1152 * kKiB);
  EXPECT_EQ(PadToBucket(2048 * kKiB), 2048 * kKiB);
  EXPECT_EQ(PadToBucket(2048 * kKiB + 1), 2304 * kKiB);
  EXPECT_EQ(PadToBucket(100 * kKiB * kKiB), 104 * kKiB * kKiB);
  uint64_t last = 0;
  for (uint64_t size = 1; size < (uint64_t{1} << 40); size += size / 7 + 1) {
    const uint64_t bucket = PadToBucket(size);
    EXPECT_GE(bucket, size);
    EXPECT_GE(bucket, last);
    EXPECT_EQ(PadToBucket(bucket), bucket);
    if (size > 512 * kKiB) {
      EXPECT_LE(static_cast<double>(bucket - size), 0.125 * size);
    }
    last = bucket;
  }
}

// protocols/vectors/v1/sealed_body.txt, made by another program from the page: the body is made
// again from its key, compared, and opened by the opener that the coordinator has.
TEST(SealedBodyVector, OpensAndIsWhatThePageSays) {
  std::map<std::string, Bytes> golden;
  std::istringstream lines(protocols::VectorText("sealed_body.txt"));
  for (std::string line; std::getline(lines, line);) {
    const size_t space = line.find(' ');
    if (!line.starts_with('#')) golden[line.substr(0, space)] = Hex(line.substr(space + 1));
  }
  ASSERT_EQ(golden.size(), 18u);
  Bytes plain(300'000);
  for (size_t i = 0; i < plain.size(); ++i) plain[i] = static_cast<uint8_t>(i % 251);
  Bytes bucket(PadToBucket(8 + plain.size()));
  StoreLe64(bucket.data(), plain.size());
  std::copy(plain.begin(), plain.end(), bucket.begin() + 8);

  const auto federation = protocols::CountingFrom<16>(1);
  const protocols::UpdateKey key{protocols::CountingFrom<16>(9), 3, 0, "north"};
  const Digest layout = Sha256::Of(protocols::Encode(protocols::GoldenLayout()));
  const Bytes info = protocols::SealInfo(federation, protocols::SuiteId::kTg1);
  const Bytes aad =
      protocols::SealAad(key, protocols::CountingFrom<32>(2), layout, protocols::Codec::kInt8);
  EXPECT_EQ(ToHex(info), ToHex(golden["info"]));
  EXPECT_EQ(ToHex(aad), ToHex(golden["aad"]));

  std::vector<Bytes> chunks;
  Sha256 content;
  auto gcm = internal::Gcm::Create(golden["body_key"], internal::Gcm::Direction::kSeal);
  ASSERT_TRUE(gcm);
  for (size_t i = 0; i < 2; ++i) {
    const size_t at = i * kSealChunkPlainBytes;
    const size_t size = std::min(kSealChunkPlainBytes, bucket.size() - at);
    Bytes& chunk = chunks.emplace_back(bucket.begin() + at, bucket.begin() + at + size);
    chunk.resize(size + kSealTagBytes);
    internal::GcmNonce nonce{};
    nonce[10] = static_cast<uint8_t>(i);
    nonce[11] = i == 1 ? 1 : 0;
    ASSERT_TRUE(gcm->SealInPlace(nonce, {}, chunk, nullptr).ok());
    const std::string name = fmt::format("chunk_{}_", i);
    EXPECT_EQ(ToHex(Sha256::Of(chunk)), ToHex(golden[name + "sha256"]));
    EXPECT_EQ(ToHex(ByteSpan(chunk).first(32)), ToHex(golden[name + "begin"]));
    EXPECT_EQ(ToHex(ByteSpan(chunk).last(32)), ToHex(golden[name + "end"]));
    content.Update(Sha256::Of(chunk));
  }
  EXPECT_EQ(ToHex(content.Finish()), ToHex(golden["content"]));

  SealHeader header;
  std::copy_n(golden["enc"].begin(), 32, header.enc.begin());
  std::copy_n(golden["commitment"].begin(), 32, header.commitment.begin());
  const auto recipient = AgreeSecretKey::FromBytes(golden["recipient_secret"]);
  const auto opened =
      OpenBody(header, std::vector<ByteSpan>(chunks.begin(), chunks.end()), *recipient, info, aad);
  ASSERT_TRUE(opened.has_value()) << opened.error().ToString();
  EXPECT_EQ(*opened, plain);
}

TEST_F(Seal, BodiesOfEverySizeClassComeBack) {
  const size_t sizes[] = {0,
                          1,
                          65528,
                          65529,
                          kSealChunkPlainBytes - 8,
                          kSealChunkPlainBytes - 7,
                          kSealChunkPlainBytes,
                          5 * kSealChunkPlainBytes + 3,
                          3000001};
  for (const size_t size : sizes) {
    const Bytes plain = Pattern(size);
    const SealedBody body = Sealed(plain);
    uint64_t total = 0;
    for (size_t i = 0; i < body.chunks.size(); ++i) {
      const SealedChunk& chunk = body.chunks[i];
      total += chunk.bytes.size();
      EXPECT_EQ(chunk.digest, Sha256::Of(chunk.bytes));
      if (i + 1 < body.chunks.size()) {
        EXPECT_EQ(chunk.bytes.size(), kSealChunkBytes);
      }
    }
    const SealedSize announced = SealedSizeOf(size);
    EXPECT_EQ(announced.chunks, body.chunks.size()) << size;
    EXPECT_EQ(announced.bytes, total) << size;
    const auto opened = Open(body.header, Spans(body.chunks));
    ASSERT_TRUE(opened) << size << ": " << opened.error().message();
    EXPECT_TRUE(*opened == plain) << size;
  }
}

TEST_F(Seal, TheSealedSizeTellsTheBucketAlone) {
  const auto size_of = [&](size_t n) {
    size_t total = 0;
    for (const SealedChunk& chunk : Sealed(Pattern(n)).chunks) total += chunk.bytes.size();
    return total;
  };
  EXPECT_EQ(size_of(0), size_of(65528));
  EXPECT_NE(size_of(65528), size_of(65529));
}

TEST_F(Seal, StreamingInAnyPiecesMakesAChunkAtATime) {
  const Bytes plain = Pattern(700001);
  for (const size_t piece : {size_t{1000}, size_t{262144}, size_t{700001}}) {
    auto sealer =
        BodySealer::Start(key_->public_key(), Suite::kTg1, Counting(4, 1), aad_, plain.size());
    ASSERT_TRUE(sealer);
    std::vector<SealedChunk> chunks;
    const ChunkSink sink = [&](SealedChunk chunk) {
      chunks.push_back(std::move(chunk));
      return OkStatus();
    };
    for (size_t at = 0; at < plain.size(); at += piece) {
      const size_t n = std::min(piece, plain.size() - at);
      ASSERT_TRUE(sealer->Add(ByteSpan(plain).subspan(at, n), sink).ok());
    }
    ASSERT_TRUE(sealer->Finish(sink).ok());
    EXPECT_EQ(sealer->Finish(sink).code(), Code::kFailedPrecondition);
    EXPECT_EQ(sealer->Add(Bytes(1), sink).code(), Code::kFailedPrecondition);
    const auto opened = Open(sealer->header(), Spans(chunks));
    ASSERT_TRUE(opened) << opened.error().message();
    EXPECT_TRUE(*opened == plain);
  }
}

TEST_F(Seal, MoreOrLessThanAnnouncedIsRefusedAndASinksErrorEndsIt) {
  const ChunkSink drop = [](SealedChunk) { return OkStatus(); };
  auto sealer = BodySealer::Start(key_->public_key(), Suite::kTg1, {}, {}, 10);
  ASSERT_TRUE(sealer);
  EXPECT_EQ(sealer->Add(Bytes(11), drop).code(), Code::kFailedPrecondition);
  EXPECT_TRUE(sealer->Add(Bytes(9), drop).ok());
  EXPECT_EQ(sealer->Finish(drop).code(), Code::kFailedPrecondition);
  EXPECT_TRUE(sealer->Add(Bytes(1), drop).ok());
  EXPECT_TRUE(sealer->Finish(drop).ok());

  auto failing = BodySealer::Start(key_->public_key(), Suite::kTg1, {}, {}, 1 << 20);
  ASSERT_TRUE(failing);
  const ChunkSink full = [](SealedChunk) -> Status { return ResourceExhausted("disk full"); };
  EXPECT_EQ(failing->Add(Bytes(1 << 20), full).code(), Code::kResourceExhausted);
  // Going on would seal other bytes under a number that was used.
  EXPECT_EQ(failing->Finish(drop).code(), Code::kFailedPrecondition);
  EXPECT_EQ(BodySealer::Start(key_->public_key(), Suite::kTg1, {}, {}, kSealMaxPlaintextBytes + 1)
                .error()
                .code(),
            Code::kInvalidArgument);
}

TEST_F(Seal, TheSameBodyTwiceSharesNoBytes) {
  const Bytes plain = Pattern(100);
  const SealedBody a = Sealed(plain);
  const SealedBody b = Sealed(plain);
  EXPECT_NE(a.header.enc, b.header.enc);
  EXPECT_NE(a.header.commitment, b.header.commitment);
  EXPECT_NE(a.chunks[0].digest, b.chunks[0].digest);
}

TEST_F(Seal, AnotherKeyInfoAadOrHeaderIsRefusedBeforeTheFirstChunk) {
  const SealedBody body = Sealed(Pattern(10));
  const auto start = [&](const SealHeader& header, const AgreeSecretKey& key, const Bytes& info,
                         const Bytes& aad) {
    const auto opener = BodyOpener::Start(header, key, info, aad);
    return opener ? Code::kOk : opener.error().code();
  };
  const auto other = AgreeSecretKey::Generate();
  ASSERT_TRUE(other);
  EXPECT_EQ(start(body.header, *key_, Counting(4, 1), aad_), Code::kOk);
  EXPECT_EQ(start(body.header, *other, Counting(4, 1), aad_), Code::kUnauthenticated);
  EXPECT_EQ(start(body.header, *key_, Counting(4, 2), aad_), Code::kUnauthenticated);
  EXPECT_EQ(start(body.header, *key_, Counting(4, 1), Counting(40, 10)), Code::kUnauthenticated);
  EXPECT_EQ(start(body.header, *key_, Counting(4, 1), {}), Code::kUnauthenticated);
  for (size_t i = 0; i < 64; ++i) {
    SealHeader bad = body.header;
    (i < 32 ? bad.enc[i] : bad.commitment[i - 32]) ^= 0x04;
    EXPECT_NE(start(bad, *key_, Counting(4, 1), aad_), Code::kOk) << "byte " << i;
  }
}

TEST_F(Seal, AFlippedBitInAnyByteIsRefused) {
  const SealedBody body = Sealed(Pattern(10));
  ASSERT_EQ(body.chunks.size(), 1u);
  // One key set-up for all 65552 tries; the chunk's own check is what is under test.
  const auto session = FindSuite(Suite::kTg1).Resume(body.header.enc, *key_, Counting(4, 1), aad_);
  ASSERT_TRUE(session);
  ASSERT_TRUE(session->cipher->Open(0, true, body.chunks[0].bytes));
  Bytes bad = body.chunks[0].bytes;
  for (size_t i = 0; i < bad.size(); ++i) {
    const auto flip = static_cast<uint8_t>(1u << (i % 8));
    bad[i] ^= flip;
    ASSERT_FALSE(session->cipher->Open(0, true, bad)) << "byte " << i;
    bad[i] ^= flip;
  }
  EXPECT_TRUE(session->cipher->Open(0, true, bad));
  bad[777] ^= 0x20;
  const auto opened = Open(body.header, {bad});
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), Code::kUnauthenticated);
}

TEST_F(Seal, ChunksDroppedSwappedRepeatedCutOrAddedAreRefused) {
  const SealedBody body = Sealed(Pattern(900000));
  const SealedBody other = Sealed(Pattern(900000));
  const std::vector<ByteSpan> good = Spans(body.chunks);
  ASSERT_EQ(good.size(), 4u);
  ASSERT_TRUE(Open(body.header, good));
  const auto refused = [&](const std::vector<ByteSpan>& chunks) {
    const auto opened = Open(body.header, chunks);
    return opened ? Code::kOk : opened.error().code();
  };
  for (size_t i = 0; i < good.size(); ++i) {
    auto dropped = good;
    dropped.erase(dropped.begin() + i);
    EXPECT_EQ(refused(dropped), Code::kUnauthenticated) << "without chunk " << i;
    auto repeated = good;
    repeated.insert(repeated.begin() + i, good[i]);
    EXPECT_EQ(refused(repeated), Code::kUnauthenticated) << "twice chunk " << i;
    auto foreign = good;
    foreign[i] = other.chunks[i].bytes;
    EXPECT_EQ(refused(foreign), Code::kUnauthenticated) << "another body's chunk " << i;
    for (size_t k = i + 1; k < good.size(); ++k) {
      auto swapped = good;
      std::swap(swapped[i], swapped[k]);
      EXPECT_EQ(refused(swapped), Code::kUnauthenticated) << i << " and " << k << " swapped";
    }
    auto cut = good;
    cut[i] = cut[i].first(cut[i].size() - 1);
    EXPECT_EQ(refused(cut), Code::kUnauthenticated) << "chunk " << i << " cut";
    EXPECT_EQ(refused({good.begin(), good.begin() + i + 1}),
              i + 1 == good.size() ? Code::kOk : Code::kUnauthenticated)
        << "ends after chunk " << i;
  }
  EXPECT_EQ(refused({}), Code::kDataLoss);
  Bytes longer(good[3].begin(), good[3].end());
  longer.push_back(0);
  EXPECT_EQ(refused({good[0], good[1], good[2], longer}), Code::kUnauthenticated);
  EXPECT_EQ(refused({good[0], good[1], good[2], good[3], ByteSpan()}), Code::kUnauthenticated);
}

TEST_F(Seal, AStreamThatStopsOrFailsIsNotFinished) {
  const SealedBody body = Sealed(Pattern(900000));
  auto opener = BodyOpener::Start(body.header, *key_, Counting(4, 1), aad_);
  ASSERT_TRUE(opener);
  EXPECT_TRUE(opener->OpenChunk(body.chunks[0].bytes, false));
  EXPECT_EQ(opener->Finish().code(), Code::kDataLoss);
  EXPECT_FALSE(opener->OpenChunk(body.chunks[2].bytes, false));
  // One bad chunk ends it: what follows is not opened either.
  EXPECT_EQ(opener->OpenChunk(body.chunks[1].bytes, false).error().code(),
            Code::kFailedPrecondition);
  EXPECT_EQ(opener->Finish().code(), Code::kDataLoss);
}

// Seals a bucket of our own making with the real key, as a dishonest sender can.
class CraftedBody : public Seal {
 protected:
  Result<Bytes> OpenCrafted(uint64_t length, const Bytes& after_length) {
    auto session = FindSuite(Suite::kTg1).Begin(key_->public_key(), Counting(4, 1), aad_);
    EXPECT_TRUE(session);
    Bytes chunk(8);
    StoreLe64(chunk.data(), length);
    chunk.insert(chunk.end(), after_length.begin(), after_length.end());
    chunk.resize(chunk.size() + kSealTagBytes);
    EXPECT_TRUE(session->cipher->Seal(0, true, chunk));
    SealHeader header;
    std::copy(session->enc.begin(), session->enc.end(), header.enc.begin());
    header.commitment = session->commitment;
    return Open(header, {chunk});
  }
};

TEST_F(CraftedBody, LengthsAndPaddingThatDoNotFitAreRefused) {
  const Bytes bucket(64 * kKiB - 8);
  ASSERT_TRUE(OpenCrafted(5, bucket));
  Bytes dirty = bucket;
  dirty[5] = 1;
  EXPECT_EQ(OpenCrafted(5, dirty).error().code(), Code::kInvalidArgument);
  EXPECT_TRUE(OpenCrafted(6, dirty));
  EXPECT_EQ(OpenCrafted(64 * kKiB, bucket).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(OpenCrafted(kSealMaxPlaintextBytes + 1, bucket).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(OpenCrafted(UINT64_MAX, bucket).error().code(), Code::kInvalidArgument);
  // A bucket of another size would be a channel of its own.
  EXPECT_EQ(OpenCrafted(5, Bytes(64 * kKiB - 9)).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(OpenCrafted(5, Bytes(128 * kKiB - 8)).error().code(), Code::kInvalidArgument);
}

TEST(Suite, AnUnknownByteIsRefusedByItsNumber) {
  EXPECT_EQ(*ParseSuite(1), Suite::kTg1);
  for (const int byte : {0, 2, 255}) {
    const auto parsed = ParseSuite(static_cast<uint8_t>(byte));
    ASSERT_FALSE(parsed);
    EXPECT_EQ(parsed.error().code(), Code::kUnsupported);
    EXPECT_NE(parsed.error().message().find(fmt::format("cipher suite {} ", byte)),
              std::string::npos);
    EXPECT_NE(parsed.error().message().find("TG1"), std::string::npos);
  }
}

}  // namespace
}  // namespace tidegate::crypto
