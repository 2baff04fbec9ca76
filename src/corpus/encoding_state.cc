#include "corpus/encoding_state.h"

#include "base/json.h"

namespace tidegate::corpus {
namespace {

using nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr size_t kMaxStateBytes = size_t{1} << 30;

ordered_json PlanJson(const EncodingPlan& plan) {
  ordered_json json = {{"format", "tidegate encoding"},
                       {"version", kVersion},
                       {"tokenizer_xxh64", fmt::format("{:016x}", plan.kind.tokenizer)},
                       {"vocab_size", plan.kind.vocab_size},
                       {"end_of_text", plan.kind.end_of_text},
                       {"shard_tokens", plan.shard_tokens},
                       {"field", plan.text.field},
                       {"skip_bad_lines", plan.text.skip_bad_lines},
                       {"files", ordered_json::array()}};
  for (const TextFile& file : plan.files) {
    json["files"].push_back({{"path", file.path.native()}, {"bytes", file.bytes}});
  }
  return json;
}

// Written by us and durable: what does not parse was changed by somebody.
Result<EncodingState> Parse(const ordered_json& json) {
  EncodingState state;
  try {
    for (const ordered_json& shard : json.at("shards")) {
      tokens::TokenIndex::Entry entry;
      entry.file = shard.at("file").get<std::string>();
      entry.facts = {.tokens = shard.at("tokens").get<uint64_t>(),
                     .documents = shard.at("documents").get<uint64_t>(),
                     .bytes = shard.at("bytes").get<uint64_t>(),
                     .checksum = shard.at("xxh64").get<uint64_t>()};
      state.shards.push_back(std::move(entry));
    }
    const ordered_json& at = json.at("next");
    state.at = {.file = at.at("file").get<uint64_t>(),
                .offset = at.at("offset").get<uint64_t>(),
                .piece = at.at("piece").get<uint64_t>()};
    state.skip = at.at("skip").get<uint64_t>();
    state.documents = at.at("documents").get<uint64_t>();
    state.bad_lines = at.at("bad_lines").get<uint64_t>();
    return state;
  } catch (const nlohmann::json::exception& error) {
    return DataLoss("{}", error.what());
  }
}

}  // namespace

Status WriteEncodingState(const std::filesystem::path& folder, const EncodingPlan& plan,
                          const EncodingState& state) {
  ordered_json json = {{"plan", PlanJson(plan)}, {"shards", ordered_json::array()}};
  for (const auto& shard : state.shards) {
    json["shards"].push_back({{"file", shard.file},
                              {"tokens", shard.facts.tokens},
                              {"documents", shard.facts.documents},
                              {"bytes", shard.facts.bytes},
                              {"xxh64", shard.facts.checksum}});
  }
  json["next"] = {{"file", state.at.file},        {"offset", state.at.offset},
                  {"piece", state.at.piece},      {"skip", state.skip},
                  {"documents", state.documents}, {"bad_lines", state.bad_lines}};
  return WriteFileDurably(folder / kEncodingName, AsBytes(json.dump(1) + "\n"));
}

Result<EncodingState> ReadEncodingState(const std::filesystem::path& folder,
                                        const EncodingPlan& plan) {
  const std::filesystem::path path = folder / kEncodingName;
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return EncodingState();
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxStateBytes));
  TG_ASSIGN_OR_RETURN(
      const ordered_json json,
      ParseStrictOrderedJson(text, {.max_bytes = kMaxStateBytes, .max_depth = 8}, path.native()));
  if (!json.is_object() || !json.contains("plan") || json["plan"] != PlanJson(plan)) {
    return FailedPrecondition(
        "{} holds shards of other files, another tokenizer or other options; name another folder, "
        "or remove it",
        folder.native());
  }
  auto state = Parse(json);
  if (!state) return Unexpected(state.error().WithContext(path.native()));
  for (const auto& entry : state->shards) {
    TG_ASSIGN_OR_RETURN(const tokens::Shard shard, tokens::Shard::Open(folder / entry.file));
    if (shard.facts() != entry.facts || shard.kind() != plan.kind) {
      return DataLoss("{} is not the shard that {} names; remove the folder and begin again",
                      (folder / entry.file).native(), path.native());
    }
  }
  return state;
}

}  // namespace tidegate::corpus
