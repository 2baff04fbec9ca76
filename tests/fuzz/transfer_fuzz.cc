// Both ends of a block transfer against a peer that says anything in any order. An input is a list
// of steps: a byte for its kind, then its numbers. The sender stays within its content and the
// credit it was given; the receiver takes a block only where it belongs.
#include "transport/transfer.h"

#include "blocks/content.h"
#include "fuzz.h"

namespace tidegate::fuzz {
namespace {

constexpr uint32_t kBlocks = 5;

// Numbers from the input, zeros behind its end.
class Numbers {
 public:
  explicit Numbers(ByteSpan bytes) : bytes_(bytes) {}
  bool more() const { return !bytes_.empty(); }
  uint64_t Take(size_t width) {
    uint8_t buffer[8] = {};
    const size_t n = std::min(width, bytes_.size());
    std::copy_n(bytes_.begin(), n, buffer);
    bytes_ = bytes_.subspan(n);
    return LoadLe64(buffer);
  }

 private:
  ByteSpan bytes_;
};

struct Blocks {
  Digest content{};
  std::vector<Bytes> bytes;
  std::vector<Digest> ids;
  uint64_t size = 0;
  Blocks() {
    for (uint32_t i = 0; i < kBlocks; ++i) {
      bytes.emplace_back(i + 1 == kBlocks ? 100 : protocols::kBlockBytes, static_cast<uint8_t>(i));
      ids.push_back(blocks::BlockId(bytes.back()));
      size += bytes.back().size();
    }
    content = blocks::ContentId(ids);
  }
};

const Blocks& Content() {
  static const Blocks blocks;
  return blocks;
}

void Send(Numbers numbers) {
  transport::BlockSender sender(Content().content, kBlocks);
  uint64_t granted = 0;
  for (int steps = 0; numbers.more() && steps < 1000; ++steps) {
    const uint64_t kind = numbers.Take(1);
    const Digest content = kind & 0x80 ? Digest{} : Content().content;
    if (kind % 4 == 0) {
      protocols::Want want{content, static_cast<uint32_t>(numbers.Take(4)),
                           static_cast<uint32_t>(numbers.Take(4)), numbers.Take(8)};
      if (sender.OnWant(want)) granted = want.credit_bytes > 0 ? want.credit_bytes : granted;
    } else if (kind % 4 == 1) {
      const protocols::Credit credit{content, numbers.Take(8)};
      if (sender.OnCredit(credit)) granted += credit.bytes;
    } else if (kind % 4 == 2) {
      const auto next = sender.Next();
      if (next) {
        Require(*next < kBlocks, "a sender stays in its content");
        Require(granted >= protocols::kBlockBytes, "a sender stays in its credit");
        granted -= protocols::kBlockBytes;
      }
    } else {
      sender.Reset();
      granted = 0;
    }
    Require(granted <= protocols::kMaxCreditBytes, "credit has its bound");
  }
}

void Receive(Numbers numbers) {
  const Blocks& content = Content();
  transport::BlockReceiver receiver(content.content, content.size, content.ids, {});
  size_t stored = 0;
  for (int steps = 0; numbers.more() && steps < 16; ++steps) {
    const uint64_t kind = numbers.Take(1);
    const auto index = static_cast<uint32_t>(numbers.Take(kind & 1 ? 4 : 1));
    const Bytes& bytes = content.bytes[numbers.Take(1) % kBlocks];
    const size_t size = std::min<size_t>(bytes.size(), numbers.Take(kind & 2 ? 3 : 0));
    const protocols::Chunk chunk{kind & 0x80 ? Digest{} : content.content, index,
                                 kind & 2 ? ByteSpan(bytes).first(size) : ByteSpan(bytes)};
    const auto verdict = receiver.Check(chunk);
    if (verdict == transport::BlockReceiver::Verdict::kRefused) continue;
    Require(index < kBlocks && chunk.bytes.size() == content.bytes[index].size(),
            "a block is taken where it belongs");
    stored += verdict == transport::BlockReceiver::Verdict::kStored;
    (void)receiver.Stored(index, chunk.bytes.size());
    Require(receiver.has(index), "a stored block is there");
    Require(receiver.Ask().size() <= transport::kMaxRanges, "questions are few");
  }
  Require(receiver.complete() == (stored == kBlocks), "complete is when all are there");
  Require(receiver.HaveMessage().blocks == kBlocks, "HAVE tells of all blocks");
}

}  // namespace

Target Describe() {
  Target target;
  const std::string want("\0\0\0\0\0\5\0\0\0\0\0\x10\0\0\0\0\0", 17);
  const std::string credit("\1\0\0\x04\0\0\0\0\0", 9);
  target.seeds = {std::string(1, '\0') + want + "\2\2\2" + credit + "\2\3\2",
                  std::string("\1\0\0\0\0\1\1\0\2\2\0\3\3\0\4\4", 16),
                  std::string("\1\x02\0\0\xff\0\0\x82\1\1\0\0\4", 13)};
  return target;
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  if (size == 0) return 0;
  fuzz::Numbers numbers({data + 1, size - 1});
  data[0] % 2 == 0 ? fuzz::Send(numbers) : fuzz::Receive(numbers);
  return 0;
}
