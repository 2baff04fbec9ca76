// GGUF version 2 and 3 model files (ggml docs/gguf.md), little-endian: key-values, tensor infos,
// tensors. The file is mapped; every size and count is checked against the file and
// tensor/limits.h before anything is allocated for it. Errors: kDataLoss for a damaged file,
// kUnsupported for a version or tensor type we do not read, kNotFound for a missing key.
//
// Thread-safety: const use from any number of threads.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/file.h"
#include "tensor/safetensors.h"

namespace tidegate::tensor {

// ggml's numbers. Only these can be read.
enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ6_K = 14,
  kBF16 = 30,
};

struct GgmlTypeInfo {
  std::string_view name;
  uint32_t block_elements;
  uint32_t block_bytes;
};
// nullptr for a type that cannot be read.
const GgmlTypeInfo* FindGgmlType(uint32_t type);

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  Shape shape;  // slowest dimension first, as in safetensors
  ByteSpan bytes;

  int64_t num_elements() const;
};

// Decodes elements [begin, begin + out.size()) to float32. Both must be multiples of the type's
// block and within the tensor (kInvalidArgument otherwise).
Status Dequantize(const GgufTensor& tensor, int64_t begin, std::span<float> out);

class GgufFile {
 public:
  static Result<GgufFile> Open(const std::filesystem::path& path);
  static Result<GgufFile> Parse(ByteSpan bytes, std::string_view name);

  bool Has(std::string_view key) const { return values_.find(key) != values_.end(); }
  // kNotFound without the key, kDataLoss if its value is of another type. Integers of any width
  // are GetUnsigned if not negative; GetFloat takes both float widths.
  Result<uint64_t> GetUnsigned(std::string_view key) const;
  Result<double> GetFloat(std::string_view key) const;
  Result<bool> GetBool(std::string_view key) const;
  Result<std::string_view> GetString(std::string_view key) const;
  Result<std::vector<std::string_view>> GetStrings(std::string_view key) const;
  Result<std::vector<int64_t>> GetIntegers(std::string_view key) const;

  const GgufTensor* Find(std::string_view name) const;
  Result<const GgufTensor*> Get(std::string_view name) const;
  // Sorted by name.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }

 private:
  friend class GgufReader;
  // An array whose items were checked to lie in the file; they are decoded when asked for.
  struct Array {
    uint32_t type = 0;
    uint64_t count = 0;
    ByteSpan bytes;
  };
  using Value = std::variant<uint64_t, int64_t, double, bool, std::string_view, Array>;

  GgufFile() = default;
  Result<const Value*> GetValue(std::string_view key) const;

  std::vector<MappedFile> mapped_;  // none or one
  std::string file_name_;
  std::map<std::string, Value, std::less<>> values_;
  std::vector<GgufTensor> tensors_;
};

}  // namespace tidegate::tensor
