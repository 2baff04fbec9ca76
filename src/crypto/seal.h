// Sealing of large bodies to one recipient: chunks of one size that are each a transport block, and
// a header that travels in the signed manifest. docs/formats/sealed-update.md is the format.
//
// Sealing authenticates no sender: sign the header and the chunk digests. The associated data
// (`aad`) and `info` must be the same on both sides; they are bound to the key and not sent.
// The real length is inside; what shows is the length of the bucket it was padded to.
// Objects are for one thread at a time.
#pragma once

#include <functional>
#include <vector>

#include "crypto/seal_suite.h"

namespace tidegate::crypto {

// Ciphertext bytes of every chunk but the last, tag included.
inline constexpr size_t kSealChunkBytes = 256 * 1024;
inline constexpr size_t kSealTagBytes = 16;
inline constexpr size_t kSealChunkPlainBytes = kSealChunkBytes - kSealTagBytes;
// The largest plaintext of one body.
inline constexpr uint64_t kSealMaxPlaintextBytes = uint64_t{64} << 30;

// The bucket of `size` bytes: the next multiple of 64 KiB up to 1 MiB, beyond that the next
// multiple of an eighth of the power of two below it; at least 64 KiB. At most 12.5% is added
// beyond 512 KiB.
uint64_t PadToBucket(uint64_t size);

// What sealing `plaintext_bytes` will make, known before it is done.
struct SealedSize {
  uint64_t chunks = 0;
  uint64_t bytes = 0;  // of all chunks
};
SealedSize SealedSizeOf(uint64_t plaintext_bytes);

// What a reader needs besides the chunks: fields of the signed ReleaseManifest.
struct SealHeader {
  Suite suite = Suite::kTg1;
  std::array<uint8_t, 32> enc{};
  Digest commitment{};
};

struct SealedChunk {
  Bytes bytes;
  Digest digest;  // SHA-256 of `bytes`
};
struct SealedBody {
  SealHeader header;
  std::vector<SealedChunk> chunks;
};

// Takes each chunk as it is made; an error ends the sealing with that error.
using ChunkSink = std::function<Status(SealedChunk chunk)>;

// Chunk by chunk, with one chunk in memory. Seal once and keep the chunks: sealing the same again
// makes other bytes under another key.
class BodySealer {
 public:
  // `plaintext_bytes` is what the calls of Add will give in total.
  static Result<BodySealer> Start(const AgreePublicKey& recipient, Suite suite, ByteSpan info,
                                  ByteSpan aad, uint64_t plaintext_bytes);

  const SealHeader& header() const { return header_; }
  // kFailedPrecondition for more bytes than announced.
  Status Add(ByteSpan plaintext, const ChunkSink& sink);
  // Pads and makes the rest. kFailedPrecondition for fewer bytes than announced, or if done before.
  Status Finish(const ChunkSink& sink);

 private:
  BodySealer() = default;
  // Appends to the chunk being filled; makes it when it is full and others follow.
  Status Append(ByteSpan bytes, const ChunkSink& sink);
  Status MakeChunk(bool last, const ChunkSink& sink);

  SealHeader header_;
  std::unique_ptr<ChunkCipher> cipher_;
  Bytes chunk_;
  uint64_t number_ = 0;
  uint64_t announced_ = 0;
  uint64_t plain_left_ = 0;  // of the announced bytes
  uint64_t total_left_ = 0;  // of the bucket, not yet in a chunk
  bool failed_ = false;
};

// The counterpart. Each chunk is given out only after its tag was checked; that nothing is missing
// is known when Finish returns OK, so act on nothing before.
class BodyOpener {
 public:
  // kUnauthenticated when key, info or aad are not those the body was sealed with, at once.
  static Result<BodyOpener> Start(const SealHeader& header, const AgreeSecretKey& recipient,
                                  ByteSpan info, ByteSpan aad);

  // The plaintext of the next chunk, without length and padding; may be empty. `last` is what the
  // signed manifest says. kUnauthenticated for a chunk that is altered, out of order, repeated,
  // from another body, or wrongly called last or not.
  Result<Bytes> OpenChunk(ByteSpan sealed, bool last);
  // kDataLoss when the last chunk has not come.
  Status Finish() const;

 private:
  BodyOpener() = default;
  // The part of a chunk that is content; checks length and padding.
  Result<Bytes> Strip(Bytes plain, bool last);

  std::unique_ptr<ChunkCipher> cipher_;
  uint64_t number_ = 0;
  uint64_t content_left_ = 0;
  uint64_t total_ = 0;   // bytes of the bucket
  uint64_t opened_ = 0;  // of them
  bool done_ = false;
  bool failed_ = false;
};

// Whole bodies in memory; each Seal is under a key of its own.
class Sealer {
 public:
  Sealer(AgreePublicKey recipient, Suite suite, Bytes info)
      : recipient_(std::move(recipient)), suite_(suite), info_(std::move(info)) {}
  Result<SealedBody> Seal(ByteSpan plaintext, ByteSpan aad) const;

 private:
  AgreePublicKey recipient_;
  Suite suite_;
  Bytes info_;
};

}  // namespace tidegate::crypto
