#include "federation/shared/layout.h"

namespace tidegate::federation {

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
