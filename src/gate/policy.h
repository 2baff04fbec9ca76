// A site's policy: its own TOML file, read by the gate alone. Default deny: what is not named may
// not leave, a key that is not known is an error. docs/formats/policy.md is the format. Immutable.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "crypto/sign.h"
#include "protocols/documents.h"

namespace tidegate::gate {

struct Ground {
  std::string key, value;  // copied into the ledger as they are
};

// Which exports wait for the site's own people.
enum class Hold : uint8_t { kNever = 0, kFirst = 1, kAlways = 2 };

struct Policy {
  // [coordinator]
  std::optional<crypto::VerifyKey> coordinator_key;  // always set by ParsePolicy
  protocols::Id16 federation{};
  // [jobs]
  std::vector<std::string> jobs;  // ids (hex) or names; "any": every signed job
  std::vector<Digest> base_hashes;
  uint32_t max_rounds = 0, max_local_steps = 0;
  std::string
      jobs_approved_by;  // who decided that these jobs are allowed; for the ledger's readers
  // [export]
  std::vector<std::string> tensors;  // patterns, * matches any text
  uint32_t max_rank = 0, max_tensors = 0;
  std::vector<protocols::Codec> codecs;
  double norm_clip = 0;
  uint64_t max_bytes_per_round = 0, max_bytes_per_day = 0;
  // 0: bounded by bytes and exports alone.
  uint64_t max_bytes_per_job = 0, max_bits_per_round = 0, max_bits_per_job = 0;
  uint32_t max_exports_per_day = 0, max_exports_per_job = 0;
  uint32_t max_exports_per_round = 1;  // above 1: again for one that was refused for good
  bool train_loss = false, heldout_loss = false;  // metrics that may go along
  // [approval]
  Hold hold = Hold::kNever;
  uint32_t approvals_needed = 1;                       // by so many different approvers
  uint32_t approval_hours = 72;                        // how long a release counts
  std::map<std::string, crypto::VerifyKey> approvers;  // by name: who signs
  // By name: who says it over the local API, as this user of the machine ("uid:1001").
  std::map<std::string, uint32_t> approver_uids;
  // [privacy]
  std::string waiver;  // why there is no differential privacy
  // [walls]
  std::vector<std::string> walls;
  // [ground]
  std::vector<Ground> ground;

  Digest digest{};   // SHA-256 of the file
  std::string text;  // the file
};

// Errors name the line, the key and what is allowed.
Result<Policy> ParsePolicy(std::string_view text, std::string_view name);

// Whether a tensor name matches one of the patterns.
bool NameAllowed(const std::vector<std::string>& patterns, std::string_view name);

inline constexpr size_t kMaxPolicyBytes = 64u << 10;

}  // namespace tidegate::gate
