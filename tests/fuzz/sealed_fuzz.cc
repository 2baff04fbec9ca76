// A sealed body. The first byte says whether the input is garbage, whole (32 bytes of encapsulated
// key, 32 of commitment, the rest a chunk; and the same as an HPKE message), or comes from somebody
// who has the key: chunks of plaintext, each two bytes of length whose highest bit says "last", are
// sealed as they are, and the opener judges lengths and padding.
#include <array>

#include "crypto/hpke.h"
#include "crypto/seal.h"
#include "fuzz.h"

namespace tidegate::fuzz {
namespace {

const crypto::AgreeSecretKey& Recipient() {
  static const crypto::AgreeSecretKey key = [] {
    std::array<uint8_t, 32> secret;
    secret.fill(0x42);
    return *crypto::AgreeSecretKey::FromBytes(secret);
  }();
  return key;
}

std::string Chunk(const std::string& plain, bool last) {
  uint8_t length[8];
  StoreLe64(length, plain.size() | (last ? 0x8000u : 0u));
  return std::string(length, length + 2) + plain;
}

std::string Body(uint64_t content, size_t bytes) {
  std::string plain(bytes, '\0');
  StoreLe64(reinterpret_cast<uint8_t*>(plain.data()), content);
  return plain;
}

}  // namespace

Target Describe() {
  Target target;
  target.seeds = {std::string(1 + 64 + 100, '\0'), std::string(1, '\1') + Chunk(Body(5, 300), true),
                  std::string(1, '\1') + Chunk(Body(0, 8), false) + Chunk("tail", true)};
  // Chunks are of 256 KiB whatever the input.
  target.memory = 16u << 20;
  return target;
}

void OpenGarbage(ByteSpan bytes) {
  if (bytes.size() < 64) return;
  crypto::SealHeader header;
  std::copy_n(bytes.begin(), 32, header.enc.begin());
  std::copy_n(bytes.begin() + 32, 32, header.commitment.begin());
  const ByteSpan rest = bytes.subspan(64);
  auto opener = crypto::BodyOpener::Start(header, Recipient(), rest, {});
  if (opener) Require(!opener->OpenChunk(rest, true), "garbage does not open");
  auto hpke = crypto::SetupRecipient(bytes.first(32), Recipient(), rest);
  if (hpke) Require(!hpke->Open({}, rest), "garbage does not open");
}

// A chunk that is not the last is filled up with zeros to its 256 KiB.
void OpenSealed(ByteSpan input) {
  auto session = *crypto::FindSuite(crypto::Suite::kTg1).Begin(Recipient().public_key(), {}, {});
  crypto::SealHeader header;
  std::copy_n(session.enc.begin(), 32, header.enc.begin());
  header.commitment = session.commitment;
  auto opener = *crypto::BodyOpener::Start(header, Recipient(), {}, {});
  bool done = false;
  for (uint64_t number = 0; input.size() >= 2 && number < 4; ++number) {
    const uint16_t word = LoadLe16(input.data());
    const bool last = (word & 0x8000u) != 0;
    const size_t length = std::min<size_t>(word & 0x7fffu, input.size() - 2);
    Bytes chunk(input.begin() + 2, input.begin() + 2 + static_cast<std::ptrdiff_t>(length));
    input = input.subspan(2 + length);
    // Whole buckets of 64 KiB where the plaintext ends with a zero: what a real sealer would make.
    if (last && length > 0 && chunk.back() == 0) chunk.resize((length + 65535) / 65536 * 65536);
    chunk.resize((last ? chunk.size() : crypto::kSealChunkPlainBytes) + crypto::kSealTagBytes);
    Require(session.cipher->Seal(number, last, chunk).has_value(), "a chunk can be sealed");
    const auto plain = opener.OpenChunk(chunk, last);
    if (!plain) return;
    done = last;
    Require(plain->size() <= crypto::kSealChunkPlainBytes, "a chunk opens to at most its size");
    if (last) break;
  }
  Require(done == opener.Finish().ok(), "a body ends with its last chunk");
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  if (size == 0) return 0;
  const ByteSpan rest(data + 1, size - 1);
  data[0] % 2 == 0 ? fuzz::OpenGarbage(rest) : fuzz::OpenSealed(rest);
  return 0;
}
