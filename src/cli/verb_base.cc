// base inspect: what a base folder holds, with the checks that training makes before it loads.
// base import: an HF folder from a GGUF file. Both look for implants with --check.
#include <filesystem>
#include <map>

#include "bases/implant_check.h"
#include "cli/verb.h"
#include "crypto/base_hash.h"
#include "model/base_import.h"
#include "model/config.h"
#include "model/tokenizer.h"
#include "model/weight_layout.h"
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
      "tensors    {}, {:.1f} MiB\nbase hash   {}\n",
      report["model_type"].get<std::string>(), report["parameters"].get<int64_t>(),
      report["num_hidden_layers"].get<int64_t>(), report["hidden_size"].get<int64_t>(),
      report["intermediate_size"].get<int64_t>(), report["num_attention_heads"].get<int64_t>(),
      report["head_dim"].get<int64_t>(), report["num_key_value_heads"].get<int64_t>(),
      report["vocab_size"].get<int64_t>(), report["tokenizer_size"].get<int64_t>(),
      report["tie_word_embeddings"].get<bool>() ? "tied" : "of its own",
      report["max_position_embeddings"].get<int64_t>(), dtypes,
      static_cast<double>(report["tensors"]["bytes"].get<uint64_t>()) / (1024.0 * 1024.0),
      report["base_hash"].get<std::string>());
}

// Adds what a look for implants found to the report.
Status AddCheck(const std::filesystem::path& dir, ordered_json* report) {
  TG_ASSIGN_OR_RETURN(const bases::ImplantReport found, bases::CheckForImplants(dir));
  ordered_json& check = (*report)["implant_check"];
  check["is"] = bases::kImplantCheckIs;
  check["tensors"] = found.tensors;
  check["findings"] = ordered_json::array();
  for (const bases::ImplantFinding& finding : found.findings) {
    check["findings"].push_back(
        {{"tensor", finding.tensor}, {"rule", finding.rule}, {"what", finding.what}});
  }
  return OkStatus();
}

std::string CheckText(const ordered_json& report) {
  if (!report.contains("implant_check")) return "";
  const auto& check = report["implant_check"];
  std::string text =
      fmt::format("\nimplants    {} findings in {} tensors; {}\n", check["findings"].size(),
                  check["tensors"].get<size_t>(), check["is"].get<std::string>());
  for (const auto& finding : check["findings"]) {
    text += fmt::format("  {}  {}: {}\n", finding["rule"].get<std::string>(),
                        finding["tensor"].get<std::string>(), finding["what"].get<std::string>());
  }
  return text;
}

// After the report: findings are for a person to look at before the base is used.
Status CheckVerdict(const ordered_json& report) {
  if (!report.contains("implant_check") || report["implant_check"]["findings"].empty()) {
    return OkStatus();
  }
  return FailedPrecondition("{} findings: look at them before this base is used",
                            report["implant_check"]["findings"].size());
}

Status Inspect(const Invocation& invocation, const std::filesystem::path& dir, bool check) {
  TG_ASSIGN_OR_RETURN(const model::ModelConfig config, model::LoadHfConfig(dir / "config.json"));
  TG_ASSIGN_OR_RETURN(const auto weights, tensor::SafetensorsFolder::Open(dir));
  if (Status status = model::CheckWeights(config, weights); !status.ok()) {
    return status.WithContext(dir.native());
  }
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
  TG_ASSIGN_OR_RETURN(const Digest hash, crypto::BaseHash(dir));
  report["base_hash"] = ToHex(hash);
  if (check) TG_RETURN_IF_ERROR(AddCheck(dir, &report));
  TG_RETURN_IF_ERROR(
      Print(invocation, report, [](const ordered_json& r) { return Text(r) + CheckText(r); }));
  return CheckVerdict(report);
}

struct ImportArguments {
  std::filesystem::path file, dir;
  std::string dtype = "bf16";
  bool check = false;
};

std::string ImportText(const ordered_json& report) {
  std::string types;
  for (const auto& [name, count] : report["source_types"].items()) {
    types += fmt::format(" {} {}", count.get<int64_t>(), name);
  }
  return fmt::format(
      "{}: {} tensors, {} weights ({}), from{}\n{} tokens, {} chat template\n"
      "base hash {}\n",
      report["dir"].get<std::string>(), report["tensors"].get<int64_t>(),
      report["weights"].get<int64_t>(), report["dtype"].get<std::string>(), types,
      report["tokens"].get<int64_t>(), report["chat_template"].get<bool>() ? "with a" : "no",
      report["base_hash"].get<std::string>());
}

Status Import(const Invocation& invocation, const ImportArguments& arguments) {
  const std::map<std::string, tensor::DType> dtypes = {
      {"bf16", tensor::DType::kBF16}, {"f32", tensor::DType::kF32}, {"f16", tensor::DType::kF16}};
  TG_ASSIGN_OR_RETURN(
      const model::ImportReport imported,
      model::ImportGguf(arguments.file, arguments.dir, {.dtype = dtypes.at(arguments.dtype)}));
  ordered_json report;
  report["dir"] = arguments.dir.native();
  report["dtype"] = arguments.dtype;
  report["tensors"] = imported.tensors;
  report["weights"] = imported.weights;
  report["source_types"] = imported.source_types;
  report["tokens"] = imported.tokens;
  report["chat_template"] = imported.has_chat_template;
  TG_ASSIGN_OR_RETURN(const Digest hash, crypto::BaseHash(arguments.dir));
  report["base_hash"] = ToHex(hash);
  if (arguments.check) TG_RETURN_IF_ERROR(AddCheck(arguments.dir, &report));
  TG_RETURN_IF_ERROR(Print(invocation, report,
                           [](const ordered_json& r) { return ImportText(r) + CheckText(r); }));
  return CheckVerdict(report);
}

}  // namespace

void RegisterBaseVerb(CLI::App& app, Invocation& invocation) {
  CLI::App* group = AddGroup(app, "base", "Look at base models, import, publish and fetch them");
  auto dir = std::make_shared<std::filesystem::path>();
  auto check = std::make_shared<bool>(false);
  const char* check_help = "Look for implants that make weights leak data (a heuristic)";
  CLI::App* inspect =
      AddVerb(*group, "inspect", "What a base folder holds, checked", invocation,
              [&invocation, dir, check] { return Inspect(invocation, *dir, *check); });
  inspect->add_flag("--check", *check, check_help);
  inspect->add_option("DIR", *dir, "HF folder: config.json, *.safetensors, tokenizer.json")
      ->required();

  auto arguments = std::make_shared<ImportArguments>();
  CLI::App* import = AddVerb(*group, "import", "Make an HF folder of a GGUF file", invocation,
                             [&invocation, arguments] { return Import(invocation, *arguments); });
  import->add_option("FILE", arguments->file, "GGUF file of a Llama model")->required();
  import->add_option("DIR", arguments->dir, "Folder to make")->required();
  import->add_option("--dtype", arguments->dtype, "Of the weights: bf16, f32 or f16")
      ->check(CLI::IsMember({"bf16", "f32", "f16"}))
      ->capture_default_str();
  import->add_flag("--check", arguments->check, check_help);
  RegisterBasePublish(*group, invocation);
  RegisterBasePull(*group, invocation);
}

}  // namespace tidegate::cli
