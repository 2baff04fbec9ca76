// policy.toml, the gate's rules: what is accepted has every bound, and its patterns end.
#include "gate/policy.h"

#include "fuzz.h"
#include "tests/gate/gate_samples.h"

namespace tidegate::fuzz {

Target Describe() {
  Target target;
  target.seeds = {gate::SamplePolicyText()};
  target.memory_per_byte = 1024;
  return target;
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  const auto policy = gate::ParsePolicy(AsText({data, size}), "policy.toml");
  if (!policy) return 0;
  fuzz::Require(policy->coordinator_key.has_value(), "a policy pins a coordinator");
  fuzz::Require(policy->text == AsText({data, size}), "a policy keeps its text");
  fuzz::Require(policy->norm_clip > 0 && !policy->codecs.empty(), "a policy bounds what leaves");
  fuzz::Require(policy->max_rank > 0 && policy->max_tensors > 0, "a policy bounds a layout");
  static const std::string kLong(160, 'a');
  for (const std::string& name : {std::string("layer.0.lora_A"), std::string(), kLong}) {
    (void)gate::NameAllowed(policy->tensors, name);
  }
  return 0;
}
