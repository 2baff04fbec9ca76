// The safetensors container (github.com/huggingface/safetensors): 8 bytes little-endian length N,
// N bytes of JSON, then the tensors' bytes, little-endian and row-major.
//
// Reading maps the file and checks all of it before any tensor is handed out: header size, the
// header's JSON (a duplicate key is refused), known dtypes, shape products without overflow, each
// tensor beginning where the one before ended, the last ending where the file ends. Values are not
// looked at. Errors: kDataLoss for a damaged file, kUnsupported for a dtype we do not know,
// kResourceExhausted beyond tensor/limits.h.
//
// Thread-safety: const use from any number of threads.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "tensor/dtype.h"

namespace tidegate::tensor {

using Shape = std::vector<int64_t>;
using Metadata = std::map<std::string, std::string>;

// "[2, 3]"
std::string ShapeText(const Shape& shape);

// A tensor inside a file that outlives it. `bytes` may be at any alignment.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  ByteSpan bytes;

  int64_t num_elements() const { return static_cast<int64_t>(bytes.size() / DTypeSize(dtype)); }
};

// Copies a kF32, kF16 or kBF16 tensor to float32. `out` must have num_elements() elements.
Status ReadFloats(const TensorView& view, std::span<float> out);

class SafetensorsFile {
 public:
  static Result<SafetensorsFile> Open(const std::filesystem::path& path);
  // The same for bytes in memory, which must outlive the object; `name` is for errors.
  static Result<SafetensorsFile> Parse(ByteSpan bytes, std::string_view name);

  // nullptr if there is none of this name.
  const TensorView* Find(std::string_view name) const;
  // kNotFound, naming the tensor and the file, if there is none of this name.
  Result<const TensorView*> Get(std::string_view name) const;
  // Sorted by name.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  std::vector<std::string> names() const;
  const Metadata& metadata() const { return metadata_; }
  const std::string& file_name() const { return file_name_; }

 private:
  SafetensorsFile() = default;
  std::vector<MappedFile> mapped_;  // none or one
  std::string file_name_;
  std::vector<TensorView> tensors_;
  Metadata metadata_;
};

// The weights of a model folder: model.safetensors, or the shards that
// model.safetensors.index.json lists. A shard's name may not leave the folder, every mapped tensor
// must be in its shard and no tensor may be in two.
class SafetensorsFolder {
 public:
  static Result<SafetensorsFolder> Open(const std::filesystem::path& folder);

  const TensorView* Find(std::string_view name) const;
  Result<const TensorView*> Get(std::string_view name) const;
  // Sorted.
  std::vector<std::string> names() const;

 private:
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t, std::less<>> file_of_;
  std::string folder_;
};

struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
};

struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  ByteSpan bytes;
};

// Writes a file piece by piece, so that a model larger than memory can be written: a temporary
// file beside `path`, fsync and rename in Finish. The bytes depend on names, dtypes, shapes,
// values and metadata alone: tensors are sorted by alignment (falling), then name, and the header
// is padded with spaces to 8. Destroying an unfinished writer removes the temporary file.
class SafetensorsWriter {
 public:
  static Result<SafetensorsWriter> Create(const std::filesystem::path& path,
                                          std::vector<TensorSpec> specs, const Metadata& metadata);
  SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
  SafetensorsWriter& operator=(SafetensorsWriter&&) = delete;
  ~SafetensorsWriter();

  // The order in which tensors must be appended.
  const std::vector<TensorSpec>& order() const { return specs_; }
  // Appends a piece of the tensor `name`, which must be the first unfinished one of order().
  Status Append(std::string_view name, ByteSpan piece);
  // kFailedPrecondition if a tensor is not whole.
  Status Finish();

 private:
  SafetensorsWriter() = default;
  void SkipComplete();

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  Fd fd_;
  std::vector<TensorSpec> specs_;
  size_t current_ = 0;
  uint64_t written_ = 0;  // of the current tensor
};

// The whole file in memory, and written durably.
Result<Bytes> EncodeSafetensors(std::vector<TensorToWrite> tensors, const Metadata& metadata);
Status WriteSafetensors(const std::filesystem::path& path, std::vector<TensorToWrite> tensors,
                        const Metadata& metadata);

}  // namespace tidegate::tensor
