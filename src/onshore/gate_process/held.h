// What the site's people are shown of an update that policy holds for them:
// SITE/gate/held/NAME.json. Pure.
#pragma once

#include <string>

#include "gate/ledger_entry.h"
#include "gate/policy.h"
#include "protocols/update.h"

namespace tidegate::onshore {

// Job, round, what would cross (tensors with their shapes and norms, a histogram of the values'
// sizes, bytes, the most bits that they could carry, norm, losses, weight), and what approvals it
// needs. Of values it has sums and counts, never one by itself.
std::string HeldJson(const gate::Policy& policy, const protocols::JobManifest& job,
                     const gate::IntentLeaf& intent, const protocols::UpdateView& view,
                     uint64_t sealed_bytes, int64_t unix_millis);

}  // namespace tidegate::onshore
