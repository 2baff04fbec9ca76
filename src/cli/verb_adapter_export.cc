// adapter export: a PEFT folder as a file of another tool.
#include "base/file.h"
#include "cli/verb.h"
#include "model/adapter_gguf.h"
#include "model/config.h"

namespace tidegate::cli {
namespace {

using nlohmann::ordered_json;

struct Options {
  std::filesystem::path dir, base, out;
};

Status Run(const Invocation& invocation, const Options& options) {
  if (options.out.extension() != ".gguf") {
    return InvalidArgument("--out {} does not end in .gguf, the one format there is",
                           options.out.native());
  }
  std::error_code error;
  if (std::filesystem::exists(options.out, error)) {
    return AlreadyExists("--out {} exists: choose another name, or remove it first",
                         options.out.native());
  }
  TG_ASSIGN_OR_RETURN(const model::ModelConfig base,
                      model::LoadHfConfig(options.base / "config.json"));
  TG_ASSIGN_OR_RETURN(const model::Adapter adapter, model::LoadPeft(options.dir, base));
  const Bytes bytes = model::EncodeGgufAdapter(base, adapter);
  TG_RETURN_IF_ERROR(WriteFileDurably(options.out, bytes));
  const ordered_json report = {{"file", options.out.native()},
                               {"bytes", bytes.size()},
                               {"r", adapter.lora().r},
                               {"scale", adapter.lora().scale()}};
  return Print(invocation, report, [](const ordered_json& r) {
    return fmt::format("{}: {} bytes; llama-cli -m BASE.gguf --lora takes it\n",
                       r["file"].get<std::string>(), r["bytes"].get<size_t>());
  });
}

}  // namespace

void RegisterAdapterExport(CLI::App& group, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* verb =
      AddVerb(group, "export", "Write a PEFT folder as a GGUF file, as llama.cpp takes it",
              invocation, [&invocation, options] { return Run(invocation, *options); });
  verb->add_option("DIR", options->dir, "PEFT folder")->required();
  verb->add_option("--base", options->base, "HF folder of the base it belongs to")->required();
  verb->add_option("--out", options->out, "File to make, FILE.gguf")->required();
}

}  // namespace tidegate::cli
