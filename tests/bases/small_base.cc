#include "small_base.h"

#include <cstdlib>

#include "base/file.h"
#include "base/rng.h"
#include "tensor/safetensors.h"

namespace tidegate::bases {

namespace fs = std::filesystem;

TempFolder::TempFolder() {
  std::string name = (fs::temp_directory_path() / "tidegate-bases-XXXXXX").native();
  if (::mkdtemp(name.data()) == nullptr) std::abort();
  path_ = name;
}
TempFolder::~TempFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

namespace {

float Chance(uint64_t seed, uint64_t stream, uint64_t i) {
  return UniformFloat(RandomWords(seed, RngPurpose::kTest, stream, i)[0]) - 0.5f;
}

tensor::TensorToWrite Tensor(const std::string& name, int64_t rows, int64_t columns, uint64_t seed,
                             uint64_t stream, float moved, Bytes* bytes) {
  std::vector<float> values(static_cast<size_t>(rows * columns));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = 0.1f * Chance(seed, stream, i);
    if (moved > 0) values[i] *= 1 + moved * Chance(seed, stream + 100, i);
  }
  bytes->resize(values.size() * 2);
  tensor::FromFloats(tensor::DType::kBF16, values, bytes->data());
  return {name, tensor::DType::kBF16, {rows, columns}, *bytes};
}

}  // namespace

void WriteBase(const fs::path& dir, const SmallBase& base) {
  fs::create_directories(dir);
  Bytes bytes[4];
  const auto written = tensor::WriteSafetensors(
      dir / "model.safetensors",
      {Tensor("norm.weight", 1, 96, base.seed, 1, 0, &bytes[0]),
       Tensor("embed.weight", 8000, 96, base.seed, 2, 0, &bytes[1]),
       Tensor("mlp.weight", 700, 512, base.seed, 3, base.moved, &bytes[2]),
       Tensor("lm_head.weight", 3000, 100, base.seed + (base.other_head ? 1 : 0), 4, 0, &bytes[3])},
      {});
  if (!written.ok()) std::abort();
  if (!WriteFileDurably(dir / "config.json", AsBytes(base.config)).ok()) std::abort();
}

BlockSink MemoryBlocks::sink() {
  return [this](const Digest& id, ByteSpan block) {
    blocks[id] = Bytes(block.begin(), block.end());
    return OkStatus();
  };
}

BlockSource MemoryBlocks::source() const {
  return [this](const Digest& id) -> Result<Bytes> {
    const auto it = blocks.find(id);
    if (it == blocks.end()) return NotFound("block {} is not there", ToHex(id));
    return it->second;
  };
}

std::map<std::string, Bytes> FilesIn(const fs::path& dir) {
  std::map<std::string, Bytes> files;
  for (const auto& entry : fs::directory_iterator(dir)) {
    files[entry.path().filename()] = *ReadFile(entry.path(), 1u << 30);
  }
  return files;
}

}  // namespace tidegate::bases
