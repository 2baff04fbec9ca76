#include "bases/index.h"

#include <algorithm>

#include "base/file.h"
#include "bases/files.h"
#include "blocks/content.h"

namespace tidegate::bases {
namespace {

using protocols::BaseIndex;
using protocols::kBlockBytes;

}  // namespace

Status CheckIndex(const BaseIndex& index, uint64_t base_bytes) {
  uint64_t left = base_bytes;
  for (size_t i = 0; i < index.files.size(); ++i) {
    const protocols::BaseFile& file = index.files.items[i];
    if (!IsBaseFileName(file.name.text)) {
      return InvalidArgument("the index names file {}, which is no file of a base", i);
    }
    if (i > 0 && !(index.files.items[i - 1].name < file.name)) {
      return InvalidArgument("the index's files are not in order");
    }
    if (file.bytes > left) return InvalidArgument("the index's files are larger than the base");
    left -= file.bytes;
  }
  if (left != 0) return InvalidArgument("the index's files are smaller than the base");
  for (const protocols::BaseTensor& tensor : index.tensors.items) {
    if (tensor.file >= index.files.size() || tensor.bytes > index.files.items[tensor.file].bytes ||
        tensor.offset > index.files.items[tensor.file].bytes - tensor.bytes) {
      return InvalidArgument("a tensor of the index is not inside its file");
    }
  }
  size_t block = 0;
  for (const protocols::BaseFile& file : index.files.items) {
    for (uint64_t at = 0; at < file.bytes; ++block) {
      if (block >= index.blocks.size()) return InvalidArgument("the index has too few blocks");
      const uint64_t bytes = index.blocks.items[block].bytes;
      if (bytes == 0 || bytes > kBlockBytes || bytes > file.bytes - at) {
        return InvalidArgument("block {} of the index is empty, too large or in two files", block);
      }
      at += bytes;
    }
  }
  if (block != index.blocks.size()) return InvalidArgument("the index has too many blocks");
  return OkStatus();
}

Result<protocols::BaseList> PutList(ByteSpan encoded, const BlockSink& sink) {
  if (encoded.size() > protocols::kMaxListBytes) {
    return ResourceExhausted("the base's list has {} bytes, the limit is {}", encoded.size(),
                             protocols::kMaxListBytes);
  }
  Status status;
  const blocks::Content content = blocks::Cut(encoded, [&](const Digest& id, ByteSpan block) {
    if (status.ok()) status = sink(id, block);
  });
  TG_RETURN_IF_ERROR(status);
  return protocols::BaseList{content.bytes, content.blocks};
}

Status CheckList(const protocols::BaseList& list) {
  const uint64_t blocks = (list.bytes + kBlockBytes - 1) / kBlockBytes;
  if (list.bytes > protocols::kMaxListBytes || list.blocks.size() != blocks) {
    return InvalidArgument("a base's list of {} bytes does not have {} blocks", list.bytes,
                           list.blocks.size());
  }
  return OkStatus();
}

Result<Bytes> GetList(const protocols::BaseList& list, const BlockSource& source) {
  TG_RETURN_IF_ERROR(CheckList(list));
  Bytes encoded;
  encoded.reserve(list.bytes);
  for (const Digest& id : list.blocks.items) {
    TG_ASSIGN_OR_RETURN(const Bytes block, source(id));
    if (block.size() > list.bytes - encoded.size() || blocks::BlockId(block) != id) {
      return DataLoss("a block of the base's list is damaged");
    }
    encoded.insert(encoded.end(), block.begin(), block.end());
  }
  if (encoded.size() != list.bytes) return DataLoss("the base's list is shorter than it says");
  return encoded;
}

BlockSource BlocksIn(const std::filesystem::path& dir) {
  return [dir](const Digest& id) -> Result<Bytes> {
    const std::string hex = ToHex(id);
    TG_ASSIGN_OR_RETURN(Bytes block, ReadFile(dir / hex.substr(0, 2) / hex.substr(2), kBlockBytes));
    if (blocks::BlockId(block) == id) return block;
    return DataLoss("block {} in {} is damaged", hex, dir.native());
  };
}

std::vector<Part> PartsOf(std::span<const Digest> ids) {
  std::vector<Part> parts;
  for (size_t first = 0; first < ids.size(); first += protocols::kMaxBlocks) {
    const auto slice = ids.subspan(first, std::min(protocols::kMaxBlocks, ids.size() - first));
    parts.push_back({blocks::ContentId(slice), first, static_cast<uint32_t>(slice.size())});
  }
  return parts;
}

std::vector<Digest> IdsOf(const BaseIndex& index) {
  std::vector<Digest> ids;
  ids.reserve(index.blocks.size());
  for (const protocols::BaseBlock& block : index.blocks.items) ids.push_back(block.id);
  return ids;
}

}  // namespace tidegate::bases
