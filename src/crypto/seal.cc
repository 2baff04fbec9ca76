#include "crypto/seal.h"

#include <bit>

#include "crypto/sign.h"

namespace tidegate::crypto {

namespace {

constexpr size_t kLengthBytes = 8;  // little-endian, before the content

uint64_t BucketOf(uint64_t plaintext_bytes) { return PadToBucket(kLengthBytes + plaintext_bytes); }

}  // namespace

uint64_t PadToBucket(uint64_t size) {
  constexpr uint64_t kStep = 64 * 1024;
  constexpr uint64_t kEvenUpTo = 1024 * 1024;
  uint64_t step = kStep;
  // bit_floor(size - 1) so that a power of two is its own bucket.
  if (size > kEvenUpTo) step = std::bit_floor(size - 1) / 8;
  const uint64_t steps = size == 0 ? 1 : (size - 1) / step + 1;
  return steps * step;
}

SealedSize SealedSizeOf(uint64_t plaintext_bytes) {
  const uint64_t bucket = BucketOf(plaintext_bytes);
  SealedSize size;
  size.chunks = (bucket - 1) / kSealChunkPlainBytes + 1;
  size.bytes = bucket + size.chunks * kSealTagBytes;
  return size;
}

Result<BodySealer> BodySealer::Start(const AgreePublicKey& recipient, Suite suite, ByteSpan info,
                                     ByteSpan aad, uint64_t plaintext_bytes) {
  if (plaintext_bytes > kSealMaxPlaintextBytes) {
    return InvalidArgument("a body of {} bytes is to be sealed, the limit is {}", plaintext_bytes,
                           kSealMaxPlaintextBytes);
  }
  TG_ASSIGN_OR_RETURN(SealSession session, FindSuite(suite).Begin(recipient, info, aad));
  BodySealer sealer;
  sealer.header_.suite = suite;
  std::copy_n(session.enc.begin(), sealer.header_.enc.size(), sealer.header_.enc.begin());
  sealer.header_.commitment = session.commitment;
  sealer.cipher_ = std::move(session.cipher);
  sealer.announced_ = plaintext_bytes;
  sealer.plain_left_ = plaintext_bytes;
  sealer.total_left_ = BucketOf(plaintext_bytes);
  sealer.chunk_.reserve(kSealChunkBytes);
  sealer.chunk_.resize(kLengthBytes);
  StoreLe64(sealer.chunk_.data(), plaintext_bytes);
  sealer.total_left_ -= kLengthBytes;
  return sealer;
}

Status BodySealer::MakeChunk(bool last, const ChunkSink& sink) {
  chunk_.resize(chunk_.size() + kSealTagBytes);
  SealedChunk chunk;
  // A failure after this may not try the number again with other content.
  failed_ = true;
  TG_ASSIGN_OR_RETURN(chunk.digest, cipher_->Seal(number_++, last, chunk_));
  chunk.bytes = std::move(chunk_);
  chunk_ = Bytes();
  TG_RETURN_IF_ERROR(sink(std::move(chunk)));
  if (!last) {
    chunk_.reserve(kSealChunkBytes);
    failed_ = false;
  }
  return OkStatus();
}

Status BodySealer::Append(ByteSpan bytes, const ChunkSink& sink) {
  while (!bytes.empty()) {
    if (chunk_.size() == kSealChunkPlainBytes) TG_RETURN_IF_ERROR(MakeChunk(false, sink));
    const size_t n = std::min(bytes.size(), kSealChunkPlainBytes - chunk_.size());
    chunk_.insert(chunk_.end(), bytes.begin(), bytes.begin() + n);
    bytes = bytes.subspan(n);
    total_left_ -= n;
  }
  return OkStatus();
}

Status BodySealer::Add(ByteSpan plaintext, const ChunkSink& sink) {
  if (failed_) return FailedPrecondition("the sealing of this body has ended; start a new one");
  if (plaintext.size() > plain_left_) {
    return FailedPrecondition("a body was announced with {} bytes and is given {} more than that",
                              announced_, plaintext.size() - plain_left_);
  }
  plain_left_ -= plaintext.size();
  return Append(plaintext, sink);
}

Status BodySealer::Finish(const ChunkSink& sink) {
  if (failed_) return FailedPrecondition("the sealing of this body has ended; start a new one");
  if (plain_left_ != 0) {
    return FailedPrecondition("a body was announced with {} bytes and {} of them were not given",
                              announced_, plain_left_);
  }
  static constexpr std::array<uint8_t, 4096> kZeros{};
  while (total_left_ > 0) {
    const size_t n = static_cast<size_t>(std::min<uint64_t>(total_left_, kZeros.size()));
    TG_RETURN_IF_ERROR(Append(ByteSpan(kZeros).first(n), sink));
  }
  return MakeChunk(true, sink);
}

Result<BodyOpener> BodyOpener::Start(const SealHeader& header, const AgreeSecretKey& recipient,
                                     ByteSpan info, ByteSpan aad) {
  TG_ASSIGN_OR_RETURN(SealSession session,
                      FindSuite(header.suite).Resume(header.enc, recipient, info, aad));
  if (!Equal(session.commitment, header.commitment)) {
    return Unauthenticated(
        "the body was not sealed to key {} with this info and associated data (commitment)",
        PublicKeyText("x25519", recipient.public_key().bytes()));
  }
  BodyOpener opener;
  opener.cipher_ = std::move(session.cipher);
  return opener;
}

Result<Bytes> BodyOpener::Strip(Bytes plain, bool last) {
  size_t begin = 0;
  if (number_ == 0) {
    if (plain.size() < kLengthBytes) return InvalidArgument("the sealed body holds no length");
    content_left_ = LoadLe64(plain.data());
    if (content_left_ > kSealMaxPlaintextBytes) {
      return InvalidArgument("the sealed body says it holds {} bytes, the limit is {}",
                             content_left_, kSealMaxPlaintextBytes);
    }
    total_ = BucketOf(content_left_);
    begin = kLengthBytes;
  }
  opened_ += plain.size();
  if (last ? opened_ != total_ : opened_ >= total_) {
    return InvalidArgument("the sealed body ends at byte {}, by its length it has {}", opened_,
                           total_);
  }
  const size_t content =
      static_cast<size_t>(std::min<uint64_t>(content_left_, plain.size() - begin));
  if (std::any_of(plain.begin() + begin + content, plain.end(), [](uint8_t b) { return b != 0; })) {
    return InvalidArgument("the padding of the sealed body is not zero");
  }
  content_left_ -= content;
  plain.resize(begin + content);
  plain.erase(plain.begin(), plain.begin() + begin);
  return plain;
}

Result<Bytes> BodyOpener::OpenChunk(ByteSpan sealed, bool last) {
  if (failed_ || done_) {
    return FailedPrecondition("the opening of this body has ended; no chunk can follow");
  }
  failed_ = true;  // until this chunk is good
  const bool size_ok = last ? sealed.size() > kSealTagBytes && sealed.size() <= kSealChunkBytes
                            : sealed.size() == kSealChunkBytes;
  if (!size_ok) {
    return Unauthenticated("chunk {} has {} bytes; every chunk but the last has {}", number_,
                           sealed.size(), kSealChunkBytes);
  }
  auto plain = cipher_->Open(number_, last, sealed);
  if (!plain) return Unexpected(plain.error().WithContext(fmt::format("chunk {}", number_)));
  TG_ASSIGN_OR_RETURN(Bytes content, Strip(std::move(*plain), last));
  ++number_;
  done_ = last;
  failed_ = false;
  return content;
}

Status BodyOpener::Finish() const {
  if (done_) return OkStatus();
  return DataLoss("the sealed body is cut short: {} chunks came and none was the last", number_);
}

Result<SealedBody> Sealer::Seal(ByteSpan plaintext, ByteSpan aad) const {
  TG_ASSIGN_OR_RETURN(BodySealer sealer,
                      BodySealer::Start(recipient_, suite_, info_, aad, plaintext.size()));
  SealedBody body;
  body.header = sealer.header();
  body.chunks.reserve(SealedSizeOf(plaintext.size()).chunks);
  const ChunkSink sink = [&body](SealedChunk chunk) {
    body.chunks.push_back(std::move(chunk));
    return OkStatus();
  };
  TG_RETURN_IF_ERROR(sealer.Add(plaintext, sink));
  TG_RETURN_IF_ERROR(sealer.Finish(sink));
  return body;
}

}  // namespace tidegate::crypto
