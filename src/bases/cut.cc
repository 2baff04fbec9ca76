// Apart from the rest of index.h: a gate, which cuts nothing, has no parser of safetensors.
#include <algorithm>
#include <tuple>

#include "base/file.h"
#include "bases/files.h"
#include "bases/index.h"
#include "blocks/content.h"
#include "tensor/safetensors.h"

namespace tidegate::bases {
namespace {

using protocols::BaseIndex;
using protocols::BaseTensor;
using protocols::kBlockBytes;

// In the order in which they lie in the file.
Result<std::vector<BaseTensor>> TensorsOf(ByteSpan file, uint32_t number, const std::string& name) {
  TG_ASSIGN_OR_RETURN(const auto parsed, tensor::SafetensorsFile::Parse(file, name));
  std::vector<BaseTensor> tensors;
  for (const tensor::TensorView& view : parsed.tensors()) {
    if (view.name.size() > protocols::kMaxTensorName ||
        view.shape.size() > protocols::kMaxDimensions) {
      return ResourceExhausted("tensor {} of {}: a name has at most {} characters, a shape {}",
                               view.name, name, protocols::kMaxTensorName,
                               protocols::kMaxDimensions);
    }
    BaseTensor tensor;
    tensor.name = view.name;
    tensor.dtype = tensor::DTypeName(view.dtype);
    for (const int64_t size : view.shape) {
      tensor.shape.items.push_back(static_cast<uint64_t>(size));
    }
    tensor.file = number;
    tensor.offset = static_cast<uint64_t>(view.bytes.data() - file.data());
    tensor.bytes = view.bytes.size();
    tensors.push_back(std::move(tensor));
  }
  std::sort(tensors.begin(), tensors.end(), [](const BaseTensor& a, const BaseTensor& b) {
    return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
  });
  return tensors;
}

// Cuts [from, to) of a file.
Status CutRange(ByteSpan file, uint64_t from, uint64_t to, BaseIndex* index,
                const BlockSink& sink) {
  while (from < to) {
    if (index->blocks.size() >= protocols::kMaxBaseBlocks) {
      return ResourceExhausted("a base has at most {} blocks of {} bytes",
                               protocols::kMaxBaseBlocks, kBlockBytes);
    }
    const ByteSpan block = file.subspan(from, std::min<uint64_t>(kBlockBytes, to - from));
    const Digest id = blocks::BlockId(block);
    index->blocks.items.push_back({id, static_cast<uint32_t>(block.size())});
    TG_RETURN_IF_ERROR(sink(id, block));
    from += block.size();
  }
  return OkStatus();
}

}  // namespace

Result<BaseIndex> CutBase(const std::filesystem::path& dir, const BlockSink& sink) {
  BaseIndex index;
  TG_ASSIGN_OR_RETURN(index.files.items, FilesOf(dir));
  for (uint32_t number = 0; number < index.files.size(); ++number) {
    const std::string& name = index.files.items[number].name.text;
    TG_ASSIGN_OR_RETURN(const MappedFile mapped, MappedFile::Open(dir / name));
    const ByteSpan file = mapped.bytes();
    index.files.items[number].bytes = file.size();
    std::vector<BaseTensor> tensors;
    if (name.ends_with(".safetensors")) {
      TG_ASSIGN_OR_RETURN(tensors, TensorsOf(file, number, (dir / name).native()));
    }
    uint64_t from = 0;
    for (const BaseTensor& tensor : tensors) {
      if (tensor.bytes < kBlockBytes) continue;
      TG_RETURN_IF_ERROR(CutRange(file, from, tensor.offset, &index, sink));
      from = tensor.offset;
    }
    TG_RETURN_IF_ERROR(CutRange(file, from, file.size(), &index, sink));
    auto& all = index.tensors.items;
    all.insert(all.end(), tensors.begin(), tensors.end());
    if (all.size() > protocols::kMaxBaseTensors) {
      return ResourceExhausted("{} has more than {} tensors", dir.native(),
                               protocols::kMaxBaseTensors);
    }
  }
  return index;
}

}  // namespace tidegate::bases
