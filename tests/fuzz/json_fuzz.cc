// Strict JSON, in both forms: what parses prints, and what is printed parses to the same.
#include "base/json.h"
#include "fuzz.h"

namespace tidegate::fuzz {

Target Describe() {
  Target target;
  target.seeds = {R"({"a": [1, -2, 3.5e2, "x\u00e9\n", null, true, {"b": {}}]})",
                  "[0.1,18446744073709551615,-9223372036854775808,1e-7,\"\\ud83d\\ude00\"]",
                  SourceFile("tests/golden/tiny_llama/config.json"),
                  "[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]"};
  target.memory_per_byte = 256;
  return target;
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  const std::string_view text = AsText({data, size});
  const auto value = ParseStrictJson(text, {.max_bytes = 1 << 20, .max_depth = 32}, "the input");
  const auto ordered = ParseStrictOrderedJson(text, {.max_bytes = 1 << 20, .max_depth = 32}, "it");
  if (!value) return 0;
  const std::string printed = value->dump();
  const auto again = ParseStrictJson(printed, {.max_bytes = 8 << 20, .max_depth = 32}, "printed");
  fuzz::Require(again && *again == *value, "JSON that was parsed and printed parses to the same");
  // The ordered form has a bound on keys of its own.
  if (ordered) fuzz::Require(nlohmann::json(*ordered) == *value, "both forms are one value");
  return 0;
}
