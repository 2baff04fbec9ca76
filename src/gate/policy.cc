#include "gate/policy.h"

#include <toml++/toml.h>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <optional>

#include "crypto/hash.h"
#include "protocols/update.h"

namespace tidegate::gate {
namespace {

struct Where {
  std::string_view file;
  std::string section;
  const toml::key& key;
};

Error Bad(const Where& at, std::string_view why) {
  return InvalidArgument("{} line {}: {}.{} {}", at.file, at.key.source().begin.line, at.section,
                         at.key.str(), why);
}

Result<std::string> Text(const Where& at, const toml::node& node, size_t max = 512) {
  const auto value = node.value_exact<std::string>();
  if (!value || value->empty() || value->size() > max) {
    return Bad(at, fmt::format("must be a text of 1 … {} bytes", max));
  }
  return *value;
}

Result<std::vector<std::string>> Texts(const Where& at, const toml::node& node) {
  const toml::array* array = node.as_array();
  if (array == nullptr || array->empty() || array->size() > 256) {
    return Bad(at, "must be a list of 1 … 256 texts");
  }
  std::vector<std::string> out;
  for (const toml::node& item : *array) {
    TG_ASSIGN_OR_RETURN(std::string text, Text(at, item));
    out.push_back(std::move(text));
  }
  return out;
}

template <typename T>
Status Count(const Where& at, const toml::node& node, uint64_t max, T* out) {
  const auto value = node.value_exact<int64_t>();
  if (!value || *value < 1 || static_cast<uint64_t>(*value) > max) {
    return Bad(at, fmt::format("must be a whole number, 1 … {}", max));
  }
  *out = static_cast<T>(*value);
  return OkStatus();
}

Status TakeCoordinator(const Where& at, const toml::node& node, Policy* p,
                       std::optional<crypto::VerifyKey>* key) {
  TG_ASSIGN_OR_RETURN(const std::string text, Text(at, node));
  if (at.key == "key") {
    const auto parsed = crypto::VerifyKey::FromText(text);
    if (!parsed) return Bad(at, parsed.error().message());
    *key = *parsed;
    return OkStatus();
  }
  if (at.key == "federation") {
    const auto id = FromHex(text);
    if (!id || id->size() != p->federation.size()) return Bad(at, "must be 32 hex digits");
    std::copy(id->begin(), id->end(), p->federation.begin());
    return OkStatus();
  }
  return Bad(at, "is not known; the keys are key, federation");
}

Status TakeJobs(const Where& at, const toml::node& node, Policy* p) {
  if (at.key == "allow") {
    TG_ASSIGN_OR_RETURN(p->jobs, Texts(at, node));
    return OkStatus();
  }
  if (at.key == "base_hashes") {
    TG_ASSIGN_OR_RETURN(const std::vector<std::string> texts, Texts(at, node));
    for (const std::string& text : texts) {
      const auto digest = DigestFromHex(text);
      if (!digest) return Bad(at, digest.error().message());
      p->base_hashes.push_back(*digest);
    }
    return OkStatus();
  }
  if (at.key == "approved_by") {
    TG_ASSIGN_OR_RETURN(p->jobs_approved_by, Text(at, node));
    return OkStatus();
  }
  if (at.key == "max_rounds") return Count(at, node, protocols::kMaxRounds, &p->max_rounds);
  if (at.key == "max_local_steps") {
    return Count(at, node, protocols::kMaxLocalSteps, &p->max_local_steps);
  }
  return Bad(at,
             "is not known; the keys are allow, approved_by, base_hashes, max_rounds, "
             "max_local_steps");
}

Status TakeNames(const Where& at, const toml::node& node, Policy* p) {
  TG_ASSIGN_OR_RETURN(const std::vector<std::string> names, Texts(at, node));
  for (const std::string& name : names) {
    const auto codec = protocols::CodecOf(name);
    if (at.key == "codecs" && codec) {
      p->codecs.push_back(*codec);
    } else if (at.key == "metrics" && name == "train_loss") {
      p->train_loss = true;
    } else if (at.key == "metrics" && name == "heldout_loss") {
      p->heldout_loss = true;
    } else {
      return Bad(at, at.key == "codecs" ? "takes " + protocols::CodecNames()
                                        : "takes train_loss and heldout_loss");
    }
  }
  return OkStatus();
}

Status TakeExport(const Where& at, const toml::node& node, Policy* p) {
  if (at.key == "tensors") {
    TG_ASSIGN_OR_RETURN(p->tensors, Texts(at, node));
    return OkStatus();
  }
  if (at.key == "codecs" || at.key == "metrics") return TakeNames(at, node, p);
  if (at.key == "max_rank") return Count(at, node, protocols::kMaxRank, &p->max_rank);
  if (at.key == "max_tensors") return Count(at, node, protocols::kMaxTensors, &p->max_tensors);
  if (at.key == "max_bytes_per_round") {
    return Count(at, node, protocols::kMaxContentBytes, &p->max_bytes_per_round);
  }
  if (at.key == "max_bytes_per_day") return Count(at, node, 1ull << 50, &p->max_bytes_per_day);
  if (at.key == "max_bytes_per_job") return Count(at, node, 1ull << 50, &p->max_bytes_per_job);
  if (at.key == "max_bits_per_round") return Count(at, node, 1ull << 50, &p->max_bits_per_round);
  if (at.key == "max_bits_per_job") return Count(at, node, 1ull << 50, &p->max_bits_per_job);
  if (at.key == "max_exports_per_day") return Count(at, node, 1u << 20, &p->max_exports_per_day);
  if (at.key == "max_exports_per_job") return Count(at, node, 1u << 20, &p->max_exports_per_job);
  if (at.key == "max_exports_per_round") return Count(at, node, 16, &p->max_exports_per_round);
  if (at.key == "norm_clip") {
    const auto value = node.value<double>();
    if (!value || !(*value > 0) || !std::isfinite(*value)) return Bad(at, "must be above 0");
    p->norm_clip = *value;
    return OkStatus();
  }
  return Bad(at,
             "is not known; the keys are tensors, max_rank, max_tensors, codecs, norm_clip, "
             "max_bytes_per_round, max_bytes_per_day, max_bytes_per_job, max_bits_per_round, "
             "max_bits_per_job, max_exports_per_round, max_exports_per_day, max_exports_per_job, "
             "metrics");
}

Status TakePrivacy(const Where& at, const toml::node& node, Policy* p) {
  if (at.key == "epsilon" || at.key == "delta") {
    return Unsupported(
        "{} line {}: differential privacy is not built yet, so no epsilon can be "
        "kept; give privacy.waiver its reason instead",
        at.file, at.key.source().begin.line);
  }
  if (at.key != "waiver") return Bad(at, "is not known; the key is waiver");
  TG_ASSIGN_OR_RETURN(p->waiver, Text(at, node));
  return OkStatus();
}

Status TakeGround(const Where& at, const toml::node& node, Policy* p) {
  static constexpr std::string_view kKeys[] = {"transfer_mechanism", "impact_assessment_sha256",
                                               "consent_basis", "data_subjects", "legal_entity"};
  for (const std::string_view known : kKeys) {
    if (at.key != known) continue;
    TG_ASSIGN_OR_RETURN(std::string value, Text(at, node));
    p->ground.push_back({std::string(known), std::move(value)});
    return OkStatus();
  }
  return Bad(at,
             "is not known; the keys are transfer_mechanism, impact_assessment_sha256, "
             "consent_basis, data_subjects, legal_entity");
}

// Root is everybody: it could be any of them.
Status TakeApproverUid(const Where& at, const std::string& name, const std::string& text,
                       Policy* p) {
  uint32_t uid = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + 4, end, uid);
  if (error != std::errc() || stop != end || uid == 0 || uid == UINT32_MAX) {
    return Bad(at, fmt::format("{}: {} is no user; write uid:NUMBER, above 0", name, text));
  }
  for (const auto& [other, same] : p->approver_uids) {
    if (same == uid) return Bad(at, fmt::format("{} and {} are the same user", other, name));
  }
  p->approver_uids.emplace(name, uid);
  return OkStatus();
}

Status TakeApprovers(const Where& at, const toml::node& node, Policy* p) {
  const toml::table* table = node.as_table();
  if (table == nullptr) {
    return Bad(at, "must be a table: { alice = \"ed25519:…\", bob = \"uid:1001\" }");
  }
  for (const auto& [name, value] : *table) {
    // A name stands in the ledger's leaves, which have printable ASCII.
    if (name.str().empty() || name.str().size() > protocols::kMaxName ||
        !std::all_of(name.str().begin(), name.str().end(),
                     [](char c) { return c >= 0x20 && c <= 0x7e; })) {
      return Bad(at, fmt::format("has the name '{}': give 1 to {} printable ASCII characters",
                                 name.str(), protocols::kMaxName));
    }
    const std::string text = value.value<std::string>().value_or("");
    if (text.starts_with("uid:")) {
      TG_RETURN_IF_ERROR(TakeApproverUid(at, std::string(name.str()), text, p));
      continue;
    }
    const auto key = crypto::VerifyKey::FromText(text);
    if (!key) return Bad(at, fmt::format("{}: {}", name.str(), key.error().message()));
    for (const auto& [other, same] : p->approvers) {
      if (std::equal(same.bytes().begin(), same.bytes().end(), key->bytes().begin())) {
        return Bad(at, fmt::format("{} and {} have the same key", other, name.str()));
      }
    }
    p->approvers.emplace(std::string(name.str()), *key);
  }
  return OkStatus();
}

Status TakeApproval(const Where& at, const toml::node& node, Policy* p) {
  if (at.key == "approvers") return TakeApprovers(at, node, p);
  if (at.key == "needed") return Count(at, node, 8, &p->approvals_needed);
  if (at.key == "expires_hours") return Count(at, node, 24 * 366, &p->approval_hours);
  if (at.key != "hold") {
    return Bad(at, "is not known; the keys are hold, needed, expires_hours, approvers");
  }
  TG_ASSIGN_OR_RETURN(const std::string text, Text(at, node));
  if (text != "never" && text != "first" && text != "always") {
    return Bad(at, "must be never, first (export of a job) or always");
  }
  p->hold = text == "never" ? Hold::kNever : text == "first" ? Hold::kFirst : Hold::kAlways;
  return OkStatus();
}

Status CheckComplete(std::string_view file, const Policy& p, bool has_key) {
  const std::pair<const char*, bool> required[] = {
      {"coordinator.key", has_key},
      {"coordinator.federation", p.federation != protocols::Id16{}},
      {"jobs.allow", !p.jobs.empty()},
      {"jobs.base_hashes", !p.base_hashes.empty()},
      {"jobs.max_rounds", p.max_rounds != 0},
      {"jobs.max_local_steps", p.max_local_steps != 0},
      {"export.tensors", !p.tensors.empty()},
      {"export.max_rank", p.max_rank != 0},
      {"export.max_tensors", p.max_tensors != 0},
      {"export.codecs", !p.codecs.empty()},
      {"export.norm_clip", p.norm_clip > 0},
      {"export.max_bytes_per_round", p.max_bytes_per_round != 0},
      {"export.max_bytes_per_day", p.max_bytes_per_day != 0},
      {"export.max_exports_per_day", p.max_exports_per_day != 0},
      {"export.max_exports_per_job", p.max_exports_per_job != 0},
      {"privacy.waiver", !p.waiver.empty()}};
  for (const auto& [key, there] : required) {
    if (!there)
      return InvalidArgument("{}: {} is missing; nothing is allowed by default", file, key);
  }
  const size_t approvers = p.approvers.size() + p.approver_uids.size();
  if (p.hold != Hold::kNever && approvers < p.approvals_needed) {
    return InvalidArgument(
        "{}: approval.needed is {} and approval.approvers has {}: nothing could be released", file,
        p.approvals_needed, approvers);
  }
  return OkStatus();
}

}  // namespace

Result<Policy> ParsePolicy(std::string_view text, std::string_view name) {
  if (text.size() > kMaxPolicyBytes) {
    return ResourceExhausted("{} has {} bytes, a policy has at most {}", name, text.size(),
                             kMaxPolicyBytes);
  }
  Policy p;
  std::optional<crypto::VerifyKey> key;
  p.walls = {"netns", "seccomp", "landlock_fs", "pinned_address"};
  using Take = std::function<Status(const Where&, const toml::node&)>;
  const std::map<std::string, Take> sections = {
      {"coordinator",
       [&](const Where& at, const toml::node& n) { return TakeCoordinator(at, n, &p, &key); }},
      {"jobs", [&](const Where& at, const toml::node& n) { return TakeJobs(at, n, &p); }},
      {"export", [&](const Where& at, const toml::node& n) { return TakeExport(at, n, &p); }},
      {"approval", [&](const Where& at, const toml::node& n) { return TakeApproval(at, n, &p); }},
      {"privacy", [&](const Where& at, const toml::node& n) { return TakePrivacy(at, n, &p); }},
      {"ground", [&](const Where& at, const toml::node& n) { return TakeGround(at, n, &p); }},
      {"walls", [&](const Where& at, const toml::node& n) -> Status {
         if (at.key != "demanded") return Bad(at, "is not known; the key is demanded");
         TG_ASSIGN_OR_RETURN(p.walls, Texts(at, n));
         return OkStatus();
       }}};
  try {
    const toml::table table = toml::parse(text, name);
    for (const auto& [section, node] : table) {
      const auto take = sections.find(std::string(section.str()));
      const toml::table* inner = node.as_table();
      if (take == sections.end() || inner == nullptr) {
        return InvalidArgument(
            "{} line {}: {} is not a section of a policy; they are coordinator, "
            "jobs, export, approval, privacy, walls, ground",
            name, section.source().begin.line, section.str());
      }
      for (const auto& [inner_key, value] : *inner) {
        TG_RETURN_IF_ERROR(take->second({name, take->first, inner_key}, value));
      }
    }
  } catch (const toml::parse_error& e) {
    return InvalidArgument("{} line {}: {}", name, e.source().begin.line,
                           std::string(e.description()));
  }
  TG_RETURN_IF_ERROR(CheckComplete(name, p, key.has_value()));
  p.coordinator_key = std::move(key);
  p.text = std::string(text);
  p.digest = crypto::Sha256::Of(AsBytes(text));
  return p;
}

bool NameAllowed(const std::vector<std::string>& patterns, std::string_view name) {
  const auto matches = [name](std::string_view pattern) {
    // Greedy with one step back: linear for one star, bounded for more.
    size_t p = 0, n = 0, star = std::string_view::npos, mark = 0;
    while (n < name.size()) {
      if (p < pattern.size() && pattern[p] != '*' && pattern[p] == name[n]) {
        ++p, ++n;
      } else if (p < pattern.size() && pattern[p] == '*') {
        star = p++;
        mark = n;
      } else if (star != std::string_view::npos) {
        p = star + 1;
        n = ++mark;
      } else {
        return false;
      }
    }
    while (p < pattern.size() && pattern[p] == '*') ++p;
    return p == pattern.size();
  };
  for (const std::string& pattern : patterns) {
    if (matches(pattern)) return true;
  }
  return false;
}

}  // namespace tidegate::gate
