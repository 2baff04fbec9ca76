// A frame as it comes from a socket, and a CHUNK's body. The first byte says whether the frame's
// two checksums are made right, so that what lies behind them is reached.
#include <algorithm>

#include "fuzz.h"
#include "protocols/header.h"
#include "protocols/messages.h"

namespace tidegate::fuzz {
namespace {

const protocols::Id16& Federation() {
  static const protocols::Id16 id = [] {
    protocols::Id16 made;
    for (size_t i = 0; i < made.size(); ++i) made[i] = static_cast<uint8_t>(1 + i);
    return made;
  }();
  return id;
}

bool Same(ByteSpan a, ByteSpan b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

}  // namespace

Target Describe() {
  Target target;
  const std::string frame = WireVector("frame.hex"), chunk = WireVector("chunk.hex");
  target.seeds = {'\0' + frame, '\1' + frame, '\1' + chunk,
                  '\1' + Text(protocols::Frame(protocols::MessageType::kChunk, Federation(), 2,
                                               AsBytes(chunk)))};
  return target;
}

void Read(Bytes frame, bool make_right) {
  if (make_right && frame.size() >= protocols::kHeaderBytes) {
    StoreLe32(&frame[40], protocols::Crc32c(ByteSpan(frame).subspan(protocols::kHeaderBytes)));
    StoreLe32(&frame[44], protocols::Crc32c(ByteSpan(frame).first(44)));
  }
  const auto parsed = protocols::ParseFrame(frame, Federation());
  if (parsed) {
    Require(
        Same(protocols::Frame(parsed->type, Federation(), parsed->sequence, parsed->body), frame),
        "a frame has one form");
  }
  const auto chunk = protocols::DecodeChunk(frame);
  if (chunk) Require(Same(protocols::EncodeChunk(*chunk), frame), "a chunk has one form");
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  if (size == 0) return 0;
  fuzz::Read(Bytes(data + 1, data + size), data[0] % 2 == 1);
  return 0;
}
