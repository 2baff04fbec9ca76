#include "model/weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/quantize.h"
#include "model/weight_layout.h"

namespace tidegate::model {
namespace {

using kernels::DType;

constexpr size_t kChunk = 4096;

bool AllFinite(std::span<const float> values) {
  // The sum of x·0 is 0 exactly when every x is finite: no branch a value.
  float sum = 0;
  for (const float value : values) sum += value * 0.0f;
  return sum == 0.0f;
}

bool AllFiniteBf16(const uint8_t* bytes, size_t count) {
  bool finite = true;
  for (size_t i = 0; i < count; ++i) {
    uint16_t word;
    std::memcpy(&word, bytes + 2 * i, 2);
    finite &= (word & 0x7f80u) != 0x7f80u;
  }
  return finite;
}

// Converts a tensor. False if a value is NaN or Inf, as stored or after rounding.
bool ConvertTensor(const tensor::TensorView& view, DType compute, std::byte* out) {
  const size_t count = static_cast<size_t>(view.num_elements());
  const size_t in_size = tensor::DTypeSize(view.dtype);
  const size_t out_size = kernels::SizeOf(compute);
  std::vector<float> floats(std::min(count, kChunk));
  for (size_t at = 0; at < count; at += kChunk) {
    const std::span<float> chunk(floats.data(), std::min(kChunk, count - at));
    tensor::ToFloats(view.dtype, view.bytes.data() + at * in_size, chunk);
    if (!AllFinite(chunk)) return false;
    std::byte* to = out + at * out_size;
    if (compute == DType::kF64) {
      for (size_t i = 0; i < chunk.size(); ++i) reinterpret_cast<double*>(to)[i] = chunk[i];
    } else if (compute == DType::kF32) {
      std::memcpy(to, chunk.data(), chunk.size_bytes());
    } else {
      tensor::FromFloats(tensor::DType::kBF16, chunk, reinterpret_cast<uint8_t*>(to));
      if (!AllFiniteBf16(reinterpret_cast<const uint8_t*>(to), chunk.size())) return false;
    }
  }
  return true;
}

// Gives the pages that lie wholly inside of `bytes` of a mapped file back: they were converted and
// are not read again. (They would be, from the file, so this may only cost time.) Without this the
// stored weights count in the process's memory beside the converted ones.
void ReleasePages(ByteSpan bytes) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t end = (begin + bytes.size()) / page * page;
  if (first < end) (void)::madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
}

kernels::WeightFormat PlainFormat(DType dtype) {
  return dtype == DType::kBF16  ? kernels::WeightFormat::kBF16
         : dtype == DType::kF64 ? kernels::WeightFormat::kF64
                                : kernels::WeightFormat::kF32;
}

std::string_view NameOf(DType dtype) {
  return dtype == DType::kF64 ? "f64" : dtype == DType::kF32 ? "f32" : "bf16";
}

Error NotFinite(const std::string& name, const tensor::TensorView& view, std::string_view as) {
  return InvalidArgument(
      "tensor {} holds NaN or Inf (as {} read in {}): the file is damaged, fetch it again", name,
      tensor::DTypeName(view.dtype), as);
}

}  // namespace

kernels::WeightFormat FormatOf(Quantization quantization) {
  switch (quantization) {
    case Quantization::kNone:
      return kernels::WeightFormat::kF32;
    case Quantization::kInt8:
      return kernels::WeightFormat::kInt8;
    case Quantization::kNf4:
      return kernels::WeightFormat::kNf4;
    case Quantization::kNf4Double:
      return kernels::WeightFormat::kNf4Double;
  }
  return kernels::WeightFormat::kF32;
}

std::string_view QuantizationName(Quantization quantization) {
  switch (quantization) {
    case Quantization::kNone:
      return "none";
    case Quantization::kInt8:
      return "int8";
    case Quantization::kNf4:
      return "nf4";
    case Quantization::kNf4Double:
      return "nf4 double";
  }
  return "unknown";
}

LoadedBase::LoadedBase(ModelConfig config, const ComputeOptions& options,
                       const kernels::KernelTable* table,
                       std::optional<tensor::SafetensorsFolder> folder)
    : config_(std::move(config)),
      options_(options),
      table_(table),
      folder_(std::move(folder)),
      owned_(table->device),
      layers_(static_cast<size_t>(config_.num_layers)) {}

std::byte* LoadedBase::Room(size_t bytes) {
  if (table_->device == nullptr) return owned_.Take(bytes);
  if (passing_.size() < bytes) passing_ = AlignedBuffer(bytes);
  return passing_.data();
}

const void* LoadedBase::Resident(const std::byte* numbers, size_t bytes) {
  const kernels::Device* device = table_->device;
  if (device == nullptr) return numbers;
  std::byte* place = owned_.Take(bytes);
  const kernels::Context context;
  device->to_device(context, place, numbers, bytes);
  device->synchronize(context);
  return place;
}

Result<const void*> LoadedBase::Plain(const std::string& name, DType held) {
  TG_ASSIGN_OR_RETURN(const tensor::TensorView* view, folder_->Get(name));
  const size_t bytes = static_cast<size_t>(view->num_elements()) * kernels::SizeOf(held);
  std::byte* out = Room(bytes);
  if (!ConvertTensor(*view, held, out)) return NotFinite(name, *view, NameOf(held));
  ReleasePages(view->bytes);
  return Resident(out, bytes);
}

Result<kernels::WeightSource> LoadedBase::Linear(const std::string& name, int64_t n, int64_t k) {
  const kernels::WeightFormat format = FormatOf(options_.quantization);
  if (!kernels::IsQuantized(format)) {
    return Matrix(name, n, k);
  }
  TG_ASSIGN_OR_RETURN(const tensor::TensorView* view, folder_->Get(name));
  const size_t bytes = static_cast<size_t>(view->num_elements()) * sizeof(float);
  if (floats_.size() < bytes) floats_ = AlignedBuffer(bytes);
  if (!ConvertTensor(*view, DType::kF32, floats_.data())) return NotFinite(name, *view, "f32");
  ReleasePages(view->bytes);
  const size_t quantized = kernels::QuantizedBytes(format, n, k);
  std::byte* out = Room(quantized);
  kernels::Quantize(options_.threads, format, n, k, reinterpret_cast<const float*>(floats_.data()),
                    out);
  return kernels::WeightSource{format, n, k, Resident(out, quantized)};
}

Result<kernels::WeightSource> LoadedBase::Matrix(const std::string& name, int64_t n, int64_t k) {
  TG_ASSIGN_OR_RETURN(const tensor::TensorView* view, folder_->Get(name));
  const bool halves = options_.backend == kernels::Backend::kCpu && options_.dtype == DType::kF32 &&
                      view->dtype == tensor::DType::kBF16;
  const DType held = halves ? DType::kBF16 : options_.dtype;
  TG_ASSIGN_OR_RETURN(const void* data, Plain(name, held));
  return kernels::WeightSource{PlainFormat(held), n, k, data};
}

Status LoadedBase::LoadLayer(int64_t index) {
  LayerWeights& layer = layers_[static_cast<size_t>(index)];
  const std::string at = fmt::format("model.layers.{}.", index);
  TG_ASSIGN_OR_RETURN(layer.input_norm, Plain(at + "input_layernorm.weight", options_.dtype));
  TG_ASSIGN_OR_RETURN(layer.mlp_norm,
                      Plain(at + "post_attention_layernorm.weight", options_.dtype));
  for (int i = 0; i < kModulesPerLayer; ++i) {
    const Module module = static_cast<Module>(i);
    const ModuleShape shape = ShapeOf(config_, module);
    TG_ASSIGN_OR_RETURN(const kernels::WeightSource source,
                        Linear(at + ModulePath(module) + ".weight", shape.out, shape.in));
    layer.linear[static_cast<size_t>(i)] = table_->prepare_weights(source);
    if (HasBias(config_, module)) {
      TG_ASSIGN_OR_RETURN(layer.bias[static_cast<size_t>(i)],
                          Plain(at + ModulePath(module) + ".bias", options_.dtype));
    }
  }
  if (!config_.qk_norm) return OkStatus();
  TG_ASSIGN_OR_RETURN(layer.q_norm, Plain(at + "self_attn.q_norm.weight", options_.dtype));
  TG_ASSIGN_OR_RETURN(layer.k_norm, Plain(at + "self_attn.k_norm.weight", options_.dtype));
  return OkStatus();
}

Status LoadedBase::LoadAll() {
  TG_RETURN_IF_ERROR(CheckWeights(config_, *folder_));
  const int64_t vocab = config_.vocab_size, hidden = config_.hidden_size;
  TG_ASSIGN_OR_RETURN(embedding_, Matrix("model.embed_tokens.weight", vocab, hidden));
  for (int64_t i = 0; i < config_.num_layers; ++i) TG_RETURN_IF_ERROR(LoadLayer(i));
  TG_ASSIGN_OR_RETURN(final_norm_, Plain("model.norm.weight", options_.dtype));
  kernels::WeightSource head = embedding_;
  if (!config_.tied) {
    TG_ASSIGN_OR_RETURN(head, Matrix("lm_head.weight", vocab, hidden));
  }
  floats_ = AlignedBuffer();
  passing_ = AlignedBuffer();
  head_ = table_->prepare_weights(head);
  return OkStatus();
}

void LoadedBase::PointInto(const FlatLayout& layout, const std::byte* weights) {
  const size_t element = kernels::SizeOf(options_.dtype);
  const auto at = [&](int64_t offset) -> const void* {
    return offset < 0 ? nullptr : weights + static_cast<size_t>(offset) * element;
  };
  const auto matrix = [&](int64_t offset, int64_t n, int64_t k) {
    return kernels::WeightSource{PlainFormat(options_.dtype), n, k, at(offset)};
  };
  embedding_ = matrix(layout.embedding, config_.vocab_size, config_.hidden_size);
  head_ = table_->prepare_weights(matrix(layout.head, config_.vocab_size, config_.hidden_size));
  final_norm_ = at(layout.final_norm);
  for (size_t l = 0; l < layers_.size(); ++l) {
    const LayerOffsets& from = layout.layers[l];
    LayerWeights& layer = layers_[l];
    for (size_t i = 0; i < kModulesPerLayer; ++i) {
      const ModuleShape shape = ShapeOf(config_, static_cast<Module>(i));
      layer.linear[i] = table_->prepare_weights(matrix(from.linear[i], shape.out, shape.in));
      layer.bias[i] = at(from.bias[i]);
    }
    layer.input_norm = at(from.input_norm);
    layer.mlp_norm = at(from.mlp_norm);
    layer.q_norm = at(from.q_norm);
    layer.k_norm = at(from.k_norm);
  }
}

Result<std::shared_ptr<const LoadedBase>> LoadedBase::Over(const ModelConfig& config,
                                                           const ComputeOptions& options,
                                                           const FlatLayout& layout,
                                                           const std::byte* weights) {
  if (options.quantization != Quantization::kNone) {
    return Unsupported("weights in {} cannot be trained: choose bf16 or f32",
                       QuantizationName(options.quantization));
  }
  TG_ASSIGN_OR_RETURN(const kernels::KernelTable* table, TableOf(options));
  auto base = std::shared_ptr<LoadedBase>(new LoadedBase(config, options, table, std::nullopt));
  base->PointInto(layout, weights);
  return std::shared_ptr<const LoadedBase>(std::move(base));
}

Result<const kernels::KernelTable*> TableOf(const ComputeOptions& options) {
  if (options.threads < 1 || options.threads > 1024) {
    return InvalidArgument("threads is {}: choose 1 to 1024", options.threads);
  }
  const kernels::KernelTable* table = kernels::TableFor(options.backend, options.dtype);
  if (table == nullptr && options.backend == kernels::Backend::kCuda) {
    return Unsupported("the model cannot run on a GPU here: {}", kernels::WhyNoCuda());
  }
  if (table == nullptr) {
    return Unsupported("this machine and build have no {} kernels: choose f32",
                       NameOf(options.dtype));
  }
  return table;
}

Result<std::shared_ptr<const LoadedBase>> LoadedBase::Load(const std::filesystem::path& dir,
                                                           const ComputeOptions& options) {
  TG_ASSIGN_OR_RETURN(const kernels::KernelTable* table, TableOf(options));
  TG_ASSIGN_OR_RETURN(ModelConfig config, LoadHfConfig(dir / "config.json"));
  TG_ASSIGN_OR_RETURN(tensor::SafetensorsFolder folder, tensor::SafetensorsFolder::Open(dir));
  try {
    auto base = std::shared_ptr<LoadedBase>(
        new LoadedBase(std::move(config), options, table, std::move(folder)));
    if (Status status = base->LoadAll(); !status.ok()) {
      return Unexpected(status.WithContext(dir.string()));
    }
    return std::shared_ptr<const LoadedBase>(std::move(base));
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("{}: the weights do not fit in memory: use a smaller model or bf16",
                             dir.string());
  } catch (const kernels::DeviceError& error) {
    return Unavailable("{}: {}", dir.string(), error.what());
  }
}

Result<std::shared_ptr<const Base>> Base::Load(const std::filesystem::path& dir,
                                               const ComputeOptions& options) {
  TG_ASSIGN_OR_RETURN(std::shared_ptr<const LoadedBase> base, LoadedBase::Load(dir, options));
  return std::shared_ptr<const Base>(std::move(base));
}

Result<kernels::Backend> ParseDevice(std::string_view text) {
  if (text == "cpu") return kernels::Backend::kCpu;
  if (text != "cuda") return InvalidArgument("'{}' is not a device: use cpu or cuda", text);
  if (kernels::TableFor(kernels::Backend::kCuda, DType::kF32) == nullptr) {
    return Unsupported("--device cuda: {}; use --device cpu", kernels::WhyNoCuda());
  }
  return kernels::Backend::kCuda;
}

Result<DType> ParseDType(std::string_view text, kernels::Backend backend) {
  const bool has_bf16 = kernels::TableFor(backend, DType::kBF16) != nullptr;
  if (text == "f32") return DType::kF32;
  if (text == "auto") return has_bf16 ? DType::kBF16 : DType::kF32;
  if (text != "bf16") {
    return InvalidArgument("'{}' is not a compute type: use auto, bf16 or f32", text);
  }
  if (!has_bf16) {
    return Unsupported(
        "bf16 needs a CPU with AVX512-BF16 or AMX, which this one lacks: use auto or f32");
  }
  return DType::kBF16;
}

}  // namespace tidegate::model
