// A PEFT folder: adapter_config.json and adapter_model.safetensors of a tiny base. The first byte
// says which of the two the rest replaces. What loads is written and loads to the same parameters.
#include "model/adapter.h"

#include <algorithm>
#include <cmath>

#include "base/file.h"
#include "fuzz.h"

namespace tidegate::fuzz {
namespace {

constexpr const char* kNames[] = {"adapter_config.json", "adapter_model.safetensors"};

struct Sample {
  model::ModelConfig base;
  Folder in, out;
  std::string good[2];
  Sample() {
    base.model_type = "llama";
    base.hidden_size = 8;
    base.intermediate_size = 16;
    base.num_layers = 1;
    base.num_heads = 2;
    base.num_kv_heads = 1;
    base.head_dim = 4;
    base.vocab_size = 16;
    base.max_positions = 64;
    model::LoraConfig lora;
    lora.r = 2;
    lora.alpha = 4;
    lora.targets = {model::Module::kQ, model::Module::kDown};
    Require(model::SavePeft(in.path(), model::Adapter::Create(base, lora, 1), "base").ok(),
            "an adapter can be written");
    for (int i = 0; i < 2; ++i) {
      good[i] = Text(*ReadFile(in.path() + "/" + kNames[i], 1 << 20));
    }
  }
};

Sample& TheSample() {
  static Sample sample;
  return sample;
}

}  // namespace

Target Describe() {
  Target target;
  for (int i = 0; i < 2; ++i) target.seeds.push_back(static_cast<char>(i) + TheSample().good[i]);
  for (const char* folder : {"tiny_llama/adapter_in", "patterns/plain", "patterns/rslora"}) {
    target.seeds.push_back('\0' +
                           SourceFile(fmt::format("tests/golden/{}/adapter_config.json", folder)));
  }
  target.memory = 256u << 10;  // less than this base's adapter of the greatest rank
  target.memory_per_byte = 256;
  return target;
}

void Load(size_t which, std::string_view content) {
  Sample& s = TheSample();
  for (size_t i = 0; i < 2; ++i) s.in.Put(kNames[i], i == which ? content : s.good[i]);
  const auto adapter = model::LoadPeft(s.in.path(), s.base);
  if (!adapter) return;
  const auto parameters = adapter->parameters();
  Require(std::all_of(parameters.begin(), parameters.end(),
                      [](float value) { return std::isfinite(value); }),
          "an adapter that loads is finite");
  Require(model::SavePeft(s.out.path(), *adapter, "base").ok(), "what loads can be written");
  const auto again = model::LoadPeft(s.out.path(), s.base);
  Require(again && std::equal(parameters.begin(), parameters.end(), again->parameters().begin(),
                              again->parameters().end()),
          "an adapter that was written loads to the same");
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  if (size == 0) return 0;
  fuzz::Load(data[0] % 2, AsText({data + 1, size - 1}));
  return 0;
}
