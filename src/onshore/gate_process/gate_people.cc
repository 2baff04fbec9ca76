// What people of the site say over the local API of an update that is held (gate_core.h).
#include <algorithm>
#include <cstring>

#include "gate/approval.h"
#include "onshore/gate_process/effects.h"
#include "onshore/gate_process/gate_core.h"

namespace tidegate::onshore {
namespace {

// Of one update: a person may change their mind, not without end.
constexpr size_t kMaxDecisions = 64;

std::string Printable(const std::string& text) {
  std::string out = text.substr(0, decltype(gate::DecisionLeaf::reason)::kMaxSize);
  for (char& c : out) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return out;
}

}  // namespace

std::vector<gate::Said> GateCore::SaidOf(const protocols::UpdateKey& key) const {
  std::vector<gate::Said> said;
  for (const gate::LedgerLeaf& leaf : ledger_->leaves()) {
    if (leaf.entry.type != gate::LeafType::kDecision) continue;
    auto decision = protocols::Decode<gate::DecisionLeaf>(leaf.entry.body.items);
    if (decision && decision->key == key) {
      said.push_back({std::move(*decision), leaf.entry.unix_millis});
    }
  }
  return said;
}

// Whoever may use the socket may ask; policy says whose word counts. One that does not is in the
// site's log, not in the ledger.
Result<GateEffects> GateCore::OnDecision(uint32_t uid, gate::Decision decision, ByteSpan plaintext,
                                         const std::string& reason) {
  GateEffects out;
  const auto& users = identity_.policy.approver_uids;
  const auto approver = std::find_if(users.begin(), users.end(),
                                     [uid](const auto& entry) { return entry.second == uid; });
  const bool of_held =
      held_ && plaintext.size() <= held_->plaintext.size() &&
      std::memcmp(plaintext.data(), held_->plaintext.data(), plaintext.size()) == 0;
  const bool counts =
      of_held && approver != users.end() && SaidOf(held_->key).size() < kMaxDecisions;
  out.push_back(Event(EventCode::kDecisionHeard, {held_ ? held_->key.round : -1LL, uid,
                                                  static_cast<int64_t>(decision), counts ? 1 : 0}));
  if (!counts) return out;
  gate::DecisionLeaf leaf;
  leaf.key = held_->key;
  leaf.plaintext = held_->plaintext;
  leaf.decision = decision;
  leaf.approver = approver->first;
  leaf.uid = uid;
  leaf.reason.text = Printable(reason);
  TG_ASSIGN_OR_RETURN([[maybe_unused]] const uint64_t index,
                      ledger_->Append(gate::LeafType::kDecision, leaf));
  TG_ASSIGN_OR_RETURN(const bool decided, HeldIsDecided());
  if (decided) {
    held_.reset();
    trainer_round_.reset();
  }
  TG_RETURN_IF_ERROR(Drive(&out));
  return out;
}

Result<GateEffects> GateCore::OnOutside(uint32_t uid) {
  outside_ = uid;
  return GateEffects{};
}

}  // namespace tidegate::onshore
