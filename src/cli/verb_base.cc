// base inspect: what a base folder holds, with the checks that training makes before it loads.
#include <filesystem>

#include "cli/verb.h"
#include "model/config.h"
#include "model/tokenizer.h"
#include "tensor/safetensors.h"

namespace tidegate::cli {
namespace {

using nlohmann::ordered_json;

Result<ordered_json> TensorFacts(const std::filesystem::path& dir) {
  TG_ASSIGN_OR_RETURN(const tensor::SafetensorsFolder folder, tensor::SafetensorsFolder::Open(dir));
  ordered_json facts;
  uint64_t bytes = 0;
  int64_t elements = 0;
  std::map<std::string, int64_t> dtypes;
  const std::vector<std::string> names = folder.names();
  for (const std::string& name : names) {
    TG_ASSIGN_OR_RETURN(const tensor::TensorView* view, folder.Get(name));
    bytes += view->bytes.size();
    elements += view->num_elements();
    ++dtypes[std::string(tensor::DTypeName(view->dtype))];
  }
  facts["count"] = names.size();
  facts["elements"] = elements;
  facts["bytes"] = bytes;
  facts["dtypes"] = dtypes;
  return facts;
}

std::string Text(const ordered_json& report) {
  std::string dtypes;
  for (const auto& [name, count] : report["tensors"]["dtypes"].items()) {
    dtypes += fmt::format(" {} {}", count.get<int64_t>(), name);
  }
  return fmt::format(
      "model       {}, {} parameters\nlayers      {}, hidden {}, inner {}\n"
      "attention   {} heads of {}, {} for keys and values\n"
      "vocabulary  {} ({} in the tokenizer), head {}\npositions   {}\n"
      "tensors    {}, {:.1f} MiB\n",
      report["model_type"].get<std::string>(), report["parameters"].get<int64_t>(),
      report["num_hidden_layers"].get<int64_t>(), report["hidden_size"].get<int64_t>(),
      report["intermediate_size"].get<int64_t>(), report["num_attention_heads"].get<int64_t>(),
      report["head_dim"].get<int64_t>(), report["num_key_value_heads"].get<int64_t>(),
      report["vocab_size"].get<int64_t>(), report["tokenizer_size"].get<int64_t>(),
      report["tie_word_embeddings"].get<bool>() ? "tied" : "of its own",
      report["max_position_embeddings"].get<int64_t>(), dtypes,
      static_cast<double>(report["tensors"]["bytes"].get<uint64_t>()) / (1024.0 * 1024.0));
}

Status Inspect(const Invocation& invocation, const std::filesystem::path& dir) {
  TG_ASSIGN_OR_RETURN(const model::ModelConfig config, model::LoadHfConfig(dir / "config.json"));
  TG_ASSIGN_OR_RETURN(const model::Tokenizer tokenizer,
                      model::Tokenizer::Load(dir / "tokenizer.json"));
  if (tokenizer.vocab_size() > config.vocab_size) {
    return InvalidArgument("{}: the tokenizer has {} ids, the model only {}", dir.native(),
                           tokenizer.vocab_size(), config.vocab_size);
  }
  ordered_json report;
  report["model_type"] = config.model_type;
  report["parameters"] = config.num_parameters();
  report["num_hidden_layers"] = config.num_layers;
  report["hidden_size"] = config.hidden_size;
  report["intermediate_size"] = config.intermediate_size;
  report["num_attention_heads"] = config.num_heads;
  report["num_key_value_heads"] = config.num_kv_heads;
  report["head_dim"] = config.head_dim;
  report["vocab_size"] = config.vocab_size;
  report["tokenizer_size"] = tokenizer.vocab_size();
  report["max_position_embeddings"] = config.max_positions;
  report["tie_word_embeddings"] = config.tied;
  TG_ASSIGN_OR_RETURN(report["tensors"], TensorFacts(dir));
  return Print(invocation, report, Text);
}

}  // namespace

void RegisterBaseVerb(CLI::App& app, Invocation& invocation) {
  CLI::App* group = AddGroup(app, "base", "Look at base models");
  auto dir = std::make_shared<std::filesystem::path>();
  CLI::App* inspect = AddVerb(*group, "inspect", "What a base folder holds, checked", invocation,
                              [&invocation, dir] { return Inspect(invocation, *dir); });
  inspect->add_option("DIR", *dir, "HF folder: config.json, *.safetensors, tokenizer.json")
      ->required();
}

}  // namespace tidegate::cli
