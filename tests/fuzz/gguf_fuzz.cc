// A GGUF file: parsed, every value asked for in every type, tensors decoded; and what has the
// metadata of a model is imported as one.
#include "tensor/gguf.h"

#include <algorithm>
#include <vector>

#include "fuzz.h"
#include "model/base_import.h"
#include "model/base_import_parts.h"
#include "tests/model/gguf_builder.h"

namespace tidegate::fuzz {
namespace {

// One tensor of each type that can be read.
std::string EachType() {
  const std::pair<uint32_t, size_t> types[] = {{0, 4 * 256}, {1, 2 * 256}, {2, 18 * 8},
                                               {3, 20 * 8},  {8, 34 * 8},  {12, 144},
                                               {14, 210},    {30, 2 * 256}};
  std::string head, infos, body;
  const auto number = [](uint64_t value, size_t width) {
    uint8_t bytes[8];
    StoreLe64(bytes, value);
    return std::string(bytes, bytes + width);
  };
  for (const auto& [type, bytes] : types) {
    const std::string name = "t" + std::to_string(type);
    infos += number(name.size(), 8) + name + number(1, 4) + number(256, 8) + number(type, 4) +
             number(body.size(), 8);
    body += std::string(bytes, static_cast<char>(type + 1));
    body.resize((body.size() + 31) / 32 * 32);
  }
  head = number(0x46554747, 4) + number(3, 4) + number(std::size(types), 8) + number(1, 8) +
         number(1, 8) + "n" + number(4, 4) + number(7, 4) + infos;
  head.resize((head.size() + 31) / 32 * 32);
  return head + body;
}

const Folder& Files() {
  static const Folder folder;
  return folder;
}

}  // namespace

Target Describe() {
  Target target;
  target.seeds = {Text(model::SmallLlama().Build()), EachType(),
                  Text(model::SmallModel("qwen2").Build())};
  target.memory = 8u << 20;  // of an import, the buffers
  target.memory_per_byte = 512;
  return target;
}

void AskForAll(const tensor::GgufFile& file) {
  for (const char* key :
       {"general.architecture", "general.alignment", "llama.block_count", "llama.context_length",
        "llama.rope.freq_base", "tokenizer.ggml.tokens", "tokenizer.ggml.merges",
        "tokenizer.ggml.token_type", "tokenizer.chat_template", "n"}) {
    const bool has = file.Has(key);
    const bool any = file.GetUnsigned(key) || file.GetFloat(key) || file.GetBool(key) ||
                     file.GetString(key) || file.GetStrings(key) || file.GetIntegers(key);
    Require(has || !any, "a key that is not there has no value");
  }
  size_t decoded = 0;
  for (const tensor::GgufTensor& t : file.tensors()) {
    Require(file.Find(t.name) == &t, "a tensor is found by its name");
    const auto n = static_cast<size_t>(std::min<int64_t>(t.num_elements(), 4096));
    // Tensors may share their bytes: many names of one large tensor are no work to be done.
    if (decoded += n; decoded > (1u << 16)) break;
    std::vector<float> floats(n);
    Require(tensor::Dequantize(t, 0, floats).ok(), "a tensor that was accepted can be decoded");
  }
}

void Import(const tensor::GgufFile& file, std::string_view bytes) {
  const auto config = model::GgufConfig(file, "input");
  if (!config || !model::GgufTokenizer(file, *config, "input")) return;
  Files().Put("in.gguf", bytes);
  const std::string out = Files().path() + "/out";
  const auto report = model::ImportGguf(Files().path() + "/in.gguf", out, {});
  if (report) {
    Require(model::LoadHfConfig(out + "/config.json").has_value(), "an import can be loaded");
    Require(tensor::SafetensorsFolder::Open(out).has_value(), "an import has weights");
  }
  Files().Remove("out");
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  const auto file = tensor::GgufFile::Parse({data, size}, "input");
  if (!file) return 0;
  fuzz::AskForAll(*file);
  fuzz::Import(*file, AsText({data, size}));
  return 0;
}
