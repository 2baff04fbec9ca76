// Every message and document of the wire. The first byte says which; what the rest decodes to
// encodes to the same bytes.
#include <algorithm>

#include "fuzz.h"
#include "tests/protocols/samples.h"

namespace tidegate::fuzz {
namespace {

const std::vector<protocols::Sample>& Kinds() {
  static const std::vector<protocols::Sample> samples = protocols::AllSamples();
  return samples;
}

}  // namespace

Target Describe() {
  Target target;
  for (size_t i = 0; i < Kinds().size(); ++i) {
    target.seeds.push_back(static_cast<char>(i) + Text(Kinds()[i].bytes));
  }
  return target;
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  if (size == 0) return 0;
  const ByteSpan bytes(data + 1, size - 1);
  const auto again = fuzz::Kinds()[data[0] % fuzz::Kinds().size()].recode(bytes);
  if (again) {
    fuzz::Require(std::equal(bytes.begin(), bytes.end(), again->begin(), again->end()),
                  "a message has one encoding");
  }
  return 0;
}
