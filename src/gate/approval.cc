#include "gate/approval.h"

#include <algorithm>
#include <map>

#include "crypto/document.h"
#include "protocols/archive.h"

TIDEGATE_INSTANTIATE_MESSAGE(tidegate::gate::Approval)

namespace tidegate::gate {
namespace {

constexpr int64_t kHourMillis = 3'600'000;

struct Word {
  Approval approval;
  protocols::Signed document;
};

}  // namespace

Standing StandingOf(const Policy& policy, const protocols::UpdateKey& key,
                    const protocols::Hash32& plaintext,
                    std::span<const protocols::Signed> documents, int64_t unix_millis) {
  std::map<std::string, Word> words;  // by approver
  for (const protocols::Signed& document :
       documents.first(std::min(documents.size(), kMaxApprovals))) {
    const auto claimed = protocols::Decode<Approval>(document.body.items);
    if (!claimed) continue;
    const auto approver = policy.approvers.find(claimed->approver.text);
    if (approver == policy.approvers.end()) continue;
    auto approval = crypto::OpenDocument<Approval>(
        approver->second, crypto::domains::kExportApproval, document, "approval");
    if (!approval || approval->federation != policy.federation || approval->key != key ||
        approval->plaintext != plaintext || approval->unix_millis > unix_millis + kHourMillis) {
      continue;
    }
    const auto it = words.find(approval->approver.text);
    if (it != words.end() && it->second.approval.unix_millis >= approval->unix_millis) continue;
    const std::string name = approval->approver.text;
    words.insert_or_assign(name, Word{std::move(*approval), document});
  }
  Standing standing;
  for (auto& [name, word] : words) {
    if (word.approval.decision == Decision::kRefuse) {
      standing.refusal = std::move(word.approval);
    } else if (unix_millis - word.approval.unix_millis <= policy.approval_hours * kHourMillis) {
      standing.releases.push_back(std::move(word.document));
    }
  }
  return standing;
}

bool Holds(const Policy& policy, uint32_t exports_of_job) {
  return policy.hold == Hold::kAlways || (policy.hold == Hold::kFirst && exports_of_job == 0);
}

}  // namespace tidegate::gate
