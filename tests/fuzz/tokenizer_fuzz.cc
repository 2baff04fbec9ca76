// tokenizer.json: what loads encodes a fixed text, to ids of its own that decode, within its work
// limits.
#include "model/tokenizer.h"

#include "fuzz.h"

namespace tidegate::fuzz {

Target Describe() {
  Target target;
  for (const char* family : {"gpt2", "llama3", "qwen2", "smollm"}) {
    target.seeds.push_back(SourceFile(std::string("tests/golden/tokenizers/") + family + ".json"));
  }
  target.seeds.push_back(SourceFile("tests/golden/tiny_llama/tokenizer.json"));
  // Tables of ids are as long as the greatest of them, at most kMaxVocabulary.
  target.memory = 160u << 20;
  target.memory_per_byte = 512;
  return target;
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  static const std::string kText =
      "The quick  brown fox's 1234567 tests.\n\n\tGr\xc3\xbc\xc3\x9f"
      "e! e\xcc\x81 \xe6\xbc\xa2\xe5"
      "\xad\x97 \xf0\x9f\x98\x80<|im_start|>user<|endoftext|>aaaaaaaaaaaaaaaaaaaaaaaa12 \r\n  ";
  const auto tokenizer = model::Tokenizer::FromJson(AsText({data, size}), "input");
  if (!tokenizer) return 0;
  for (const bool special : {false, true}) {
    const auto encoding = tokenizer->Encode(kText, {.add_special_tokens = special});
    if (!encoding) continue;
    fuzz::Require(encoding->begins.size() == encoding->ids.size() &&
                      encoding->ends.size() == encoding->ids.size(),
                  "each token has its place");
    for (size_t i = 0; i < encoding->ids.size(); ++i) {
      fuzz::Require(encoding->begins[i] <= encoding->ends[i] && encoding->ends[i] <= kText.size(),
                    "a token's place is in the text");
      const int32_t id = encoding->ids[i];
      fuzz::Require(id >= 0 && id < tokenizer->vocab_size(), "a token's id is in the vocabulary");
      fuzz::Require(tokenizer->TokenBytes(id).has_value(), "a token has bytes");
    }
    fuzz::Require(tokenizer->Decode(encoding->ids).has_value(), "what was encoded decodes");
    fuzz::Require(tokenizer->Decode(encoding->ids, true).has_value(), "without specials too");
  }
  return 0;
}
