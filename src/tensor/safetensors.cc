#include "tensor/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>

#include <fmt/format.h>

#include "base/json.h"
#include "tensor/limits.h"

namespace tidegate::tensor {
namespace {

using nlohmann::json;

constexpr std::string_view kIndexName = "model.safetensors.index.json";

// Bytes of a tensor of this shape; nothing on overflow.
std::optional<uint64_t> CheckedBytes(const Shape& shape, DType dtype) {
  uint64_t bytes = DTypeSize(dtype);
  for (const int64_t dim : shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(dim), &bytes)) return std::nullopt;
  }
  return bytes;
}

struct Entry {
  TensorView view;
  uint64_t begin = 0;
  uint64_t end = 0;
};

Result<uint64_t> Unsigned(const json& value, std::string_view what, std::string_view file) {
  if (!value.is_number_unsigned() ||
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return DataLoss("{}: {} must be a whole number of at most 2^63-1; the file is damaged", file,
                    what);
  }
  return value.get<uint64_t>();
}

Result<Entry> ParseEntry(const std::string& name, const json& value, std::string_view file) {
  if (name.empty() || name.size() > kMaxTensorNameBytes) {
    return DataLoss("{}: a tensor name has {} bytes, allowed are 1 to {}", file, name.size(),
                    kMaxTensorNameBytes);
  }
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets")) {
    return DataLoss("{}: tensor \"{}\" needs dtype, shape and data_offsets and nothing else", file,
                    name);
  }
  const json& dtype_name = value["dtype"];
  const json& shape = value["shape"];
  const json& offsets = value["data_offsets"];
  if (!dtype_name.is_string() || !shape.is_array() || !offsets.is_array() || offsets.size() != 2) {
    return DataLoss("{}: tensor \"{}\" has a dtype, shape or data_offsets of the wrong type", file,
                    name);
  }
  const auto dtype = DTypeFromName(dtype_name.get_ref<const std::string&>());
  if (!dtype) {
    return Unsupported("{}: tensor \"{}\" has dtype {}, which is not supported; convert it to F32",
                       file, name, dtype_name.get_ref<const std::string&>());
  }
  if (shape.size() > kMaxRank) {
    return DataLoss("{}: tensor \"{}\" has rank {}, the limit is {}", file, name, shape.size(),
                    kMaxRank);
  }
  Entry entry;
  entry.view.name = name;
  entry.view.dtype = *dtype;
  for (const json& dim : shape) {
    TG_ASSIGN_OR_RETURN(const uint64_t size, Unsigned(dim, "a dimension of " + name, file));
    entry.view.shape.push_back(static_cast<int64_t>(size));
  }
  TG_ASSIGN_OR_RETURN(entry.begin, Unsigned(offsets[0], "an offset of " + name, file));
  TG_ASSIGN_OR_RETURN(entry.end, Unsigned(offsets[1], "an offset of " + name, file));
  const auto bytes = CheckedBytes(entry.view.shape, *dtype);
  if (!bytes || entry.end < entry.begin || entry.end - entry.begin != *bytes) {
    return DataLoss("{}: tensor \"{}\" of shape {} and dtype {} does not fill its offsets {}..{}",
                    file, name, ShapeText(entry.view.shape), DTypeName(*dtype), entry.begin,
                    entry.end);
  }
  return entry;
}

Result<Metadata> ParseMetadata(const json& value, std::string_view file) {
  if (!value.is_object()) return DataLoss("{}: __metadata__ is not an object", file);
  Metadata metadata;
  for (const auto& [key, item] : value.items()) {
    if (!item.is_string()) {
      return DataLoss("{}: __metadata__ \"{}\" is not a string", file, key);
    }
    metadata.emplace(key, item.get<std::string>());
  }
  return metadata;
}

// Tensors must tile [0, data_bytes) without holes or overlap.
Status CheckTiling(std::vector<Entry>& entries, uint64_t data_bytes, std::string_view file) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.view.name) < std::tie(b.begin, b.end, b.view.name);
  });
  uint64_t at = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != at) {
      return DataLoss("{}: tensor \"{}\" begins at {}, the one before it ended at {}", file,
                      entry.view.name, entry.begin, at);
    }
    at = entry.end;
  }
  if (at != data_bytes) {
    return DataLoss(
        "{}: the tensors have {} bytes, the file holds {} for them; it is cut or damaged", file, at,
        data_bytes);
  }
  return OkStatus();
}

Result<json> ParseHeader(ByteSpan bytes, std::string_view file, uint64_t* header_end) {
  if (bytes.size() < 8) {
    return DataLoss("{} has {} bytes; a safetensors file has at least 8", file, bytes.size());
  }
  const uint64_t header = LoadLe64(bytes.data());
  if (header > kMaxSafetensorsHeaderBytes) {
    return DataLoss("{}: the header has {} bytes, the limit is {}; this is not a safetensors file",
                    file, header, kMaxSafetensorsHeaderBytes);
  }
  if (header > bytes.size() - 8) {
    return DataLoss("{}: the header has {} bytes but only {} follow; the file is cut", file, header,
                    bytes.size() - 8);
  }
  const std::string_view text = AsText(bytes.subspan(8, header));
  if (text.empty() || text[0] != '{') return DataLoss("{}: the header is not a JSON object", file);
  *header_end = 8 + header;
  auto parsed = ParseStrictJson(text, {.max_bytes = kMaxSafetensorsHeaderBytes, .max_depth = 8},
                                std::string(file) + " (header)");
  if (!parsed) return DataLoss("{}", parsed.error().message());
  return parsed;
}

}  // namespace

std::string ShapeText(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Status ReadFloats(const TensorView& view, std::span<float> out) {
  if (view.dtype != DType::kF32 && view.dtype != DType::kF16 && view.dtype != DType::kBF16) {
    return Unsupported("tensor \"{}\" is {}; F32, F16 and BF16 can be used as weights", view.name,
                       DTypeName(view.dtype));
  }
  if (static_cast<int64_t>(out.size()) != view.num_elements()) {
    return Internal("tensor \"{}\" has {} elements, room is for {}", view.name, view.num_elements(),
                    out.size());
  }
  ToFloats(view.dtype, view.bytes.data(), out);
  return OkStatus();
}

Result<SafetensorsFile> SafetensorsFile::Parse(ByteSpan bytes, std::string_view name) {
  uint64_t header_end = 0;
  TG_ASSIGN_OR_RETURN(const json header, ParseHeader(bytes, name, &header_end));
  if (header.size() > kMaxTensors) {
    return ResourceExhausted("{} has {} tensors, the limit is {}", name, header.size(),
                             kMaxTensors);
  }
  SafetensorsFile file;
  file.file_name_ = name;
  std::vector<Entry> entries;
  for (const auto& [key, value] : header.items()) {
    if (key == "__metadata__") {
      TG_ASSIGN_OR_RETURN(file.metadata_, ParseMetadata(value, name));
      continue;
    }
    TG_ASSIGN_OR_RETURN(Entry entry, ParseEntry(key, value, name));
    entries.push_back(std::move(entry));
  }
  const ByteSpan data = bytes.subspan(header_end);
  TG_RETURN_IF_ERROR(CheckTiling(entries, data.size(), name));
  file.tensors_.reserve(entries.size());
  for (Entry& entry : entries) {
    entry.view.bytes = data.subspan(entry.begin, entry.end - entry.begin);
    file.tensors_.push_back(std::move(entry.view));
  }
  std::sort(file.tensors_.begin(), file.tensors_.end(),
            [](const TensorView& a, const TensorView& b) { return a.name < b.name; });
  return file;
}

Result<SafetensorsFile> SafetensorsFile::Open(const std::filesystem::path& path) {
  TG_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  TG_ASSIGN_OR_RETURN(SafetensorsFile file, Parse(mapped.bytes(), path.native()));
  file.mapped_.push_back(std::move(mapped));
  return file;
}

const TensorView* SafetensorsFile::Find(std::string_view name) const {
  const auto it = std::lower_bound(
      tensors_.begin(), tensors_.end(), name,
      [](const TensorView& view, std::string_view wanted) { return view.name < wanted; });
  return it != tensors_.end() && it->name == name ? &*it : nullptr;
}

Result<const TensorView*> SafetensorsFile::Get(std::string_view name) const {
  const TensorView* view = Find(name);
  if (view == nullptr) return NotFound("{} has no tensor \"{}\"", file_name_, name);
  return view;
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> out;
  out.reserve(tensors_.size());
  for (const TensorView& view : tensors_) out.push_back(view.name);
  return out;
}

namespace {

// Shard file name -> the tensors the index says it holds.
Result<std::map<std::string, std::vector<std::string>>> ParseIndex(std::string_view text,
                                                                   std::string_view file) {
  TG_ASSIGN_OR_RETURN(
      const json index,
      ParseStrictJson(text, {.max_bytes = kMaxSafetensorsIndexBytes, .max_depth = 8}, file));
  const auto weights = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || weights == index.end() || !weights->is_object()) {
    return DataLoss("{} has no weight_map object", file);
  }
  if (weights->size() > kMaxTensors) {
    return ResourceExhausted("{} maps {} tensors, the limit is {}", file, weights->size(),
                             kMaxTensors);
  }
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [tensor, shard] : weights->items()) {
    if (!shard.is_string())
      return DataLoss("{}: \"{}\" is not mapped to a file name", file, tensor);
    const std::string& name = shard.get_ref<const std::string&>();
    const bool plain = !name.empty() && name[0] != '.' && name.find('/') == std::string::npos &&
                       name.find('\0') == std::string::npos && name.ends_with(".safetensors");
    if (!plain) {
      return PermissionDenied(
          "{}: \"{}\" is mapped to \"{}\"; a shard must be a .safetensors file of the same folder",
          file, tensor, name);
    }
    shards[name].push_back(tensor);
  }
  if (shards.size() > kMaxShards) {
    return ResourceExhausted("{} names {} shards, the limit is {}", file, shards.size(),
                             kMaxShards);
  }
  return shards;
}

}  // namespace

Result<SafetensorsFolder> SafetensorsFolder::Open(const std::filesystem::path& folder) {
  SafetensorsFolder out;
  out.folder_ = folder.native();
  std::error_code ignored;
  const auto index_path = folder / kIndexName;
  if (!std::filesystem::exists(index_path, ignored)) {
    const auto single = folder / "model.safetensors";
    if (!std::filesystem::exists(single, ignored)) {
      return NotFound("{} has neither model.safetensors nor {}; give the folder of a model",
                      folder.native(), kIndexName);
    }
    TG_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(single));
    for (const TensorView& view : file.tensors()) out.file_of_.emplace(view.name, 0);
    out.files_.push_back(std::move(file));
    return out;
  }
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(index_path, kMaxSafetensorsIndexBytes));
  TG_ASSIGN_OR_RETURN(const auto shards, ParseIndex(text, index_path.native()));
  for (const auto& [name, tensors] : shards) {
    TG_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(folder / name));
    for (const std::string& tensor : tensors) {
      if (file.Find(tensor) == nullptr) {
        return DataLoss("{} maps \"{}\" to {}, which does not hold it", index_path.native(), tensor,
                        name);
      }
    }
    for (const TensorView& view : file.tensors()) {
      if (!out.file_of_.emplace(view.name, out.files_.size()).second) {
        return DataLoss("{}: tensor \"{}\" is in two shards", folder.native(), view.name);
      }
    }
    out.files_.push_back(std::move(file));
  }
  return out;
}

const TensorView* SafetensorsFolder::Find(std::string_view name) const {
  const auto it = file_of_.find(name);
  return it == file_of_.end() ? nullptr : files_[it->second].Find(name);
}

Result<const TensorView*> SafetensorsFolder::Get(std::string_view name) const {
  const TensorView* view = Find(name);
  if (view == nullptr) return NotFound("the model in {} has no tensor \"{}\"", folder_, name);
  return view;
}

std::vector<std::string> SafetensorsFolder::names() const {
  std::vector<std::string> out;
  out.reserve(file_of_.size());
  for (const auto& [name, file] : file_of_) out.push_back(name);
  return out;
}

}  // namespace tidegate::tensor
