// An isolation statement: what decodes is the encoding of what it decodes to.
#include "onshore/sandbox/statement.h"

#include "fuzz.h"

namespace tidegate::fuzz {

Target Describe() {
  Target target;
  target.seeds = {SourceFile("tests/fuzz/corpus/statement/link.txt")};
  target.memory_per_byte = 256;
  return target;
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  const std::string_view text = AsText({data, size});
  const auto statement = onshore::DecodeStatement(text);
  if (statement) {
    fuzz::Require(onshore::EncodeStatement(*statement) == text, "a statement has one text");
  }
  return 0;
}
