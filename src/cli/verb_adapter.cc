// adapter inspect: what a PEFT folder holds, with the checks that loading makes. adapter merge:
// base and adapter as one base.
#include <filesystem>

#include <cmath>

#include "cli/verb.h"
#include "model/adapter.h"
#include "model/adapter_merge.h"
#include "model/config.h"

namespace tidegate::cli {
namespace {

using nlohmann::ordered_json;

struct Options {
  std::filesystem::path dir, base, out;
  std::string dtype;  // of merge; empty: as stored
};

std::string Text(const ordered_json& report) {
  std::string targets;
  for (const auto& name : report["target_modules"]) targets += " " + name.get<std::string>();
  if (report.contains("layers_to_transform")) {
    targets += " of layers " + report["layers_to_transform"].dump();
  }
  std::string patterns;
  for (const char* key : {"rank_pattern", "alpha_pattern"}) {
    if (report.contains(key)) patterns += fmt::format("{} {}\n", key, report[key].dump());
  }
  return fmt::format(
      "rank        {}\nalpha       {} (scale {:.4g})\n{}dropout     {}\ntargets    {}\n"
      "parameters  {} in {} tensors\nnorm A      {:.6g}\nnorm B      {:.6g}{}\n",
      report["r"].get<int64_t>(), report["lora_alpha"].get<double>(), report["scale"].get<double>(),
      patterns, report["lora_dropout"].get<double>(), targets, report["parameters"].get<int64_t>(),
      report["tensors"].get<int64_t>(), report["norm_a"].get<double>(),
      report["norm_b"].get<double>(),
      report["norm_b"].get<double>() == 0 ? " (an adapter that changes nothing)" : "");
}

Status Run(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(const model::ModelConfig base,
                      model::LoadHfConfig(options.base / "config.json"));
  TG_ASSIGN_OR_RETURN(const model::Adapter adapter, model::LoadPeft(options.dir, base));
  double squares[2] = {0, 0};
  int64_t tensors = 0, parameters = 0;
  for (const model::AdapterTensor& tensor : adapter.tensors()) {
    ++tensors;
    parameters += tensor.count();
    const auto values = adapter.parameters().subspan(static_cast<size_t>(tensor.offset),
                                                     static_cast<size_t>(tensor.count()));
    for (const float x : values) {
      squares[tensor.is_b] += static_cast<double>(x) * static_cast<double>(x);
    }
  }
  ordered_json report;
  report["r"] = adapter.lora().r;
  report["lora_alpha"] = adapter.lora().alpha;
  report["scale"] = adapter.lora().scale();
  if (const auto& lora = adapter.lora(); !lora.rank_pattern.empty()) {
    report["rank_pattern"] = ordered_json::parse(model::RankPatternJson(lora));
  }
  if (const auto& lora = adapter.lora(); !lora.alpha_pattern.empty()) {
    report["alpha_pattern"] = ordered_json::parse(model::AlphaPatternJson(lora));
  }
  report["lora_dropout"] = adapter.lora().dropout;
  report["target_modules"] = ordered_json::array();
  for (const model::Module module : adapter.lora().targets) {
    report["target_modules"].push_back(model::ModuleName(module));
  }
  if (!adapter.lora().layers.empty()) report["layers_to_transform"] = adapter.lora().layers;
  report["tensors"] = tensors;
  report["parameters"] = parameters;
  report["norm_a"] = std::sqrt(squares[0]);
  report["norm_b"] = std::sqrt(squares[1]);
  return Print(invocation, report, Text);
}

Status Merge(const Invocation& invocation, const Options& options) {
  const std::map<std::string, tensor::DType> dtypes = {
      {"bf16", tensor::DType::kBF16}, {"f32", tensor::DType::kF32}, {"f16", tensor::DType::kF16}};
  model::MergeOptions merge;
  if (!options.dtype.empty()) merge.dtype = dtypes.at(options.dtype);
  TG_ASSIGN_OR_RETURN(const model::MergeReport merged,
                      model::MergeAdapter(options.base, options.dir, options.out, merge));
  ordered_json report = {{"dir", options.out.native()},
                         {"tensors", merged.tensors},
                         {"merged", merged.merged},
                         {"weights", merged.weights}};
  return Print(invocation, report, [](const ordered_json& r) {
    return fmt::format("{}: {} tensors, of which the adapter changed {}\n",
                       r["dir"].get<std::string>(), r["tensors"].get<int64_t>(),
                       r["merged"].get<int64_t>());
  });
}

}  // namespace

void RegisterAdapterVerb(CLI::App& app, Invocation& invocation) {
  CLI::App* group = AddGroup(app, "adapter", "Look at LoRA adapters, merge and export them");
  auto options = std::make_shared<Options>();
  CLI::App* inspect =
      AddVerb(*group, "inspect", "What a PEFT folder holds, checked against its base", invocation,
              [&invocation, options] { return Run(invocation, *options); });
  inspect->add_option("DIR", options->dir, "PEFT folder")->required();
  inspect->add_option("--base", options->base, "HF folder of the base it belongs to")->required();
  CLI::App* merge =
      AddVerb(*group, "merge", "Make a base of a base and an adapter, an HF folder", invocation,
              [&invocation, options] { return Merge(invocation, *options); });
  merge->add_option("DIR", options->dir, "PEFT folder")->required();
  merge->add_option("--base", options->base, "HF folder of the base it belongs to")->required();
  merge->add_option("--out", options->out, "Folder to make; must not exist, or be empty")
      ->required();
  merge->add_option("--dtype", options->dtype, "bf16, f32 or f16; default: as the base is stored")
      ->check(CLI::IsMember({"bf16", "f32", "f16"}));
  RegisterAdapterExport(*group, invocation);
}

}  // namespace tidegate::cli
