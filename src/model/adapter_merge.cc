#include "model/adapter_merge.h"

#include <cmath>
#include <map>
#include <vector>

#include "base/file.h"
#include "model/adapter.h"
#include "model/new_folder.h"
#include "model/weight_layout.h"
#include "tensor/safetensors.h"

namespace tidegate::model {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kRowsAtOnce = 64;

// A and B of one module of rank r.
struct Factors {
  int64_t r = 0;
  double scale = 0;
  const float* a = nullptr;  // [r, in]
  const float* b = nullptr;  // [out, r]
};

// By the name of the weight that they change.
std::map<std::string, Factors> FactorsOf(const Adapter& adapter) {
  std::map<std::string, Factors> out;
  for (const AdapterTensor& tensor : adapter.tensors()) {
    const std::string name =
        fmt::format("model.layers.{}.{}.weight", tensor.layer, ModulePath(tensor.module));
    const float* values = adapter.parameters().data() + tensor.offset;
    Factors& factors = out[name];
    (tensor.is_b ? factors.b : factors.a) = values;
    factors.r = tensor.is_b ? tensor.cols : tensor.rows;
    factors.scale = tensor.scale;
  }
  return out;
}

// row[k] += scale · Σ_j b[j] a[j][k]
void AddRow(const Factors& factors, int64_t row, std::span<float> values) {
  const int64_t r = factors.r;
  std::vector<double> sum(values.begin(), values.end());
  for (int64_t j = 0; j < r; ++j) {
    const double b = factors.scale * static_cast<double>(factors.b[row * r + j]);
    const float* a = factors.a + j * static_cast<int64_t>(values.size());
    for (size_t k = 0; k < sum.size(); ++k) sum[k] += b * static_cast<double>(a[k]);
  }
  for (size_t k = 0; k < sum.size(); ++k) values[k] = static_cast<float>(sum[k]);
}

Status CheckRounded(tensor::DType dtype, ByteSpan bytes, const std::string& name) {
  std::vector<float> back(bytes.size() / tensor::DTypeSize(dtype));
  tensor::ToFloats(dtype, bytes.data(), back);
  for (const float value : back) {
    if (!std::isfinite(value)) {
      return InvalidArgument(
          "tensor {} has a weight that is not finite, or is too large for {}; is the base whole, "
          "and would --dtype f32 do?",
          name, tensor::DTypeName(dtype));
    }
  }
  return OkStatus();
}

Status WriteMerged(const tensor::TensorView& view, const tensor::TensorSpec& spec,
                   const Factors* factors, tensor::SafetensorsWriter* writer) {
  const int64_t columns = spec.shape.back();
  const int64_t rows = view.num_elements() / columns;
  const size_t in_size = tensor::DTypeSize(view.dtype), out_size = tensor::DTypeSize(spec.dtype);
  std::vector<float> values;
  Bytes bytes;
  for (int64_t begin = 0; begin < rows; begin += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, rows - begin);
    values.resize(static_cast<size_t>(count * columns));
    tensor::ToFloats(view.dtype, view.bytes.data() + static_cast<size_t>(begin * columns) * in_size,
                     values);
    for (int64_t i = 0; factors != nullptr && i < count; ++i) {
      AddRow(*factors, begin + i,
             std::span(values).subspan(static_cast<size_t>(i * columns),
                                       static_cast<size_t>(columns)));
    }
    bytes.resize(values.size() * out_size);
    tensor::FromFloats(spec.dtype, values, bytes.data());
    TG_RETURN_IF_ERROR(CheckRounded(spec.dtype, bytes, spec.name));
    TG_RETURN_IF_ERROR(writer->Append(spec.name, bytes));
  }
  return OkStatus();
}

const char* TorchName(tensor::DType dtype) {
  return dtype == tensor::DType::kF32    ? "float32"
         : dtype == tensor::DType::kBF16 ? "bfloat16"
                                         : "float16";
}

}  // namespace

Result<MergeReport> MergeAdapter(const fs::path& base_dir, const fs::path& adapter_dir,
                                 const fs::path& out_dir, const MergeOptions& options) {
  TG_RETURN_IF_ERROR(NewFolder::CheckTarget(out_dir));
  TG_ASSIGN_OR_RETURN(ModelConfig config, LoadHfConfig(base_dir / "config.json"));
  TG_ASSIGN_OR_RETURN(const auto folder, tensor::SafetensorsFolder::Open(base_dir));
  if (Status status = CheckWeights(config, folder); !status.ok()) {
    return Unexpected(status.WithContext(base_dir.native()));
  }
  TG_ASSIGN_OR_RETURN(const Adapter adapter, LoadPeft(adapter_dir, config));
  const std::map<std::string, Factors> factors = FactorsOf(adapter);
  MergeReport report;
  std::vector<tensor::TensorSpec> specs;
  for (const WeightSpec& weight : WeightsOf(config)) {
    const tensor::TensorView& view = *folder.Find(weight.name);
    specs.push_back({weight.name, options.dtype.value_or(view.dtype), weight.shape});
    report.weights += view.num_elements();
  }
  if (options.dtype) config.dtype = TorchName(*options.dtype);
  TG_ASSIGN_OR_RETURN(NewFolder staging, NewFolder::Create(out_dir));
  TG_ASSIGN_OR_RETURN(auto writer,
                      tensor::SafetensorsWriter::Create(staging.path() / "model.safetensors",
                                                        std::move(specs), {{"format", "pt"}}));
  const std::vector<tensor::TensorSpec> order = writer.order();
  for (const tensor::TensorSpec& spec : order) {
    const auto found = factors.find(spec.name);
    const Factors* changed = found == factors.end() ? nullptr : &found->second;
    TG_RETURN_IF_ERROR(WriteMerged(*folder.Find(spec.name), spec, changed, &writer));
    ++report.tensors;
    report.merged += changed != nullptr;
  }
  TG_RETURN_IF_ERROR(writer.Finish());
  TG_RETURN_IF_ERROR(CopySmallFiles(base_dir, staging.path()));
  TG_RETURN_IF_ERROR(WriteFileDurably(staging.path() / "config.json", AsBytes(ToHfJson(config))));
  TG_RETURN_IF_ERROR(staging.Publish());
  return report;
}

}  // namespace tidegate::model
