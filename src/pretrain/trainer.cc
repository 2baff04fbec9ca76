#include "pretrain/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace tidegate::pretrain {
namespace {

using cluster::DType;

constexpr size_t kNotices = 2;

DType WireType(kernels::DType dtype) {
  return dtype == kernels::DType::kBF16 ? DType::kBf16 : DType::kF32;
}

}  // namespace

Status CheckStep(const StepConfig& config, int ranks) {
  TG_RETURN_IF_ERROR(CheckSchedule(config.schedule));
  TG_RETURN_IF_ERROR(CheckAdamW(config.adamw));
  if (config.micro_batch_size < 1 || config.global_batch_size < 1) {
    return InvalidArgument("batches of {} and {} sequences: at least 1 is needed",
                           config.micro_batch_size, config.global_batch_size);
  }
  const int64_t pass = config.micro_batch_size * ranks;
  if (config.global_batch_size % pass != 0) {
    return InvalidArgument(
        "global_batch_size {} is not a multiple of per_device_train_batch_size {} times {} ranks: "
        "use {}",
        config.global_batch_size, config.micro_batch_size, ranks,
        (config.global_batch_size + pass - 1) / pass * pass);
  }
  return OkStatus();
}

Trainer::Trainer(model::FullModel& model, SampleSource& source, const Partition& partition,
                 Shard& shard, cluster::Collectives* control, cluster::Collectives* data,
                 const StepConfig& config)
    : model_(model),
      source_(source),
      partition_(partition),
      shard_(shard),
      control_(control),
      data_(data),
      config_(config) {
  if (data_ != nullptr) stream_ = std::make_unique<cluster::CollectiveStream>(*data_);
  if (config_.ordered) tree_ = std::make_unique<GradientTree>(model.layout().count, leaves());
  const kernels::Device* device = model_.table().device;
  const bool queued = device != nullptr && data_ != nullptr && data_->stream() != nullptr;
  for (const Bucket& bucket : partition_.buckets()) {
    stretches_.push_back(partition_.StretchesOf(bucket));
    if (queued) events_.push_back(device->make_event());
  }
}

Trainer::~Trainer() {
  stream_.reset();  // its calls follow the events
  for (void* event : events_) model_.table().device->release_event(event);
}

Result<std::unique_ptr<Trainer>> Trainer::Create(model::FullModel& model, SampleSource& source,
                                                 const Partition& partition, Shard& shard,
                                                 cluster::Collectives* control,
                                                 cluster::Collectives* data,
                                                 const StepConfig& config) {
  TG_RETURN_IF_ERROR(CheckStep(config, control == nullptr ? 1 : control->size()));
  if (config.ordered && model.table().device != nullptr) {
    return Unsupported("ordered sums are for the CPU: use --reduction fast with --device cuda");
  }
  if (source.length() > model.config().max_positions) {
    return InvalidArgument("max_length {} is beyond the model's {} positions", source.length(),
                           model.config().max_positions);
  }
  if (source.vocab_size() > model.config().vocab_size) {
    return InvalidArgument(
        "the data's tokenizer has {} ids, the model {}: set vocab_size in its config.json to that "
        "or more",
        source.vocab_size(), model.config().vocab_size);
  }
  try {
    return std::unique_ptr<Trainer>(
        new Trainer(model, source, partition, shard, control, data, config));
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("the sums of gradients do not fit in memory: use --reduction fast");
  } catch (const kernels::DeviceError& error) {
    return Unavailable("{}", error.what());
  }
}

void Trainer::Reduce(const Bucket& bucket) {
  if (stream_ == nullptr) return;
  float* in = gradients() + bucket.begin;
  float* out = gradients() + bucket.piece_begin;
  const size_t count = static_cast<size_t>(bucket.piece);
  SubmitAfter(bucket, [in, out, count](cluster::Collectives& group) {
    return group.ReduceScatter("gradients", in, out, count, DType::kF32);
  });
}

void Trainer::SubmitAfter(const Bucket& bucket, cluster::CollectiveStream::Work call) {
  if (events_.empty()) {
    (void)stream_->Submit(std::move(call));
    return;
  }
  const kernels::Device& device = *model_.table().device;
  void* const event = events_[IndexOf(bucket)];
  device.record(model_.context(), event);
  (void)stream_->Submit(
      [&device, event, call = std::move(call)](cluster::Collectives& group) -> Status {
        try {
          device.follow({1, nullptr, group.stream()}, event);
        } catch (const kernels::DeviceError& error) {
          return Unavailable("{}", error.what());
        }
        return call(group);
      });
}

size_t Trainer::IndexOf(const Bucket& bucket) const {
  return static_cast<size_t>(&bucket - partition_.buckets().data());
}

void Trainer::OnFinal(int64_t leaf, int64_t begin) {
  const std::vector<Bucket>& buckets = partition_.buckets();
  for (; reduced_ < buckets.size() && buckets[reduced_].begin >= begin; ++reduced_) {
    const Bucket& bucket = buckets[reduced_];
    if (tree_ != nullptr) tree_->Add(leaf, gradients(), bucket.begin, bucket.end);
    if (leaf == leaves() - 1) Reduce(bucket);
  }
}

// The losses of this rank's micro-batches; the sums of gradients are in its pieces.
Result<std::vector<double>> Trainer::Passes(int64_t step) {
  model_.Zero(gradients(), static_cast<size_t>(model_.layout().count) * sizeof(float));
  std::vector<double> losses;
  for (int64_t leaf = 0; leaf < leaves(); ++leaf) {
    const int64_t slot = rank() * leaves() + leaf;
    const int64_t first = step * config_.global_batch_size + slot * config_.micro_batch_size;
    TG_ASSIGN_OR_RETURN(const tokens::PackedBatch batch,
                        ReadBatch(source_, static_cast<uint64_t>(first), config_.micro_batch_size));
    reduced_ = 0;
    const auto on_final = [this, leaf](int64_t begin) { OnFinal(leaf, begin); };
    TG_ASSIGN_OR_RETURN(
        const model::LossSum sum,
        model_.ForwardBackward(batch, Overlaps() ? on_final : std::function<void(int64_t)>()));
    losses.push_back(sum.loss);
    if (Overlaps()) continue;
    model_.Wait();
    OnFinal(leaf, 0);
  }
  if (stream_ != nullptr) TG_RETURN_IF_ERROR(stream_->Drain());
  return losses;
}

// Sums of squares over this rank's chunks, in the order of its shard.
Status Trainer::Chunks(std::vector<double>* sums) {
  const kernels::KernelTable& table = model_.table();
  const size_t count = static_cast<size_t>(partition_.local_count() / kChunk);
  const size_t at = sums->size();
  sums->resize(at + count);
  try {
    const kernels::Device* device = table.device;
    model::AlignedBuffer place(count * sizeof(double), device);
    auto* out = reinterpret_cast<double*>(place.data());
    size_t chunk = 0;
    for (const Bucket& bucket : partition_.buckets()) {
      for (int64_t i = 0; i < bucket.piece; i += kChunk) {
        table.sum_squares(model_.context(),
                          {kChunk, gradients() + bucket.piece_begin + i, out + chunk});
        ++chunk;
      }
    }
    model_.ToHost(sums->data() + at, out, count * sizeof(double));
  } catch (const kernels::DeviceError& error) {
    return Unavailable("{}", error.what());
  }
  return OkStatus();
}

Result<std::vector<double>> Trainer::Gather(const std::vector<double>& mine) {
  if (control_ == nullptr) return mine;
  std::vector<double> all(mine.size() * static_cast<size_t>(ranks()));
  TG_RETURN_IF_ERROR(OnControl([&](cluster::Collectives& group) {
    return group.AllGather("step", mine.data(), all.data(), mine.size(), DType::kF64);
  }));
  return all;
}

Status Trainer::OnControl(const cluster::CollectiveStream::Work& call) {
  // While the stream lives, its group is called by it alone.
  if (control_ == data_) return stream_->Submit(call).Wait();
  return call(*control_);
}

void Trainer::Apply(const Bucket& bucket, double grad_scale, double learning_rate) {
  const auto at = [](const model::AlignedBuffer& buffer, int64_t local) {
    return reinterpret_cast<float*>(buffer.data()) + local;
  };
  for (const Stretch& s : stretches_[IndexOf(bucket)]) {
    kernels::AdamWArgs args;
    args.count = s.end - s.begin;
    args.p = at(shard_.masters, s.local_begin);
    args.g = gradients() + s.begin;
    args.m = at(shard_.m, s.local_begin);
    args.v = at(shard_.v, s.local_begin);
    args.grad_scale = grad_scale;
    args.lr = learning_rate;
    args.beta1 = config_.adamw.beta1;
    args.beta2 = config_.adamw.beta2;
    args.eps = config_.adamw.eps;
    args.weight_decay = s.decayed ? config_.adamw.weight_decay : 0.0;
    args.step = shard_.step + 1;
    model_.table().adamw(model_.context(), args);
  }
}

// This rank's piece as the model computes with it, and then everyone's.
void Trainer::SpreadBucket(const Bucket& bucket) {
  const kernels::DType dtype = model_.table().dtype;
  auto* weights = static_cast<std::byte*>(model_.weights());
  const size_t element = kernels::SizeOf(dtype);
  std::byte* piece = weights + static_cast<size_t>(bucket.piece_begin) * element;
  model_.table().convert(
      model_.context(),
      {bucket.piece, reinterpret_cast<const float*>(shard_.masters.data()) + bucket.local_begin,
       1.0, piece});
  if (stream_ == nullptr) return;
  if (!Overlaps()) model_.Wait();
  std::byte* out = weights + static_cast<size_t>(bucket.begin) * element;
  const size_t count = static_cast<size_t>(bucket.piece);
  SubmitAfter(bucket, [piece, out, count, dtype](cluster::Collectives& group) {
    return group.AllGather("weights", piece, out, count, WireType(dtype));
  });
}

Status Trainer::SpreadWeights() {
  try {
    for (const Bucket& bucket : partition_.buckets()) SpreadBucket(bucket);
    model_.Wait();
  } catch (const kernels::DeviceError& error) {
    return Unavailable("{}", error.what());
  }
  return stream_ == nullptr ? OkStatus() : stream_->Drain();
}

// Bucket by bucket, so that one travels as the next is computed.
Status Trainer::Update(double grad_scale, double learning_rate) {
  try {
    for (const Bucket& bucket : partition_.buckets()) {
      Apply(bucket, grad_scale, learning_rate);
      SpreadBucket(bucket);
    }
    model_.Wait();
  } catch (const kernels::DeviceError& error) {
    return Unavailable("{}", error.what());
  }
  return stream_ == nullptr ? OkStatus() : stream_->Drain();
}

namespace {

// What the ranks said, each `leaves` losses, the notices and the sums over its chunks.
class Said {
 public:
  Said(std::vector<double> all, int ranks, int64_t leaves)
      : all_(std::move(all)),
        ranks_(static_cast<size_t>(ranks)),
        leaves_(static_cast<size_t>(leaves)) {}
  double Loss() const {
    double loss = 0;
    for (size_t r = 0; r < ranks_; ++r) {
      for (size_t i = 0; i < leaves_; ++i) loss += Of(r)[i];
    }
    return loss;
  }
  bool Any(size_t notice) const {
    bool any = false;
    for (size_t r = 0; r < ranks_; ++r) any |= Of(r)[leaves_ + notice] != 0;
    return any;
  }
  bool All(size_t notice) const {
    bool all = true;
    for (size_t r = 0; r < ranks_; ++r) all &= Of(r)[leaves_ + notice] != 0;
    return all;
  }
  // Added in the order of the flat buffer, whoever had what.
  double Squares(const Partition& partition) const {
    double sum = 0;
    const std::vector<Bucket>& buckets = partition.buckets();
    for (auto bucket = buckets.rbegin(); bucket != buckets.rend(); ++bucket) {
      const size_t first = static_cast<size_t>(bucket->local_begin / kChunk);
      const size_t chunks = static_cast<size_t>(bucket->piece / kChunk);
      for (size_t r = 0; r < ranks_; ++r) {
        for (size_t i = 0; i < chunks; ++i) sum += Of(r)[leaves_ + kNotices + first + i];
      }
    }
    return sum;
  }

 private:
  const double* Of(size_t rank) const { return all_.data() + rank * (all_.size() / ranks_); }

  std::vector<double> all_;
  size_t ranks_, leaves_;
};

}  // namespace

Result<StepOutcome> Trainer::Step(const Notice& notice) {
  const auto begin = std::chrono::steady_clock::now();
  TG_ASSIGN_OR_RETURN(std::vector<double> mine, Passes(shard_.step));
  mine.push_back(notice.stop ? 1 : 0);
  mine.push_back(notice.saved ? 1 : 0);
  TG_RETURN_IF_ERROR(Chunks(&mine));
  TG_ASSIGN_OR_RETURN(std::vector<double> all, Gather(mine));
  const Said said(std::move(all), ranks(), leaves());
  StepOutcome outcome;
  outcome.stop = said.Any(0);
  outcome.saved = said.All(1);
  train::StepResult& result = outcome.result;
  result.step = shard_.step + 1;
  result.tokens = config_.global_batch_size * source_.length();
  result.targets = result.tokens;
  result.epoch = shard_.step * config_.global_batch_size /
                 static_cast<int64_t>(std::max<uint64_t>(1, source_.samples_per_epoch()));
  result.learning_rate = LearningRate(config_.schedule, shard_.step);
  const double scale = 1.0 / static_cast<double>(result.targets);
  result.loss = said.Loss() * scale;
  result.grad_norm = std::sqrt(said.Squares(partition_)) * scale;
  if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm)) {
    return FailedPrecondition(
        "step {}: loss {} and gradient norm {} are not finite, nothing was changed; lower the "
        "learning rate (now {}) or train with --dtype f32",
        result.step, result.loss, result.grad_norm, result.learning_rate);
  }
  const double most = config_.adamw.max_grad_norm;
  const double clip = most > 0 ? std::min(1.0, most / (result.grad_norm + 1e-6)) : 1.0;
  TG_RETURN_IF_ERROR(Update(scale * clip, result.learning_rate));
  ++shard_.step;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return outcome;
}

Result<bool> Trainer::AllTrue(bool mine) {
  TG_ASSIGN_OR_RETURN(const std::vector<double> all, Gather({mine ? 1.0 : 0.0}));
  return std::all_of(all.begin(), all.end(), [](double said) { return said != 0; });
}

Result<bool> Trainer::SameOnAll(double mine) {
  TG_ASSIGN_OR_RETURN(const std::vector<double> all, Gather({mine}));
  return std::all_of(all.begin(), all.end(), [mine](double said) { return said == mine; });
}

Result<std::vector<float>> Trainer::GatherMasters() {
  std::vector<float> flat, piece, bucket_values;
  if (rank() == 0) flat.resize(static_cast<size_t>(model_.layout().count));
  for (const Bucket& bucket : partition_.buckets()) {
    const size_t count = static_cast<size_t>(bucket.piece);
    piece.resize(count);
    bucket_values.resize(count * static_cast<size_t>(ranks()));
    const auto* from = reinterpret_cast<const float*>(shard_.masters.data()) + bucket.local_begin;
    model_.ToHost(piece.data(), from, count * sizeof(float));
    if (control_ == nullptr) {
      bucket_values = piece;
    } else {
      const auto gather = [&](cluster::Collectives& group) {
        return group.AllGather("masters", piece.data(), bucket_values.data(), count, DType::kF32);
      };
      TG_RETURN_IF_ERROR(OnControl(gather));
    }
    if (rank() != 0) continue;
    std::copy(bucket_values.begin(), bucket_values.end(), flat.begin() + bucket.begin);
  }
  return flat;
}

Result<double> Trainer::Evaluate(SampleSource& source, int64_t sequences) {
  const int64_t passes = sequences / config_.micro_batch_size;
  const int64_t each = (passes + ranks() - 1) / ranks();
  std::vector<double> losses(static_cast<size_t>(each), 0.0);
  for (int64_t i = 0; i < each; ++i) {
    const int64_t pass = rank() * each + i;
    if (pass >= passes) break;
    const uint64_t first = static_cast<uint64_t>(pass * config_.micro_batch_size);
    TG_ASSIGN_OR_RETURN(const tokens::PackedBatch batch,
                        ReadBatch(source, first, config_.micro_batch_size));
    TG_ASSIGN_OR_RETURN(const model::LossSum sum, model_.Evaluate(batch));
    losses[static_cast<size_t>(i)] = sum.loss;
  }
  TG_ASSIGN_OR_RETURN(const std::vector<double> all, Gather(losses));
  double loss = 0;
  for (const double one : all) loss += one;
  const int64_t targets = passes * config_.micro_batch_size * source.length();
  if (targets == 0) {
    return FailedPrecondition("the evaluation data has fewer than {} sequences of {} tokens",
                              config_.micro_batch_size, source.length());
  }
  return loss / static_cast<double>(targets);
}

}  // namespace tidegate::pretrain
