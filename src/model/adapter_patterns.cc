// PEFT's rank_pattern and alpha_pattern.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/json.h"
#include "model/adapter.h"

namespace tidegate::model {
namespace {

using nlohmann::ordered_json;

// As many as a strict ordered object may have keys (base/json.h).
constexpr size_t kMaxPatterns = 4096;

// The first entry that is the module's; the number of entries where none is.
template <typename Entry>
Result<size_t> FirstMatch(const std::vector<Entry>& entries, std::string_view path) {
  for (size_t i = 0; i < entries.size(); ++i) {
    TG_ASSIGN_OR_RETURN(const bool matches, entries[i].modules.Matches(path));
    if (matches) return i;
  }
  return entries.size();
}

std::string PathOf(int64_t layer, Module module) {
  return fmt::format("model.layers.{}.{}", layer, ModulePath(module));
}

template <typename Entry>
Status CheckUsed(const std::vector<Entry>& entries, const LoraConfig& lora, const ModelConfig& base,
                 const char* name) {
  std::vector<bool> used(entries.size() + 1, false);
  for (int64_t layer = 0; layer < base.num_layers; ++layer) {
    if (!lora.Adapts(layer)) continue;
    for (const Module module : lora.targets) {
      TG_ASSIGN_OR_RETURN(const size_t first, FirstMatch(entries, PathOf(layer, module)));
      used[first] = true;
    }
  }
  for (size_t i = 0; i < entries.size(); ++i) {
    if (used[i]) continue;
    return InvalidArgument(
        "{} has \"{}\", which decides nothing: no module that is adapted has such a name, or an "
        "entry before it takes them all; names are as model.layers.0.self_attn.q_proj or its end",
        name, entries[i].modules.key());
  }
  return OkStatus();
}

Result<ordered_json> ParseObject(std::string_view text, std::string_view what) {
  TG_ASSIGN_OR_RETURN(ordered_json json, ParseStrictOrderedJson(text, JsonLimits{}, what));
  if (json.is_null()) return ordered_json::object();
  if (json.is_object()) return json;
  return InvalidArgument("{} is {}: it must be an object, such as {{\"q_proj\": 8}}", what,
                         json.dump().substr(0, 80));
}

Result<PathPattern> ParseKey(const std::string& key, std::string_view what) {
  auto pattern = PathPattern::Compile(key);
  if (!pattern) return Unexpected(pattern.error().WithContext(what));
  return pattern;
}

}  // namespace

Result<LoraConfig::OfModule> LoraConfig::At(int64_t layer, Module module) const {
  if (rank_pattern.empty() && alpha_pattern.empty()) return OfModule{r, scale()};
  const std::string path = PathOf(layer, module);
  TG_ASSIGN_OR_RETURN(const size_t rank_at, FirstMatch(rank_pattern, path));
  TG_ASSIGN_OR_RETURN(const size_t alpha_at, FirstMatch(alpha_pattern, path));
  const int64_t rank = rank_at < rank_pattern.size() ? rank_pattern[rank_at].r : r;
  const double its = alpha_at < alpha_pattern.size() ? alpha_pattern[alpha_at].alpha : alpha;
  return OfModule{rank, ScaleOf(rank, its)};
}

Status CheckPatterns(const LoraConfig& lora) {
  if (std::max(lora.rank_pattern.size(), lora.alpha_pattern.size()) > kMaxPatterns) {
    return ResourceExhausted("rank_pattern or alpha_pattern has more than {} entries",
                             kMaxPatterns);
  }
  for (const RankPattern& entry : lora.rank_pattern) {
    if (entry.r >= 1 && entry.r <= kMaxLoraRank) continue;
    return InvalidArgument("rank_pattern has rank {} for \"{}\": choose 1 to {}", entry.r,
                           entry.modules.key(), kMaxLoraRank);
  }
  for (const AlphaPattern& entry : lora.alpha_pattern) {
    if (std::isfinite(entry.alpha) && entry.alpha > 0) continue;
    return InvalidArgument("alpha_pattern has alpha {} for \"{}\": choose a number above 0",
                           entry.alpha, entry.modules.key());
  }
  return OkStatus();
}

Status CheckPatternsAreUsed(const LoraConfig& lora, const ModelConfig& base) {
  TG_RETURN_IF_ERROR(CheckUsed(lora.rank_pattern, lora, base, "rank_pattern"));
  return CheckUsed(lora.alpha_pattern, lora, base, "alpha_pattern");
}

Result<std::vector<RankPattern>> ParseRankPattern(std::string_view json, std::string_view what) {
  TG_ASSIGN_OR_RETURN(const ordered_json object, ParseObject(json, what));
  std::vector<RankPattern> entries;
  for (const auto& [key, value] : object.items()) {
    if (!value.is_number_integer()) {
      return InvalidArgument("{}: the rank of \"{}\" is {}, it must be a whole number", what, key,
                             value.dump().substr(0, 80));
    }
    TG_ASSIGN_OR_RETURN(PathPattern pattern, ParseKey(key, what));
    const bool huge = value.is_number_unsigned() && value.get<uint64_t>() > kMaxLoraRank;
    entries.push_back(
        {std::move(pattern), huge ? std::numeric_limits<int64_t>::max() : value.get<int64_t>()});
  }
  return entries;
}

Result<std::vector<AlphaPattern>> ParseAlphaPattern(std::string_view json, std::string_view what) {
  TG_ASSIGN_OR_RETURN(const ordered_json object, ParseObject(json, what));
  std::vector<AlphaPattern> entries;
  for (const auto& [key, value] : object.items()) {
    if (!value.is_number()) {
      return InvalidArgument("{}: the alpha of \"{}\" is {}, it must be a number", what, key,
                             value.dump().substr(0, 80));
    }
    TG_ASSIGN_OR_RETURN(PathPattern pattern, ParseKey(key, what));
    entries.push_back({std::move(pattern), value.get<double>()});
  }
  return entries;
}

std::string RankPatternJson(const LoraConfig& lora) {
  ordered_json object = ordered_json::object();
  for (const RankPattern& entry : lora.rank_pattern) object[entry.modules.key()] = entry.r;
  return object.dump();
}

std::string AlphaPatternJson(const LoraConfig& lora) {
  ordered_json object = ordered_json::object();
  for (const AlphaPattern& entry : lora.alpha_pattern) {
    const bool whole = entry.alpha == std::floor(entry.alpha) && std::fabs(entry.alpha) < 0x1p53;
    if (whole) {
      object[entry.modules.key()] = static_cast<int64_t>(entry.alpha);
    } else {
      object[entry.modules.key()] = entry.alpha;
    }
  }
  return object.dump();
}

}  // namespace tidegate::model
