#include "pretrain/shard.h"

#include <cmath>
#include <numbers>
#include <vector>

#include "base/rng.h"
#include "model/weight_layout.h"
#include "tensor/safetensors.h"

namespace tidegate::pretrain {
namespace {

constexpr double kInitializerRange = 0.02;

// Element `index` of a matrix: one of the two normal numbers of its pair (Box and Muller).
float NormalAt(uint64_t seed, uint32_t tensor, int64_t index) {
  const auto words = RandomWords(seed, RngPurpose::kInit, tensor, static_cast<uint64_t>(index / 2));
  const double u = (static_cast<double>(words[0]) + 1.0) * 0x1p-32;  // above 0
  const double angle = 2.0 * std::numbers::pi * static_cast<double>(words[1]) * 0x1p-32;
  const double radius = std::sqrt(-2.0 * std::log(u));
  return static_cast<float>(kInitializerRange * radius *
                            (index % 2 == 0 ? std::cos(angle) : std::sin(angle)));
}

void Put(const model::FullModel& model, const Slice& slice, const std::vector<float>& values,
         Shard* shard) {
  model.FromHost(reinterpret_cast<float*>(shard->masters.data()) + slice.local_begin, values.data(),
                 values.size() * sizeof(float));
}

}  // namespace

Result<Shard> NewShard(const model::FullModel& model, const Partition& partition) {
  const size_t bytes = static_cast<size_t>(partition.local_count()) * sizeof(float);
  Shard shard;
  try {
    for (model::AlignedBuffer* buffer : {&shard.masters, &shard.m, &shard.v}) {
      *buffer = model::AlignedBuffer(bytes, model.table().device);
      model.Zero(buffer->data(), bytes);
    }
  } catch (const std::bad_alloc&) {
    return ResourceExhausted(
        "masters and moments of {} parameters do not fit in memory: use more ranks or a smaller "
        "model",
        partition.local_count());
  }
  return shard;
}

void InitialiseMasters(const model::FullModel& model, const Partition& partition, uint64_t seed,
                       Shard* shard) {
  std::vector<float> values;
  for (const Slice& slice : partition.Slices()) {
    const model::FlatTensor& tensor = model.layout().tensors[slice.tensor];
    const bool bias = tensor.name.ends_with(".bias");
    values.assign(static_cast<size_t>(slice.end - slice.begin), bias ? 0.0f : 1.0f);
    if (tensor.shape.size() > 1) {
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = NormalAt(seed, static_cast<uint32_t>(slice.tensor),
                             slice.begin + static_cast<int64_t>(i));
      }
    }
    Put(model, slice, values, shard);
  }
}

Status LoadMasters(const std::filesystem::path& base, const model::FullModel& model,
                   const Partition& partition, Shard* shard) {
  TG_ASSIGN_OR_RETURN(const tensor::SafetensorsFolder folder,
                      tensor::SafetensorsFolder::Open(base));
  TG_RETURN_IF_ERROR(CheckWeights(model.config(), folder));
  std::vector<float> values;
  for (const Slice& slice : partition.Slices()) {
    const std::string& name = model.layout().tensors[slice.tensor].name;
    TG_ASSIGN_OR_RETURN(const tensor::TensorView* view, folder.Get(name));
    values.resize(static_cast<size_t>(slice.end - slice.begin));
    const size_t size = tensor::DTypeSize(view->dtype);
    tensor::ToFloats(view->dtype, view->bytes.data() + static_cast<size_t>(slice.begin) * size,
                     values);
    for (const float value : values) {
      if (std::isfinite(value)) continue;
      return InvalidArgument(
          "tensor {} of {} holds NaN or Inf: the file is damaged, fetch it again", name,
          base.native());
    }
    Put(model, slice, values, shard);
  }
  return OkStatus();
}

}  // namespace tidegate::pretrain
