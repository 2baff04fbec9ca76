#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "base/json.h"
#include "tensor/limits.h"
#include "tensor/safetensors.h"

namespace tidegate::tensor {
namespace {

uint64_t SpecBytes(const TensorSpec& spec) {
  uint64_t bytes = DTypeSize(spec.dtype);
  for (const int64_t dim : spec.shape) bytes *= static_cast<uint64_t>(dim);
  return bytes;
}

Status CheckSpec(const TensorSpec& spec) {
  if (spec.name.empty() || spec.name.size() > kMaxTensorNameBytes || spec.name == "__metadata__") {
    return InvalidArgument("\"{}\" cannot be the name of a tensor (1 to {} bytes)", spec.name,
                           kMaxTensorNameBytes);
  }
  if (spec.shape.size() > kMaxRank) {
    return InvalidArgument("tensor \"{}\" has rank {}, the limit is {}", spec.name,
                           spec.shape.size(), kMaxRank);
  }
  uint64_t bytes = DTypeSize(spec.dtype);
  for (const int64_t dim : spec.shape) {
    if (dim < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(dim), &bytes) ||
        bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return InvalidArgument("tensor \"{}\" has the impossible shape {}", spec.name,
                             ShapeText(spec.shape));
    }
  }
  return OkStatus();
}

template <typename T>
void SortForLayout(std::vector<T>& tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const T& a, const T& b) {
    const size_t align_a = DTypeSize(a.dtype), align_b = DTypeSize(b.dtype);
    return align_a != align_b ? align_a > align_b : a.name < b.name;
  });
}

std::string Quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// The length field and the padded header of sorted specs.
Result<std::string> BuildHeader(const std::vector<TensorSpec>& specs, const Metadata& metadata) {
  std::string text = "{";
  if (!metadata.empty()) {
    text += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      if (text.back() != '{') text += ',';
      text += Quoted(key) + ":" + Quoted(value);
    }
    text += '}';
  }
  uint64_t at = 0;
  for (size_t i = 0; i < specs.size(); ++i) {
    const TensorSpec& spec = specs[i];
    TG_RETURN_IF_ERROR(CheckSpec(spec));
    uint64_t end = 0;
    if (__builtin_add_overflow(at, SpecBytes(spec), &end)) {
      return InvalidArgument("the tensors are larger than a file can be");
    }
    if (text.size() > 1) text += ',';
    text +=
        fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                    Quoted(spec.name), DTypeName(spec.dtype), fmt::join(spec.shape, ","), at, end);
    at = end;
  }
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');
  if (text.size() > kMaxSafetensorsHeaderBytes) {
    return ResourceExhausted("the safetensors header would have {} bytes, the limit is {}",
                             text.size(), kMaxSafetensorsHeaderBytes);
  }
  std::string out(8, '\0');
  StoreLe64(reinterpret_cast<uint8_t*>(out.data()), text.size());
  return out + text;
}

// Names differ even between dtypes, which sorting by alignment would not put side by side.
Status CheckDistinct(const std::vector<TensorSpec>& specs) {
  std::vector<std::string_view> names;
  for (const TensorSpec& spec : specs) names.push_back(spec.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) return InvalidArgument("the tensor \"{}\" is given twice", *twice);
  return OkStatus();
}

}  // namespace

Result<SafetensorsWriter> SafetensorsWriter::Create(const std::filesystem::path& path,
                                                    std::vector<TensorSpec> specs,
                                                    const Metadata& metadata) {
  TG_RETURN_IF_ERROR(CheckDistinct(specs));
  SortForLayout(specs);
  TG_ASSIGN_OR_RETURN(const std::string header, BuildHeader(specs, metadata));
  SafetensorsWriter writer;
  writer.path_ = path;
  writer.temporary_ = path;
  writer.temporary_ += ".tmp";
  ::unlink(writer.temporary_.c_str());
  writer.fd_ = Fd(::open(writer.temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!writer.fd_.valid()) {
    return Unexpected(ErrnoStatus("create", writer.temporary_.native(), errno));
  }
  writer.specs_ = std::move(specs);
  TG_RETURN_IF_ERROR(WriteAll(writer.fd_.get(), AsBytes(header), writer.temporary_.native()));
  writer.SkipComplete();
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_.valid()) ::unlink(temporary_.c_str());
}

void SafetensorsWriter::SkipComplete() {
  while (current_ < specs_.size() && written_ == SpecBytes(specs_[current_])) {
    ++current_;
    written_ = 0;
  }
}

Status SafetensorsWriter::Append(std::string_view name, ByteSpan piece) {
  if (current_ >= specs_.size() || specs_[current_].name != name) {
    if (piece.empty()) return OkStatus();  // an empty tensor is complete before it is begun
    return FailedPrecondition("tensor \"{}\" appended out of order; expected \"{}\"", name,
                              current_ < specs_.size() ? specs_[current_].name : "nothing more");
  }
  if (piece.size() > SpecBytes(specs_[current_]) - written_) {
    return FailedPrecondition("tensor \"{}\" has more bytes than its shape {}", name,
                              ShapeText(specs_[current_].shape));
  }
  TG_RETURN_IF_ERROR(WriteAll(fd_.get(), piece, temporary_.native()));
  written_ += piece.size();
  SkipComplete();
  return OkStatus();
}

Status SafetensorsWriter::Finish() {
  if (!fd_.valid()) return FailedPrecondition("{} is finished already", path_.native());
  if (current_ < specs_.size()) {
    return FailedPrecondition("{}: tensor \"{}\" is not whole", path_.native(),
                              specs_[current_].name);
  }
  if (::fsync(fd_.get()) != 0) return ErrnoStatus("fsync", temporary_.native(), errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    return ErrnoStatus("rename to", path_.native(), errno);
  }
  fd_.reset();
  return SyncDirectory(path_.parent_path());
}

Result<Bytes> EncodeSafetensors(std::vector<TensorToWrite> tensors, const Metadata& metadata) {
  SortForLayout(tensors);
  std::vector<TensorSpec> specs;
  for (const TensorToWrite& tensor : tensors) {
    specs.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  TG_RETURN_IF_ERROR(CheckDistinct(specs));
  TG_ASSIGN_OR_RETURN(const std::string header, BuildHeader(specs, metadata));
  uint64_t total = header.size();
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].bytes.size() != SpecBytes(specs[i])) {
      return InvalidArgument("tensor \"{}\" of shape {} and dtype {} is given {} bytes",
                             tensors[i].name, ShapeText(tensors[i].shape),
                             DTypeName(tensors[i].dtype), tensors[i].bytes.size());
    }
    total += tensors[i].bytes.size();
  }
  Bytes out;
  out.reserve(total);
  out.insert(out.end(), header.begin(), header.end());
  for (const TensorToWrite& tensor : tensors) {
    out.insert(out.end(), tensor.bytes.begin(), tensor.bytes.end());
  }
  return out;
}

Status WriteSafetensors(const std::filesystem::path& path, std::vector<TensorToWrite> tensors,
                        const Metadata& metadata) {
  TG_ASSIGN_OR_RETURN(const Bytes bytes, EncodeSafetensors(std::move(tensors), metadata));
  return WriteFileDurably(path, bytes);
}

}  // namespace tidegate::tensor
