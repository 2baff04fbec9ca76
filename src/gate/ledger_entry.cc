#include "gate/ledger_entry.h"

#include <iterator>

#include "protocols/archive.h"

namespace tidegate::gate {

const char* LeafTypeName(LeafType type) {
  static constexpr const char* kNames[] = {
      "?",       "opened",  "policy",   "isolation", "job",      "refusal", "intent",
      "receipt", "adapter", "approval", "dataset",   "decision", "outside"};
  return kNames[static_cast<size_t>(type) < std::size(kNames) ? static_cast<size_t>(type) : 0];
}

}  // namespace tidegate::gate

TIDEGATE_INSTANTIATE_MESSAGE(tidegate::gate::LedgerEntry)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::gate::OpenedLeaf)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::gate::PolicyLeaf)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::gate::IsolationLeaf)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::gate::JobLeaf)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::gate::RefusalLeaf)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::gate::IntentLeaf)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::gate::ReceiptLeaf)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::gate::AdapterLeaf)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::gate::ApprovalLeaf)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::gate::DatasetLeaf)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::gate::DecisionLeaf)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::gate::OutsideLeaf)
