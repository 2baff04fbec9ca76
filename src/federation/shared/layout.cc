#include "federation/shared/layout.h"

namespace tidegate::federation {

model::LoraConfig LoraOf(const protocols::JobManifest& job) {
  model::LoraConfig lora;
  lora.r = job.lora_r;
  lora.alpha = job.lora_alpha;
  lora.dropout = job.lora_dropout;
  for (int i = 0; i < model::kModulesPerLayer; ++i) {
    if ((job.lora_targets >> i & 1) != 0) lora.targets.push_back(static_cast<model::Module>(i));
  }
  return lora;
}

Result<protocols::Layout> LayoutOf(const model::Adapter& adapter) {
  protocols::Layout layout;
  if (adapter.tensors().size() > protocols::kMaxTensors) {
    return ResourceExhausted("an adapter of {} tensors is over the limit {}; target fewer modules",
                             adapter.tensors().size(), protocols::kMaxTensors);
  }
  for (const model::AdapterTensor& t : adapter.tensors()) {
    if (t.name.size() > protocols::kMaxTensorName) {
      return ResourceExhausted("a tensor name of {} characters is over the limit {}", t.name.size(),
                               protocols::kMaxTensorName);
    }
    layout.tensors.items.push_back({t.name, static_cast<uint32_t>(t.rows),
                                    static_cast<uint32_t>(t.cols), t.is_b ? kGroupB : kGroupA});
  }
  return layout;
}

}  // namespace tidegate::federation
