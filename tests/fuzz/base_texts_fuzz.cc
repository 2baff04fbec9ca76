// The small files of a model's folder, together, as the trainer loads them. The first byte of an
// input says which of the five files the rest replaces.
#include "finetune/loaded_base.h"

#include "fuzz.h"

namespace tidegate::fuzz {
namespace {

constexpr const char* kNames[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
                                  "generation_config.json", "chat_template.jinja"};

std::string Good(size_t which) {
  switch (which) {
    case 3:
      return R"({"eos_token_id":[1,2],"bos_token_id":1,"temperature":0.6})";
    case 4:
      return "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] "
             "}}<|im_end|>\n{% endfor %}";
    default:
      return SourceFile(std::string("tests/golden/tiny_llama/") + kNames[which]);
  }
}

const Folder& Model() {
  static const Folder folder;
  return folder;
}

}  // namespace

Target Describe() {
  Target target;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    target.seeds.push_back(static_cast<char>(i) + Good(i));
  }
  target.seeds.push_back(
      "\2{\"chat_template\":[{\"name\":\"default\",\"template\":\"{{ 1 "
      "}}\"},{\"name\":\"rag\",\"template\":\"\"}],\"bos_token\":{\"content\":"
      "\"<s>\"},\"eos_token\":\"</s>\"}");
  // Tables of ids are as long as the greatest of them, at most kMaxVocabulary.
  target.memory = 160u << 20;
  target.memory_per_byte = 4096;  // a template's tree
  return target;
}

void Load(size_t which, std::string_view content) {
  static const std::vector<std::string> good = {Good(0), Good(1), Good(2), Good(3), Good(4)};
  for (size_t i = 0; i < good.size(); ++i) {
    // The template of its own file hides the one in tokenizer_config.json.
    if (i == 4 && which == 2)
      Model().Remove(kNames[i]);
    else
      Model().Put(kNames[i], i == which ? content : good[i]);
  }
  const auto base = finetune::LoadedBase::LoadText(Model().path());
  if (!base) return;
  for (const int32_t id : base->stop_ids) {
    Require(id >= 0 && id < base->config.vocab_size, "a stop id is in the vocabulary");
  }
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  if (size == 0) return 0;
  fuzz::Load(data[0] % 5, AsText({data + 1, size - 1}));
  return 0;
}
