#include "cli/base_memory.h"

#include <fmt/format.h>

#include <tuple>

#include "kernels/table.h"
#include "model/memory_plan.h"

namespace tidegate::cli {
namespace {

using model::Quantization;
using nlohmann::ordered_json;

struct Way {
  const char* flags;
  bool checkpointing;
  Quantization quantization;
};

constexpr Way kWays[] = {
    {"", false, Quantization::kNone},
    {"--gradient_checkpointing", true, Quantization::kNone},
    {"--load_in_8bit --gradient_checkpointing", true, Quantization::kInt8},
    {"--load_in_4bit --gradient_checkpointing", true, Quantization::kNf4Double},
};

double MiB(uint64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

ordered_json JsonOf(const Way& way, std::string_view dtype, const model::MemoryPlan& plan) {
  return {{"flags", way.flags},
          {"dtype", dtype},
          {"weights_mib", MiB(plan.weights)},
          {"loading_mib", MiB(plan.loading)},
          {"adapter_mib", MiB(plan.adapter)},
          {"activations_mib", MiB(plan.activations)},
          {"scratch_mib", MiB(plan.scratch)},
          {"program_mib", MiB(plan.program)},
          {"total_mib", MiB(plan.total())}};
}

// As the engine takes a micro-batch.
constexpr int64_t kMaxTokens = 1 << 24;

Status CheckShape(const RunShape& shape) {
  const std::tuple<const char*, int64_t, int64_t> options[] = {
      {"max_length", shape.max_length, kMaxTokens},
      {"per_device_train_batch_size", shape.per_device_train_batch_size, kMaxTokens},
      {"lora_r", shape.lora_r, model::kMaxLoraRank}};
  for (const auto& [name, value, most] : options) {
    if (value < 1 || value > most) {
      return InvalidArgument("--{} {}: choose 1 to {}", name, value, most);
    }
  }
  if (shape.max_length * shape.per_device_train_batch_size > kMaxTokens) {
    return InvalidArgument(
        "--max_length {} times --per_device_train_batch_size {} is over {} tokens",
        shape.max_length, shape.per_device_train_batch_size, kMaxTokens);
  }
  return OkStatus();
}

}  // namespace

Result<ordered_json> BaseMemory(const std::filesystem::path& base, const RunShape& shape) {
  TG_RETURN_IF_ERROR(CheckShape(shape));
  TG_ASSIGN_OR_RETURN(const model::ModelConfig config, model::LoadHfConfig(base / "config.json"));
  const bool bf16 = kernels::TableFor(kernels::Backend::kCpu, kernels::DType::kBF16) != nullptr;
  model::MemoryQuestion question;
  question.compute.dtype = bf16 ? kernels::DType::kBF16 : kernels::DType::kF32;
  question.lora.r = shape.lora_r;
  TG_ASSIGN_OR_RETURN(question.lora.targets, model::ParseTargets("all-linear"));
  question.rows = shape.max_length * shape.per_device_train_batch_size;
  const auto tensors = model::AdapterLayout(config, question.lora);
  ordered_json memory = {{"parameters", config.num_parameters()},
                         {"adapter_parameters", tensors.back().offset + tensors.back().count()},
                         {"tokens", question.rows},
                         {"ways", ordered_json::array()}};
  for (const Way& way : kWays) {
    question.engine.gradient_checkpointing = way.checkpointing;
    question.compute.quantization = way.quantization;
    memory["ways"].push_back(
        JsonOf(way, bf16 ? "bf16" : "f32", model::PlanTraining(config, question)));
  }
  return memory;
}

std::string BaseMemoryText(const ordered_json& memory, double available_mib) {
  std::string out =
      fmt::format("base       {} parameters; training {} in micro-batches of {} tokens takes\n",
                  memory["parameters"].get<int64_t>(), memory["adapter_parameters"].get<int64_t>(),
                  memory["tokens"].get<int64_t>());
  for (const ordered_json& way : memory["ways"]) {
    const double total = way["total_mib"].get<double>();
    const std::string flags = way["flags"].get<std::string>();
    out += fmt::format("  {:>9.0f} MiB  {}{}{}\n", total, way["dtype"].get<std::string>(),
                       flags.empty() ? "" : " " + flags,
                       available_mib < 0        ? ""
                       : total <= available_mib ? ""
                                                : "  (does not fit)");
  }
  return out;
}

}  // namespace tidegate::cli
