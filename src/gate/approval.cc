#include "gate/approval.h"

#include <algorithm>
#include <map>

#include "crypto/document.h"
#include "protocols/archive.h"

TIDEGATE_INSTANTIATE_MESSAGE(tidegate::gate::Approval)

namespace tidegate::gate {
namespace {

constexpr int64_t kHourMillis = 3'600'000;

// An approver's newest.
struct Word {
  Decision decision = Decision::kRefuse;
  std::string reason;
  int64_t unix_millis = 0;
  std::optional<protocols::Signed> document;
};
using Words = std::map<std::string, Word>;  // by approver

void TakeSigned(const Policy& policy, const protocols::UpdateKey& key,
                const protocols::Hash32& plaintext, const protocols::Signed& document,
                int64_t unix_millis, Words* words) {
  const auto claimed = protocols::Decode<Approval>(document.body.items);
  if (!claimed) return;
  const auto approver = policy.approvers.find(claimed->approver.text);
  if (approver == policy.approvers.end()) return;
  const auto approval = crypto::OpenDocument<Approval>(
      approver->second, crypto::domains::kExportApproval, document, "approval");
  if (!approval || approval->federation != policy.federation || approval->key != key ||
      approval->plaintext != plaintext || approval->unix_millis > unix_millis + kHourMillis) {
    return;
  }
  const auto it = words->find(approval->approver.text);
  if (it != words->end() && it->second.unix_millis >= approval->unix_millis) return;
  words->insert_or_assign(approval->approver.text, Word{approval->decision, approval->reason.text,
                                                        approval->unix_millis, document});
}

}  // namespace

Standing StandingOf(const Policy& policy, const protocols::UpdateKey& key,
                    const protocols::Hash32& plaintext,
                    std::span<const protocols::Signed> documents, std::span<const Said> said,
                    int64_t unix_millis) {
  Words words;
  for (const protocols::Signed& document :
       documents.first(std::min(documents.size(), kMaxApprovals))) {
    TakeSigned(policy, key, plaintext, document, unix_millis, &words);
  }
  for (const Said& one : said) {
    const DecisionLeaf& leaf = one.leaf;
    const auto user = policy.approver_uids.find(leaf.approver.text);
    const bool counts = user != policy.approver_uids.end() && user->second == leaf.uid &&
                        leaf.key == key && leaf.plaintext == plaintext;
    // In the ledger's order: the last one holds.
    if (counts) {
      words.insert_or_assign(leaf.approver.text,
                             Word{leaf.decision, leaf.reason.text, one.unix_millis, {}});
    }
  }
  // Not the age: an approver may date a release as far back as an int64 goes.
  const int64_t oldest = unix_millis - policy.approval_hours * kHourMillis;
  Standing standing;
  for (auto& [name, word] : words) {
    if (word.decision == Decision::kRefuse) {
      standing.refusal = {name, word.reason};
    } else if (word.unix_millis >= oldest) {
      ++standing.released;
      if (word.document) standing.releases.push_back(std::move(*word.document));
    }
  }
  return standing;
}

bool Holds(const Policy& policy, uint32_t exports_of_job) {
  return policy.hold == Hold::kAlways || (policy.hold == Hold::kFirst && exports_of_job == 0);
}

}  // namespace tidegate::gate
