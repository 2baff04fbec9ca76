#include "tensor/gguf.h"

#include <algorithm>
#include <bit>

#include "tensor/limits.h"

namespace tidegate::tensor {
namespace {

// Value types of the format.
enum : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// Bytes of a scalar value, 0 for strings, arrays and unknown types.
uint64_t ScalarBytes(uint32_t type) {
  switch (type) {
    case kU8:
    case kI8:
    case kBool:
      return 1;
    case kU16:
    case kI16:
      return 2;
    case kU32:
    case kI32:
    case kF32:
      return 4;
    case kU64:
    case kI64:
    case kF64:
      return 8;
    default:
      return 0;
  }
}

// A signed integer of `size` bytes, little-endian.
int64_t LoadSigned(const uint8_t* p, uint64_t size) {
  uint64_t value = 0;
  for (uint64_t i = 0; i < size; ++i) value |= static_cast<uint64_t>(p[i]) << (8 * i);
  const int unused = static_cast<int>(64 - 8 * size);
  return static_cast<int64_t>(value << unused) >> unused;
}

uint64_t LoadUnsigned(const uint8_t* p, uint64_t size) {
  uint64_t value = 0;
  for (uint64_t i = 0; i < size; ++i) value |= static_cast<uint64_t>(p[i]) << (8 * i);
  return value;
}

bool IsSigned(uint32_t type) { return type == kI8 || type == kI16 || type == kI32 || type == kI64; }

}  // namespace

// A cursor over the mapped bytes; every read is checked against what is left.
class GgufReader {
 public:
  GgufReader(ByteSpan bytes, std::string_view name) : bytes_(bytes), name_(name) {}

  Result<GgufFile> Read() {
    GgufFile file;
    file.file_name_ = name_;
    uint64_t num_tensors = 0, num_values = 0;
    TG_RETURN_IF_ERROR(ReadPreamble(&num_tensors, &num_values));
    for (uint64_t i = 0; i < num_values; ++i) TG_RETURN_IF_ERROR(ReadKeyValue(file));
    uint64_t alignment = 32;
    if (file.Has("general.alignment")) {
      TG_ASSIGN_OR_RETURN(alignment, file.GetUnsigned("general.alignment"));
    }
    if (!std::has_single_bit(alignment) || alignment > kMaxGgufAlignment) {
      return DataLoss("{}: general.alignment is {}; it must be a power of two up to {}", name_,
                      alignment, kMaxGgufAlignment);
    }
    std::vector<uint64_t> offsets;
    for (uint64_t i = 0; i < num_tensors; ++i) TG_RETURN_IF_ERROR(ReadInfo(file, offsets));
    TG_RETURN_IF_ERROR(PlaceTensors(file, offsets, alignment));
    return file;
  }

 private:
  uint64_t left() const { return bytes_.size() - at_; }

  Result<ByteSpan> Take(uint64_t size, std::string_view what) {
    if (size > left()) {
      return DataLoss("{}: {} needs {} bytes at {} but {} are left; the file is cut", name_, what,
                      size, at_, left());
    }
    const ByteSpan piece = bytes_.subspan(at_, size);
    at_ += size;
    return piece;
  }
  Result<uint32_t> TakeU32(std::string_view what) {
    TG_ASSIGN_OR_RETURN(const ByteSpan piece, Take(4, what));
    return LoadLe32(piece.data());
  }
  Result<uint64_t> TakeU64(std::string_view what) {
    TG_ASSIGN_OR_RETURN(const ByteSpan piece, Take(8, what));
    return LoadLe64(piece.data());
  }
  Result<std::string_view> TakeString(std::string_view what, uint64_t limit) {
    TG_ASSIGN_OR_RETURN(const uint64_t size, TakeU64(what));
    if (size > limit) {
      return DataLoss("{}: {} has {} bytes, the limit is {}", name_, what, size, limit);
    }
    TG_ASSIGN_OR_RETURN(const ByteSpan piece, Take(size, what));
    return AsText(piece);
  }

  Status ReadPreamble(uint64_t* num_tensors, uint64_t* num_values) {
    TG_ASSIGN_OR_RETURN(const uint32_t magic, TakeU32("the magic"));
    if (magic != 0x46554747u) return DataLoss("{} is not a GGUF file", name_);
    TG_ASSIGN_OR_RETURN(const uint32_t version, TakeU32("the version"));
    if (version != 2 && version != 3) {
      return Unsupported("{} is GGUF version {}; versions 2 and 3, little-endian, can be read",
                         name_, version);
    }
    TG_ASSIGN_OR_RETURN(*num_tensors, TakeU64("the tensor count"));
    TG_ASSIGN_OR_RETURN(*num_values, TakeU64("the key count"));
    if (*num_tensors > kMaxTensors || *num_values > kMaxGgufKeys) {
      return DataLoss("{} claims {} tensors and {} keys, the limits are {} and {}", name_,
                      *num_tensors, *num_values, kMaxTensors, kMaxGgufKeys);
    }
    return OkStatus();
  }

  Status ReadKeyValue(GgufFile& file) {
    TG_ASSIGN_OR_RETURN(const std::string_view key, TakeString("a key", kMaxGgufKeyBytes));
    TG_ASSIGN_OR_RETURN(const uint32_t type, TakeU32(key));
    TG_ASSIGN_OR_RETURN(GgufFile::Value value, ReadValue(type, key));
    if (!file.values_.emplace(std::string(key), value).second) {
      return DataLoss("{}: the key \"{}\" appears twice", name_, key);
    }
    return OkStatus();
  }

  Result<GgufFile::Value> ReadValue(uint32_t type, std::string_view key) {
    if (type == kString) {
      TG_ASSIGN_OR_RETURN(const std::string_view text, TakeString(key, kMaxGgufStringBytes));
      return GgufFile::Value(text);
    }
    if (type == kArray) return ReadArray(key);
    const uint64_t size = ScalarBytes(type);
    if (size == 0) return DataLoss("{}: \"{}\" has the unknown value type {}", name_, key, type);
    TG_ASSIGN_OR_RETURN(const ByteSpan piece, Take(size, key));
    const uint8_t* p = piece.data();
    if (type == kBool) {
      if (p[0] > 1) return DataLoss("{}: \"{}\" is a bool of value {}", name_, key, p[0]);
      return GgufFile::Value(p[0] == 1);
    }
    if (type == kF32) return GgufFile::Value(double{std::bit_cast<float>(LoadLe32(p))});
    if (type == kF64) return GgufFile::Value(std::bit_cast<double>(LoadLe64(p)));
    if (IsSigned(type)) return GgufFile::Value(LoadSigned(p, size));
    return GgufFile::Value(LoadUnsigned(p, size));
  }

  Result<GgufFile::Value> ReadArray(std::string_view key) {
    GgufFile::Array array;
    TG_ASSIGN_OR_RETURN(array.type, TakeU32(key));
    TG_ASSIGN_OR_RETURN(array.count, TakeU64(key));
    if (array.count > kMaxGgufArrayItems) {
      return DataLoss("{}: \"{}\" has {} items, the limit is {}", name_, key, array.count,
                      kMaxGgufArrayItems);
    }
    if (array.type == kString) {
      const uint64_t begin = at_;
      for (uint64_t i = 0; i < array.count; ++i) {
        TG_ASSIGN_OR_RETURN(const std::string_view item, TakeString(key, kMaxGgufStringBytes));
        (void)item;
      }
      array.bytes = bytes_.subspan(begin, at_ - begin);
      return GgufFile::Value(array);
    }
    const uint64_t size = ScalarBytes(array.type);
    if (size == 0) {
      return Unsupported("{}: \"{}\" is an array of type {}; arrays of arrays are not read", name_,
                         key, array.type);
    }
    TG_ASSIGN_OR_RETURN(array.bytes, Take(array.count * size, key));
    return GgufFile::Value(array);
  }

  Status ReadInfo(GgufFile& file, std::vector<uint64_t>& offsets) {
    GgufTensor tensor;
    TG_ASSIGN_OR_RETURN(const std::string_view name, TakeString("a tensor name", 64));
    tensor.name = name;
    TG_ASSIGN_OR_RETURN(const uint32_t rank, TakeU32(name));
    if (rank == 0 || rank > kMaxGgufRank) {
      return DataLoss("{}: tensor \"{}\" has rank {}, allowed are 1 to {}", name_, name, rank,
                      kMaxGgufRank);
    }
    for (uint32_t i = 0; i < rank; ++i) {
      TG_ASSIGN_OR_RETURN(const uint64_t dim, TakeU64(name));
      if (dim == 0 || dim > (1ull << 40)) {
        return DataLoss("{}: tensor \"{}\" has a dimension of {}, allowed are 1 to 2^40", name_,
                        name, dim);
      }
      tensor.shape.push_back(static_cast<int64_t>(dim));
    }
    std::reverse(tensor.shape.begin(), tensor.shape.end());
    TG_ASSIGN_OR_RETURN(const uint32_t type, TakeU32(name));
    if (FindGgmlType(type) == nullptr) {
      return Unsupported(
          "{}: tensor \"{}\" has ggml type {}; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K and Q6_K can "
          "be read",
          name_, name, type);
    }
    tensor.type = static_cast<GgmlType>(type);
    TG_ASSIGN_OR_RETURN(const uint64_t offset, TakeU64(name));
    offsets.push_back(offset);
    file.tensors_.push_back(std::move(tensor));
    return OkStatus();
  }

  Status PlaceTensors(GgufFile& file, const std::vector<uint64_t>& offsets, uint64_t alignment) {
    const uint64_t start = (at_ + alignment - 1) / alignment * alignment;
    const uint64_t data_bytes = start > bytes_.size() ? 0 : bytes_.size() - start;
    uint64_t least = 0;
    for (size_t i = 0; i < offsets.size(); ++i) {
      GgufTensor& tensor = file.tensors_[i];
      const GgmlTypeInfo& info = *FindGgmlType(static_cast<uint32_t>(tensor.type));
      uint64_t elements = 1;
      for (const int64_t dim : tensor.shape) {
        if (__builtin_mul_overflow(elements, static_cast<uint64_t>(dim), &elements)) {
          return DataLoss("{}: tensor \"{}\" has the impossible shape {}", name_, tensor.name,
                          ShapeText(tensor.shape));
        }
      }
      if (tensor.shape.back() % info.block_elements != 0) {
        return DataLoss("{}: tensor \"{}\" has rows of {}, {} needs multiples of {}", name_,
                        tensor.name, tensor.shape.back(), info.name, info.block_elements);
      }
      uint64_t size = 0;
      if (__builtin_mul_overflow(elements / info.block_elements, info.block_bytes, &size) ||
          offsets[i] > data_bytes || size > data_bytes - offsets[i]) {
        return DataLoss("{}: tensor \"{}\" reaches beyond the end; the file is cut", name_,
                        tensor.name);
      }
      // Writers lay tensors down in the order of their infos, so an overlap is damage.
      if (offsets[i] % alignment != 0 || offsets[i] < least) {
        return DataLoss("{}: tensor \"{}\" is at the impossible offset {}", name_, tensor.name,
                        offsets[i]);
      }
      least = offsets[i] + size;
      tensor.bytes = bytes_.subspan(start + offsets[i], size);
    }
    return SortByName(file);
  }

  Status SortByName(GgufFile& file) {
    auto& tensors = file.tensors_;
    std::sort(tensors.begin(), tensors.end(),
              [](const GgufTensor& a, const GgufTensor& b) { return a.name < b.name; });
    for (size_t i = 1; i < tensors.size(); ++i) {
      if (tensors[i].name == tensors[i - 1].name) {
        return DataLoss("{}: the tensor \"{}\" appears twice", name_, tensors[i].name);
      }
    }
    return OkStatus();
  }

  ByteSpan bytes_;
  std::string name_;
  uint64_t at_ = 0;
};

Result<GgufFile> GgufFile::Parse(ByteSpan bytes, std::string_view name) {
  return GgufReader(bytes, name).Read();
}

Result<GgufFile> GgufFile::Open(const std::filesystem::path& path) {
  TG_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  TG_ASSIGN_OR_RETURN(GgufFile file, Parse(mapped.bytes(), path.native()));
  file.mapped_.push_back(std::move(mapped));
  return file;
}

Result<const GgufFile::Value*> GgufFile::GetValue(std::string_view key) const {
  const auto it = values_.find(key);
  if (it == values_.end()) return NotFound("{} has no key \"{}\"", file_name_, key);
  return &it->second;
}

Result<uint64_t> GgufFile::GetUnsigned(std::string_view key) const {
  TG_ASSIGN_OR_RETURN(const Value* value, GetValue(key));
  if (const auto* u = std::get_if<uint64_t>(value)) return *u;
  if (const auto* i = std::get_if<int64_t>(value); i != nullptr && *i >= 0) {
    return static_cast<uint64_t>(*i);
  }
  return DataLoss("{}: \"{}\" is not a whole number from 0", file_name_, key);
}

Result<double> GgufFile::GetFloat(std::string_view key) const {
  TG_ASSIGN_OR_RETURN(const Value* value, GetValue(key));
  if (const auto* d = std::get_if<double>(value)) return *d;
  return DataLoss("{}: \"{}\" is not a float", file_name_, key);
}

Result<bool> GgufFile::GetBool(std::string_view key) const {
  TG_ASSIGN_OR_RETURN(const Value* value, GetValue(key));
  if (const auto* b = std::get_if<bool>(value)) return *b;
  return DataLoss("{}: \"{}\" is not a bool", file_name_, key);
}

Result<std::string_view> GgufFile::GetString(std::string_view key) const {
  TG_ASSIGN_OR_RETURN(const Value* value, GetValue(key));
  if (const auto* s = std::get_if<std::string_view>(value)) return *s;
  return DataLoss("{}: \"{}\" is not a string", file_name_, key);
}

Result<std::vector<std::string_view>> GgufFile::GetStrings(std::string_view key) const {
  TG_ASSIGN_OR_RETURN(const Value* value, GetValue(key));
  const auto* array = std::get_if<Array>(value);
  if (array == nullptr || array->type != kString) {
    return DataLoss("{}: \"{}\" is not an array of strings", file_name_, key);
  }
  std::vector<std::string_view> out;
  out.reserve(array->count);
  uint64_t at = 0;
  for (uint64_t i = 0; i < array->count; ++i) {
    const uint64_t size = LoadLe64(array->bytes.data() + at);
    out.push_back(AsText(array->bytes.subspan(at + 8, size)));
    at += 8 + size;
  }
  return out;
}

Result<std::vector<int64_t>> GgufFile::GetIntegers(std::string_view key) const {
  TG_ASSIGN_OR_RETURN(const Value* value, GetValue(key));
  const auto* array = std::get_if<Array>(value);
  const bool integers = array != nullptr && ScalarBytes(array->type) != 0 && array->type != kF32 &&
                        array->type != kF64 && array->type != kBool && array->type != kU64;
  if (!integers) return DataLoss("{}: \"{}\" is not an array of integers", file_name_, key);
  const uint64_t size = ScalarBytes(array->type);
  std::vector<int64_t> out(array->count);
  for (uint64_t i = 0; i < array->count; ++i) {
    const uint8_t* p = array->bytes.data() + i * size;
    out[i] =
        IsSigned(array->type) ? LoadSigned(p, size) : static_cast<int64_t>(LoadUnsigned(p, size));
  }
  return out;
}

const GgufTensor* GgufFile::Find(std::string_view name) const {
  const auto it = std::lower_bound(
      tensors_.begin(), tensors_.end(), name,
      [](const GgufTensor& tensor, std::string_view wanted) { return tensor.name < wanted; });
  return it != tensors_.end() && it->name == name ? &*it : nullptr;
}

Result<const GgufTensor*> GgufFile::Get(std::string_view name) const {
  const GgufTensor* tensor = Find(name);
  if (tensor == nullptr) return NotFound("{} has no tensor \"{}\"", file_name_, name);
  return tensor;
}

}  // namespace tidegate::tensor
