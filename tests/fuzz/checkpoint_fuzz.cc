// A training state (.tgstate). The first byte says whether its seal is made right, so that header
// and parts are reached. What decodes encodes to a state that decodes to the same bytes.
#include "train/checkpoint.h"

#include "base/checksum.h"
#include "fuzz.h"

namespace tidegate::fuzz {
namespace {

const train::Identity kIdentity = {{"base", "1111"}, {"learning_rate", "0.0002"}};

train::TrainState State(size_t parameters) {
  train::TrainState state = train::TrainState::Start(std::vector<float>(parameters, 0.5f), 42);
  state.step = 7;
  state.micro_steps = 28;
  state.cursor = {2, 17};
  state.tokens_seen = 123456;
  state.best.step = 5;
  state.best.nll = 1.25;
  state.best.evaluations_since = 2;
  state.best.parameters_checksum = "abcdef";
  return state;
}

}  // namespace

Target Describe() {
  Target target;
  for (const size_t parameters : {0u, 5u}) {
    const std::string state = Text(train::EncodeState(State(parameters), kIdentity));
    target.seeds.push_back('\0' + state);
    target.seeds.push_back('\1' + state);
  }
  target.memory_per_byte = 256;
  return target;
}

void Decode(Bytes bytes, bool make_right) {
  if (make_right && bytes.size() >= 8) {
    const size_t sealed = bytes.size() - 8;
    StoreLe64(&bytes[sealed], ChecksumOf(ByteSpan(bytes).first(sealed)));
  }
  const auto loaded = train::DecodeState(bytes, "input");
  if (!loaded) return;
  Require(loaded->state.moments.m.size() == loaded->state.parameters.size() &&
              loaded->state.moments.v.size() == loaded->state.parameters.size(),
          "a state has moments for its parameters");
  const Bytes once = train::EncodeState(loaded->state, loaded->identity);
  const auto again = train::DecodeState(once, "encoded");
  Require(again.has_value(), "a state that is encoded decodes");
  Require(train::EncodeState(again->state, again->identity) == once, "a state has one encoding");
  (void)train::CheckIdentity(loaded->identity, kIdentity, "input");
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  if (size == 0) return 0;
  fuzz::Decode(Bytes(data + 1, data + size), data[0] % 2 == 1);
  return 0;
}
