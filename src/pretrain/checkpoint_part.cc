#include "pretrain/checkpoint_part.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/json.h"
#include "protocols/limits.h"

namespace tidegate::pretrain {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kFormat = 1;

Error Damaged(std::string_view name, std::string_view why) {
  return MakeError(Code::kDataLoss, "{} is damaged ({}): an older checkpoint may be whole", name,
                   why);
}

json Encode(const blocks::Content& content) {
  json ids = json::array();
  for (const Digest& id : content.blocks) ids.push_back(ToHex(id));
  return {{"bytes", content.bytes}, {"blocks", std::move(ids)}};
}

// Not get<int64_t>(): that takes fractions, and wraps what is too large.
int64_t Count(const json& value) {
  if (!value.is_number_unsigned() || !std::in_range<int64_t>(value.get<uint64_t>())) {
    throw std::invalid_argument("a count is no whole number");
  }
  return value.get<int64_t>();
}

const json& Array(const json& value) {
  if (!value.is_array()) throw std::invalid_argument("a list is none");
  return value;
}

std::vector<Digest> Digests(const json& list) {
  std::vector<Digest> out;
  for (const json& text : Array(list)) {
    const auto id = DigestFromHex(text.get<std::string>());
    if (!id) throw std::invalid_argument("a hash is not hexadecimal");
    out.push_back(*id);
  }
  return out;
}

blocks::Content DecodeContent(const json& from) {
  blocks::Content content;
  content.bytes = static_cast<uint64_t>(Count(from.at("bytes")));
  content.blocks = Digests(from.at("blocks"));
  content.id = blocks::ContentId(content.blocks);
  const uint64_t size = protocols::kBlockBytes;
  if (content.blocks.size() != content.bytes / size + (content.bytes % size == 0 ? 0 : 1)) {
    throw std::invalid_argument("a content has another number of blocks");
  }
  return content;
}

StoredSlice DecodeSlice(const json& from, uint64_t bytes) {
  StoredSlice slice{from.at("tensor").get<std::string>(), Count(from.at("begin")),
                    Count(from.at("end")), Count(from.at("at"))};
  const auto elements = static_cast<int64_t>(bytes / sizeof(float));
  if (slice.end < slice.begin || slice.at > elements ||
      slice.end - slice.begin > elements - slice.at) {
    throw std::invalid_argument("a slice lies outside of its content");
  }
  return slice;
}

template <typename T, typename Decode>
Result<T> Decoded(std::string_view text, std::string_view name, Decode decode) {
  const auto parsed = ParseStrictJson(text, {.max_bytes = kMaxPartBytes}, name);
  if (!parsed) return Damaged(name, parsed.error().message());
  try {
    if (const int64_t format = Count(parsed->at("format")); format != kFormat) {
      return Unsupported("{} has format {}, this version reads {}", name, format, kFormat);
    }
    return decode(*parsed);
  } catch (const std::exception& error) {
    return Damaged(name, error.what());
  }
}

}  // namespace

fs::path StepFolder(const fs::path& dir, int64_t step) {
  return dir / fmt::format("step-{:08}", step);
}
fs::path PartFile(const fs::path& dir, int64_t step, int rank) {
  return StepFolder(dir, step) / fmt::format("part-{:04}.json", rank);
}
fs::path IndexFile(const fs::path& dir, int64_t step) {
  return StepFolder(dir, step) / "index.json";
}
fs::path StoreFolder(const fs::path& dir, int rank) {
  return dir / "blocks" / fmt::format("{:04}", rank);
}

std::string EncodePart(const Part& part) {
  json out = {{"format", kFormat}, {"store", part.store}};
  for (size_t kind = 0; kind < kKinds.size(); ++kind) {
    out[kKinds[kind]] = Encode(part.contents[kind]);
  }
  json slices = json::array();
  for (const StoredSlice& s : part.slices) {
    slices.push_back({{"tensor", s.tensor}, {"begin", s.begin}, {"end", s.end}, {"at", s.at}});
  }
  out["slices"] = std::move(slices);
  return out.dump() + "\n";
}

Result<Part> DecodePart(std::string_view text, std::string_view name) {
  return Decoded<Part>(text, name, [](const json& from) {
    Part part;
    const int64_t store = Count(from.at("store"));
    if (store >= kMaxCheckpointParts) {
      throw std::invalid_argument("a block store has no such number");
    }
    part.store = static_cast<int>(store);
    for (size_t kind = 0; kind < kKinds.size(); ++kind) {
      part.contents[kind] = DecodeContent(from.at(kKinds[kind]));
      if (part.contents[kind].bytes != part.contents[0].bytes) {
        throw std::invalid_argument("parameters and moments differ in size");
      }
    }
    for (const json& slice : Array(from.at("slices"))) {
      part.slices.push_back(DecodeSlice(slice, part.contents[0].bytes));
    }
    return part;
  });
}

std::string EncodeIndex(const Index& index) {
  json parts = json::array();
  for (const Digest& digest : index.parts) parts.push_back(ToHex(digest));
  const json out = {{"format", kFormat},
                    {"step", index.step},
                    {"identity", index.identity},
                    {"tensors", index.tensors},
                    {"parts", std::move(parts)}};
  return out.dump(1) + "\n";
}

Result<Index> DecodeIndex(std::string_view text, std::string_view name) {
  return Decoded<Index>(text, name, [](const json& from) {
    Index index;
    index.step = Count(from.at("step"));
    index.identity = from.at("identity").get<train::Identity>();
    for (const auto& [tensor, shape] : from.at("tensors").get<std::map<std::string, json>>()) {
      tensor::Shape& sizes = index.tensors[tensor];
      for (const json& size : Array(shape)) sizes.push_back(Count(size));
    }
    index.parts = Digests(from.at("parts"));
    if (index.parts.empty() || index.parts.size() > kMaxCheckpointParts) {
      throw std::invalid_argument("the number of its parts");
    }
    return index;
  });
}

}  // namespace tidegate::pretrain
