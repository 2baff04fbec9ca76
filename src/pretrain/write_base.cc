#include "pretrain/write_base.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/file.h"
#include "model/new_folder.h"
#include "tensor/safetensors.h"

namespace tidegate::pretrain {
namespace {

constexpr size_t kPiece = 1 << 20;  // elements converted at once

Status AppendTensor(const model::FlatTensor& tensor, std::span<const float> masters,
                    tensor::DType dtype, tensor::SafetensorsWriter* writer) {
  Bytes bytes;
  const auto count = static_cast<size_t>(tensor.count);
  const auto values = masters.subspan(static_cast<size_t>(tensor.offset), count);
  for (size_t at = 0; at < count; at += kPiece) {
    const auto piece = values.subspan(at, std::min(kPiece, count - at));
    for (const float value : piece) {
      if (!std::isfinite(value)) {
        return FailedPrecondition("tensor {} holds NaN or Inf: the base is not written",
                                  tensor.name);
      }
    }
    bytes.resize(piece.size() * tensor::DTypeSize(dtype));
    tensor::FromFloats(dtype, piece, bytes.data());
    TG_RETURN_IF_ERROR(writer->Append(tensor.name, bytes));
  }
  return OkStatus();
}

}  // namespace

Status WriteBase(const std::filesystem::path& target, const model::ModelConfig& config,
                 const model::FlatLayout& layout, std::span<const float> masters,
                 const std::string& dtype, const std::filesystem::path& tokenizer) {
  const bool half = dtype == "bf16";
  const tensor::DType stored = half ? tensor::DType::kBF16 : tensor::DType::kF32;
  TG_RETURN_IF_ERROR(model::NewFolder::CheckTarget(target));
  TG_ASSIGN_OR_RETURN(model::NewFolder folder, model::NewFolder::Create(target));
  std::vector<tensor::TensorSpec> specs;
  for (const model::FlatTensor& t : layout.tensors) specs.push_back({t.name, stored, t.shape});
  TG_ASSIGN_OR_RETURN(auto writer,
                      tensor::SafetensorsWriter::Create(folder.path() / "model.safetensors",
                                                        std::move(specs), {{"format", "pt"}}));
  const std::vector<tensor::TensorSpec> order = writer.order();
  for (const tensor::TensorSpec& spec : order) {
    const auto tensor = std::find_if(layout.tensors.begin(), layout.tensors.end(),
                                     [&](const auto& t) { return t.name == spec.name; });
    TG_RETURN_IF_ERROR(AppendTensor(*tensor, masters, stored, &writer));
  }
  TG_RETURN_IF_ERROR(writer.Finish());
  if (!tokenizer.empty()) {
    TG_RETURN_IF_ERROR(model::CopySmallFiles(tokenizer, folder.path()));
  }
  model::ModelConfig written = config;
  written.dtype = half ? "bfloat16" : "float32";
  TG_RETURN_IF_ERROR(WriteFileDurably(folder.path() / "config.json", AsBytes(ToHfJson(written))));
  return folder.Publish();
}

}  // namespace tidegate::pretrain
