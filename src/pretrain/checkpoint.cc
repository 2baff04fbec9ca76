#include "pretrain/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <set>

#include "base/file.h"
#include "base/log.h"
#include "blocks/block_store.h"
#include "crypto/hash.h"
#include "pretrain/checkpoint_part.h"
#include "train/checkpoint.h"

namespace tidegate::pretrain {
namespace {

namespace fs = std::filesystem;

// A rank's store holds its pieces of a few checkpoints; the disk is the limit.
constexpr uint64_t kStoreQuota = UINT64_MAX;

Result<std::string> ReadPart(const fs::path& path) { return ReadTextFile(path, kMaxPartBytes); }

Status MakeFolder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return Unavailable("cannot make {}: {}", path.native(), error.message());
  return SyncDirectory(path.parent_path());
}

}  // namespace

struct CheckpointWriter::Snapshot {
  int64_t step = 0;
  std::array<std::vector<float>, 3> kinds;
  std::vector<StoredSlice> slices;
};

CheckpointWriter::CheckpointWriter(fs::path dir, int rank, int ranks, int keep)
    : dir_(std::move(dir)), rank_(rank), ranks_(ranks), keep_(std::max(1, keep)) {}

CheckpointWriter::~CheckpointWriter() {
  if (part_.valid()) part_.wait();
}

Status CheckpointWriter::Save(const model::FullModel& model, const Partition& partition,
                              const Shard& shard) {
  if (pending()) return Internal("a checkpoint is still being written");
  TG_RETURN_IF_ERROR(MakeFolder(StepFolder(dir_, shard.step)));
  if (rank_ == 0) {
    // Of a run that was here before and went back: it does not count while parts are replaced.
    std::error_code error;
    fs::remove(IndexFile(dir_, shard.step), error);
    if (error) return Unavailable("cannot replace step {}: {}", shard.step, error.message());
  }
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->step = shard.step;
  const size_t count = static_cast<size_t>(partition.local_count());
  const model::AlignedBuffer* from[] = {&shard.masters, &shard.m, &shard.v};
  for (size_t kind = 0; kind < kKinds.size(); ++kind) {
    snapshot->kinds[kind].resize(count);
    model.ToHost(snapshot->kinds[kind].data(), from[kind]->data(), count * sizeof(float));
  }
  for (const Slice& slice : partition.Slices()) {
    snapshot->slices.push_back(
        {model.layout().tensors[slice.tensor].name, slice.begin, slice.end, slice.local_begin});
  }
  pending_ = shard.step;
  part_ = std::async(std::launch::async, [this, snapshot] { return WritePart(*snapshot); });
  return OkStatus();
}

Status CheckpointWriter::WritePart(const Snapshot& snapshot) const {
  TG_RETURN_IF_ERROR(CollectGarbage());
  TG_ASSIGN_OR_RETURN(blocks::BlockStore store,
                      blocks::BlockStore::Open(StoreFolder(dir_, rank_), kStoreQuota));
  Part part;
  part.store = rank_;
  part.slices = snapshot.slices;
  Status status;
  for (size_t kind = 0; kind < kKinds.size(); ++kind) {
    const std::vector<float>& values = snapshot.kinds[kind];
    const ByteSpan bytes(reinterpret_cast<const uint8_t*>(values.data()),
                         values.size() * sizeof(float));
    part.contents[kind] = blocks::Cut(bytes, [&](const Digest& id, ByteSpan block) {
      if (status.ok()) status = store.PutHashed(id, block);
    });
  }
  TG_RETURN_IF_ERROR(status);
  TG_RETURN_IF_ERROR(store.Sync());
  const std::string text = EncodePart(part);
  TG_RETURN_IF_ERROR(WriteFileDurably(PartFile(dir_, snapshot.step, rank_), AsBytes(text)));
  LogInfo("checkpoint_part_written step={} rank={}", snapshot.step, rank_);
  return OkStatus();
}

// What no part refers to goes from this rank's store, and from those of ranks that are no more.
// Parts of checkpoints that do not count yet keep theirs too.
Status CheckpointWriter::CollectGarbage() const {
  std::set<Digest> kept;
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(dir_, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("part-") || entry.path().extension() != ".json") continue;
    const auto text = ReadPart(entry.path());
    if (!text) continue;  // rank 0 removed it meanwhile
    const auto part = DecodePart(*text, name);
    if (!part) continue;
    for (const blocks::Content& content : part->contents) {
      kept.insert(content.blocks.begin(), content.blocks.end());
    }
  }
  for (const auto& entry : fs::directory_iterator(dir_ / "blocks", error)) {
    int owner = -1;
    const std::string name = entry.path().filename().string();
    std::from_chars(name.data(), name.data() + name.size(), owner);
    if (owner != rank_ && !(rank_ == 0 && owner >= ranks_)) continue;
    TG_ASSIGN_OR_RETURN(blocks::BlockStore store,
                        blocks::BlockStore::Open(entry.path(), kStoreQuota));
    TG_ASSIGN_OR_RETURN(const std::vector<Digest> ids, store.List());
    for (const Digest& id : ids) {
      if (!kept.contains(id)) TG_RETURN_IF_ERROR(store.Remove(id));
    }
  }
  return OkStatus();
}

bool CheckpointWriter::PartDone() {
  return pending() && part_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

void CheckpointWriter::Wait() {
  if (pending()) part_.wait();
}

Status CheckpointWriter::Commit(const model::FullModel& model, const train::Identity& identity) {
  const int64_t step = *pending_;
  const Status part = part_.get();
  pending_.reset();
  TG_RETURN_IF_ERROR(part);
  if (rank_ != 0) return OkStatus();
  TG_RETURN_IF_ERROR(WriteIndex(step, model, identity));
  LogInfo("checkpoint_written step={} ranks={}", step, ranks_);
  return Prune();
}

Status CheckpointWriter::WriteIndex(int64_t step, const model::FullModel& model,
                                    const train::Identity& identity) const {
  Index index;
  index.step = step;
  index.identity = identity;
  for (const model::FlatTensor& tensor : model.layout().tensors) {
    index.tensors[tensor.name] = tensor.shape;
  }
  for (int rank = 0; rank < ranks_; ++rank) {
    TG_ASSIGN_OR_RETURN(const std::string text, ReadPart(PartFile(dir_, step, rank)));
    index.parts.push_back(crypto::Sha256::Of(AsBytes(text)));
  }
  const std::string text = EncodeIndex(index);
  return WriteFileDurably(IndexFile(dir_, step), AsBytes(text));
}

Status CheckpointWriter::Prune() const {
  TG_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, CheckpointSteps(dir_));
  for (size_t i = static_cast<size_t>(keep_); i < steps.size(); ++i) {
    std::error_code error;
    fs::remove(IndexFile(dir_, steps[i]), error);
    if (!error) fs::remove_all(StepFolder(dir_, steps[i]), error);
    if (error) LogWarning("checkpoint_not_removed step={} reason={}", steps[i], error.message());
  }
  return OkStatus();
}

Result<std::vector<int64_t>> CheckpointSteps(const fs::path& dir) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(dir, error)) {
    constexpr std::string_view kPrefix = "step-";
    const std::string name = entry.path().filename().string();
    int64_t step = -1;
    if (!name.starts_with(kPrefix)) continue;
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), step);
    std::error_code gone;
    if (step >= 0 && fs::exists(entry.path() / "index.json", gone)) steps.push_back(step);
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return Unavailable("cannot list {}: {}", dir.native(), error.message());
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

namespace {

// Reads runs of floats out of a part's contents, a block at a time.
class PartReader {
 public:
  static Result<PartReader> Open(const fs::path& dir, int64_t step, int rank,
                                 const Digest& digest) {
    const fs::path path = PartFile(dir, step, rank);
    const auto text = ReadPart(path);
    if (!text) return MakeError(Code::kDataLoss, "{}", text.error().message());
    if (crypto::Sha256::Of(AsBytes(*text)) != digest) {
      return MakeError(Code::kDataLoss, "{} is not the file that its index names", path.native());
    }
    TG_ASSIGN_OR_RETURN(Part part, DecodePart(*text, path.native()));
    TG_ASSIGN_OR_RETURN(blocks::BlockStore store,
                        blocks::BlockStore::Open(StoreFolder(dir, part.store), kStoreQuota));
    return PartReader(std::move(part), std::move(store));
  }
  const Part& part() const { return part_; }

  // Floats [at, at + out.size()) of a kind.
  Status Read(size_t kind, int64_t at, std::span<float> out) {
    const blocks::Content& content = part_.contents[kind];
    uint64_t begin = static_cast<uint64_t>(at) * sizeof(float);
    auto* to = reinterpret_cast<uint8_t*>(out.data());
    for (size_t left = out.size_bytes(); left > 0;) {
      const uint64_t index = begin / protocols::kBlockBytes;
      TG_RETURN_IF_ERROR(Fetch(content.blocks[index]));
      const uint64_t within = begin % protocols::kBlockBytes;
      if (within >= block_.size()) return MakeError(Code::kDataLoss, "a block is too short");
      const size_t take = std::min<size_t>(left, block_.size() - within);
      std::memcpy(to, block_.data() + within, take);
      to += take;
      begin += take;
      left -= take;
    }
    return OkStatus();
  }

 private:
  PartReader(Part part, blocks::BlockStore store)
      : part_(std::move(part)), store_(std::move(store)) {}
  Status Fetch(const Digest& id) {
    if (id == block_id_ && !block_.empty()) return OkStatus();
    auto block = store_.Get(id);
    if (!block) return Status(Code::kDataLoss, block.error().message());
    block_ = std::move(*block);
    block_id_ = id;
    return OkStatus();
  }

  Part part_;
  blocks::BlockStore store_;
  Digest block_id_{};
  Bytes block_;
};

// The part of a stored slice that a rank's slice asks for.
Status Overlap(PartReader& reader, const StoredSlice& stored, const Slice& slice,
               const model::FullModel& model, Shard* shard, int64_t* covered) {
  const int64_t begin = std::max(stored.begin, slice.begin);
  const int64_t end = std::min(stored.end, slice.end);
  if (begin >= end) return OkStatus();
  std::vector<float> values(static_cast<size_t>(end - begin));
  model::AlignedBuffer* to[] = {&shard->masters, &shard->m, &shard->v};
  for (size_t kind = 0; kind < kKinds.size(); ++kind) {
    TG_RETURN_IF_ERROR(reader.Read(kind, stored.at + begin - stored.begin, values));
    float* place = reinterpret_cast<float*>(to[kind]->data()) + slice.local_begin;
    model.FromHost(place + (begin - slice.begin), values.data(), values.size() * sizeof(float));
  }
  *covered += end - begin;
  return OkStatus();
}

}  // namespace

Status LoadCheckpoint(const fs::path& dir, int64_t step, const train::Identity& identity,
                      const model::FullModel& model, const Partition& partition, Shard* shard) {
  const fs::path path = IndexFile(dir, step);
  TG_ASSIGN_OR_RETURN(const std::string text, ReadPart(path));
  TG_ASSIGN_OR_RETURN(const Index index, DecodeIndex(text, path.native()));
  TG_RETURN_IF_ERROR(train::CheckIdentity(index.identity, identity, path.native()));
  const std::vector<Slice> slices = partition.Slices();
  std::map<std::string, std::vector<size_t>, std::less<>> wanted;
  int64_t missing = 0;
  for (const model::FlatTensor& tensor : model.layout().tensors) {
    const auto stored = index.tensors.find(tensor.name);
    if (stored != index.tensors.end() && stored->second == tensor.shape) continue;
    return FailedPrecondition("{} holds no tensor {} of shape {}", path.native(), tensor.name,
                              tensor::ShapeText(tensor.shape));
  }
  for (size_t i = 0; i < slices.size(); ++i) {
    wanted[model.layout().tensors[slices[i].tensor].name].push_back(i);
    missing += slices[i].end - slices[i].begin;
  }
  for (size_t rank = 0; rank < index.parts.size(); ++rank) {
    TG_ASSIGN_OR_RETURN(PartReader reader,
                        PartReader::Open(dir, step, static_cast<int>(rank), index.parts[rank]));
    for (const StoredSlice& stored : reader.part().slices) {
      const auto of_tensor = wanted.find(stored.tensor);
      if (of_tensor == wanted.end()) continue;
      for (const size_t i : of_tensor->second) {
        int64_t covered = 0;
        TG_RETURN_IF_ERROR(Overlap(reader, stored, slices[i], model, shard, &covered));
        missing -= covered;
      }
    }
  }
  if (missing != 0) {
    return MakeError(Code::kDataLoss, "{} lacks {} elements of this model", path.native(), missing);
  }
  shard->step = index.step;
  return OkStatus();
}

}  // namespace tidegate::pretrain
