// config.json of a model: what is accepted can be counted, is written back, and reads as itself.
#include "fuzz.h"
#include "model/config.h"
#include "model/rope_table.h"

namespace tidegate::fuzz {

Target Describe() {
  Target target;
  for (const char* model : {"tiny_llama", "tiny_mistral", "tiny_qwen2", "tiny_qwen3"}) {
    target.seeds.push_back(SourceFile(std::string("tests/golden/") + model + "/config.json"));
  }
  target.seeds.push_back(
      R"({"model_type":"llama","hidden_size":64,"intermediate_size":128,"num_hidden_layers":2,)"
      R"("num_attention_heads":4,"num_key_value_heads":2,"vocab_size":300,"hidden_act":"silu",)"
      R"("max_position_embeddings":131072,"rms_norm_eps":1e-5,"rope_theta":500000.0,)"
      R"("eos_token_id":[1,2],"rope_scaling":{"rope_type":"llama3","factor":8.0,)"
      R"("low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192}})");
  target.memory_per_byte = 256;
  return target;
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  const auto config = model::ParseHfConfig(AsText({data, size}), "input");
  if (!config) return 0;
  fuzz::Require(config->num_parameters() > 0, "a model that is accepted has parameters");
  const std::string written = model::ToHfJson(*config);
  const auto again = model::ParseHfConfig(written, "written");
  fuzz::Require(again.has_value(), "a configuration that is written can be read");
  fuzz::Require(model::ToHfJson(*again) == written, "a configuration is written one way");
  return 0;
}
