#include <algorithm>
#include <cmath>
#include <vector>

#include "model/base_import_parts.h"

namespace tidegate::model {
namespace {

constexpr int64_t kPieceElements = 1 << 18;

// Where a tensor of the folder comes from.
struct Source {
  std::string name;  // in the folder
  std::string gguf_name;
  tensor::Shape shape;
  int64_t permuted_heads = 0;  // rows are in the converter's order for so many heads; 0: in ours
};

std::vector<Source> Sources(const ModelConfig& c) {
  std::vector<Source> out = {
      {"model.embed_tokens.weight", "token_embd.weight", {c.vocab_size, c.hidden_size}},
      {"model.norm.weight", "output_norm.weight", {c.hidden_size}}};
  if (!c.tied) {
    out.push_back({"lm_head.weight", "output.weight", {c.vocab_size, c.hidden_size}});
  }
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    const std::string to = fmt::format("model.layers.{}.", layer);
    const std::string from = fmt::format("blk.{}.", layer);
    // llama.cpp's converter reorders the rows of q and k for the Llama family alone.
    const bool reordered = c.model_type == "llama";
    const auto add = [&](std::string_view name, std::string_view gguf_name, tensor::Shape shape,
                         int64_t heads = 0) {
      out.push_back({fmt::format("{}{}.weight", to, name),
                     fmt::format("{}{}.weight", from, gguf_name), std::move(shape), heads});
    };
    add("input_layernorm", "attn_norm", {c.hidden_size});
    add("post_attention_layernorm", "ffn_norm", {c.hidden_size});
    add("self_attn.q_proj", "attn_q", {c.q_size(), c.hidden_size}, reordered ? c.num_heads : 0);
    add("self_attn.k_proj", "attn_k", {c.kv_size(), c.hidden_size}, reordered ? c.num_kv_heads : 0);
    add("self_attn.v_proj", "attn_v", {c.kv_size(), c.hidden_size});
    add("self_attn.o_proj", "attn_output", {c.hidden_size, c.q_size()});
    add("mlp.gate_proj", "ffn_gate", {c.intermediate_size, c.hidden_size});
    add("mlp.up_proj", "ffn_up", {c.intermediate_size, c.hidden_size});
    add("mlp.down_proj", "ffn_down", {c.hidden_size, c.intermediate_size});
    if (c.qk_norm) {
      add("self_attn.q_norm", "attn_q_norm", {c.head_dim});
      add("self_attn.k_norm", "attn_k_norm", {c.head_dim});
    }
    if (!c.qkv_bias) continue;
    for (const char* module : {"q", "k", "v"}) {
      const int64_t size = *module == 'q' ? c.q_size() : c.kv_size();
      out.push_back({fmt::format("{}self_attn.{}_proj.bias", to, module),
                     fmt::format("{}attn_{}.bias", from, module),
                     {size}});
    }
  }
  return out;
}

// A tensor that nothing reads would change what the model computes: it is refused.
Status CheckAllTensorsKnown(const tensor::GgufFile& gguf, const std::vector<Source>& sources,
                            std::string_view what) {
  std::vector<std::string_view> known;
  known.reserve(sources.size());
  for (const Source& source : sources) known.push_back(source.gguf_name);
  std::sort(known.begin(), known.end());
  for (const tensor::GgufTensor& tensor : gguf.tensors()) {
    if (std::binary_search(known.begin(), known.end(), tensor.name)) continue;
    return Unsupported(
        "{}: the tensor \"{}\" is not part of a model of its architecture as this project computes "
        "it; import "
        "the model's Hugging Face folder if there is one",
        what, tensor.name);
  }
  return OkStatus();
}

// The converter stores row (head, half, i) of q and k at (head, i, half).
int64_t SourceRow(int64_t row, int64_t rows, int64_t heads) {
  if (heads == 0) return row;
  const int64_t head_dim = rows / heads, half_dim = head_dim / 2;
  const int64_t head = row / head_dim, at = row % head_dim;
  return head * head_dim + (at % half_dim) * 2 + at / half_dim;
}

Status CheckValues(std::span<const float> values, tensor::DType dtype, const Source& source,
                   std::string_view what) {
  // 65504 is the largest f16; from 65520 on values round to infinity.
  const float limit = dtype == tensor::DType::kF16    ? 65520.0f
                      : dtype == tensor::DType::kBF16 ? 0x1.ffp127f
                                                      : INFINITY;
  for (const float value : values) {
    if (!std::isfinite(value)) {
      return DataLoss("{}: the tensor \"{}\" has a weight that is not finite", what,
                      source.gguf_name);
    }
    if (std::fabs(value) >= limit) {
      return InvalidArgument(
          "{}: the tensor \"{}\" has the weight {}, too large for {}; import "
          "with --dtype f32",
          what, source.gguf_name, value, tensor::DTypeName(dtype));
    }
  }
  return OkStatus();
}

Status WriteTensor(const tensor::GgufTensor& from, const Source& source, tensor::DType dtype,
                   std::string_view what, tensor::SafetensorsWriter* writer) {
  const int64_t columns = source.shape.back();
  const int64_t rows = source.shape.size() == 1 ? 1 : source.shape[0];
  const int64_t piece_rows = std::max<int64_t>(1, kPieceElements / columns);
  std::vector<float> values;
  std::vector<uint8_t> bytes;
  for (int64_t begin = 0; begin < rows; begin += piece_rows) {
    const int64_t count = std::min(piece_rows, rows - begin);
    values.resize(static_cast<size_t>(count * columns));
    const auto row_values = [&](int64_t row) {
      return std::span(values).subspan(static_cast<size_t>(row * columns),
                                       static_cast<size_t>(columns));
    };
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = SourceRow(begin + i, rows, source.permuted_heads);
      TG_RETURN_IF_ERROR(tensor::Dequantize(from, row * columns, row_values(i)));
    }
    TG_RETURN_IF_ERROR(CheckValues(values, dtype, source, what));
    bytes.resize(values.size() * tensor::DTypeSize(dtype));
    tensor::FromFloats(dtype, values, bytes.data());
    TG_RETURN_IF_ERROR(writer->Append(source.name, bytes));
  }
  return OkStatus();
}

}  // namespace

Status WriteGgufWeights(const tensor::GgufFile& gguf, const ModelConfig& config,
                        tensor::DType dtype, const std::filesystem::path& path,
                        std::string_view what, ImportReport* report) {
  const std::vector<Source> sources = Sources(config);
  TG_RETURN_IF_ERROR(CheckAllTensorsKnown(gguf, sources, what));
  std::map<std::string_view, const Source*> by_name;
  std::vector<tensor::TensorSpec> specs;
  for (const Source& source : sources) {
    TG_ASSIGN_OR_RETURN(const tensor::GgufTensor* from, gguf.Get(source.gguf_name));
    if (from->shape != source.shape) {
      return DataLoss("{}: the tensor \"{}\" has shape {}, the metadata says {}", what,
                      source.gguf_name, tensor::ShapeText(from->shape),
                      tensor::ShapeText(source.shape));
    }
    const auto* type = tensor::FindGgmlType(static_cast<uint32_t>(from->type));
    ++report->source_types[std::string(type->name)];
    ++report->tensors;
    report->weights += from->num_elements();
    by_name[source.name] = &source;
    specs.push_back({source.name, dtype, source.shape});
  }
  // transformers refuses a file without this metadata.
  TG_ASSIGN_OR_RETURN(auto writer,
                      tensor::SafetensorsWriter::Create(path, specs, {{"format", "pt"}}));
  const std::vector<tensor::TensorSpec> order = writer.order();
  for (const tensor::TensorSpec& spec : order) {
    const Source& source = *by_name.at(spec.name);
    TG_RETURN_IF_ERROR(WriteTensor(*gguf.Find(source.gguf_name), source, dtype, what, &writer));
  }
  return writer.Finish();
}

}  // namespace tidegate::model
