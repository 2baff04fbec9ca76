// Training steps of a LoRA adapter on a Hugging Face folder: tokens a second and peak memory, as
// one line of JSON. A step is what bench/peft_baseline.py times: full rows of random token ids,
// every token a target, forward, backward, clipping to norm 1 and AdamW; one step of warm-up is not
// counted. A case is a process of its own, since peak memory is per process.
//
//   finetune_step_bench --base HF_FOLDER [--dtype bf16|f32] [--rows 4] [--length 512] [--steps 5]
//                       [--threads 2] [--rank 16] [--alpha 32] [--checkpointing 0|1]
//                       [--quantization none|int8|nf4|nf4_double] [--device cpu|cuda]
#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <numeric>

#include "base/rng.h"
#include "kernels/table.h"
#include "model/memory_plan.h"
#include "model/transformer.h"
#include "nlohmann/json.hpp"
#include "tokens/packing.h"
#include "train/optimizer.h"

namespace tidegate {
namespace {

constexpr double kLearningRate = 2e-4;

struct Options {
  std::filesystem::path base;
  std::string dtype = "bf16", quantization = "none", device = "cpu";
  int64_t rows = 4, length = 512, steps = 5, threads = 2, rank = 16, alpha = 32, checkpointing = 0;
};

Result<model::Quantization> ParseQuantization(const std::string& name) {
  using model::Quantization;
  for (const auto& [known, value] :
       {std::pair{"none", Quantization::kNone}, std::pair{"int8", Quantization::kInt8},
        std::pair{"nf4", Quantization::kNf4}, std::pair{"nf4_double", Quantization::kNf4Double}}) {
    if (name == known) return value;
  }
  return InvalidArgument("--quantization {}: choose none, int8, nf4 or nf4_double", name);
}

Result<Options> Parse(int count, char** words) {
  Options options;
  const std::map<std::string_view, int64_t*> numbers = {
      {"--rows", &options.rows},
      {"--length", &options.length},
      {"--steps", &options.steps},
      {"--threads", &options.threads},
      {"--rank", &options.rank},
      {"--alpha", &options.alpha},
      {"--checkpointing", &options.checkpointing}};
  for (int i = 1; i < count; i += 2) {
    const std::string_view name = words[i];
    if (i + 1 == count) return InvalidArgument("{}: value missing", name);
    const std::string_view value = words[i + 1];
    if (name == "--base") {
      options.base = value;
    } else if (name == "--dtype") {
      options.dtype = value;
    } else if (name == "--device") {
      options.device = value;
    } else if (name == "--quantization") {
      options.quantization = value;
    } else if (const auto number = numbers.find(name); number != numbers.end()) {
      const auto [end, error] =
          std::from_chars(value.data(), value.data() + value.size(), *number->second);
      if (error != std::errc() || end != value.data() + value.size() ||
          *number->second < (name == "--checkpointing" ? 0 : 1)) {
        return InvalidArgument("{} {}: choose a whole number from 1", name, value);
      }
    } else {
      return InvalidArgument("{}: no such option, see the head of this file", name);
    }
  }
  if (options.base.empty()) return InvalidArgument("--base: give a Hugging Face model folder");
  if (options.length < 2) return InvalidArgument("--length 1: there would be no target");
  return options;
}

tokens::PackedBatch RandomBatch(const Options& options, int64_t vocab, uint32_t step) {
  std::vector<tokens::TokenSequence> rows(static_cast<size_t>(options.rows));
  uint64_t index = 0;
  for (tokens::TokenSequence& row : rows) {
    for (int64_t i = 0; i < options.length; ++i) {
      const uint32_t word = RandomWords(1, RngPurpose::kTest, step, index++)[0];
      row.ids.push_back(static_cast<int32_t>(UniformBelow(word, static_cast<uint32_t>(vocab))));
    }
    row.loss_mask.assign(row.ids.size(), 1);
  }
  std::vector<uint32_t> order(rows.size());
  std::iota(order.begin(), order.end(), 0u);
  return tokens::LayOut(rows, order);
}

// Everything that a step touches.
struct Training {
  std::shared_ptr<const model::Base> base;
  model::Adapter adapter;
  std::unique_ptr<model::Engine> engine;
  train::Optimizer optimizer;
  train::Moments moments;
  std::vector<float> gradients;
};

Result<Training> Start(const Options& options) {
  TG_ASSIGN_OR_RETURN(const kernels::Backend backend, model::ParseDevice(options.device));
  TG_ASSIGN_OR_RETURN(const kernels::DType dtype, model::ParseDType(options.dtype, backend));
  const int threads = static_cast<int>(options.threads);
  TG_ASSIGN_OR_RETURN(const auto quantization, ParseQuantization(options.quantization));
  const model::ComputeOptions compute{
      .backend = backend, .dtype = dtype, .threads = threads, .quantization = quantization};
  TG_ASSIGN_OR_RETURN(auto base, model::Base::Load(options.base, compute));
  model::LoraConfig lora;
  lora.r = options.rank;
  lora.alpha = static_cast<double>(options.alpha);
  TG_ASSIGN_OR_RETURN(lora.targets, model::ParseTargets("all-linear"));
  TG_ASSIGN_OR_RETURN(
      auto engine,
      model::Engine::Create(base, lora, {.gradient_checkpointing = options.checkpointing > 0}));
  TG_ASSIGN_OR_RETURN(
      auto optimizer,
      train::Optimizer::Create(kernels::TableFor(kernels::Backend::kCpu, kernels::DType::kF32),
                               threads, train::AdamWConfig()));
  model::Adapter adapter = model::Adapter::Create(base->config(), lora, 1);
  const size_t count = adapter.parameters().size();
  engine->SetParameters(adapter.parameters());
  return Training{std::move(base),
                  std::move(adapter),
                  std::move(engine),
                  std::move(optimizer),
                  {std::vector<float>(count), std::vector<float>(count)},
                  std::vector<float>(count)};
}

// The mean loss of the batch, after which the adapter has moved.
Result<double> Step(const tokens::PackedBatch& batch, Training* t) {
  TG_ASSIGN_OR_RETURN(const model::LossSum sum, t->engine->ForwardBackward(batch, 0, 0));
  const double targets = static_cast<double>(sum.targets);
  t->engine->TakeGradients(1.0 / targets, t->gradients);
  const train::Range all[] = {{0, static_cast<int64_t>(t->gradients.size())}};
  const double norm = t->optimizer.GradNorm(t->gradients, all);
  t->optimizer.Update(t->adapter.parameters(), t->gradients, all, norm, kLearningRate, t->moments);
  t->engine->SetParameters(t->adapter.parameters());
  return sum.loss / targets;
}

model::MemoryPlan Planned(const Options& options, const Training& training) {
  model::MemoryQuestion question;
  question.compute = training.base->compute();
  question.engine.gradient_checkpointing = options.checkpointing > 0;
  question.lora = training.adapter.lora();
  question.rows = options.rows * options.length;
  return model::PlanTraining(training.base->config(), question);
}

Status Run(const Options& options) {
  TG_ASSIGN_OR_RETURN(Training training, Start(options));
  kernels::PinThreads(static_cast<int>(options.threads));
  std::vector<double> seconds;
  double first_loss = 0, last_loss = 0;
  for (int64_t step = 0; step <= options.steps; ++step) {
    const auto batch =
        RandomBatch(options, training.base->config().vocab_size, static_cast<uint32_t>(step));
    const auto start = std::chrono::steady_clock::now();
    TG_ASSIGN_OR_RETURN(last_loss, Step(batch, &training));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (step == 0) first_loss = last_loss;
    if (step > 0) seconds.push_back(took.count());
  }
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const double tokens = static_cast<double>(options.rows * options.length);
  const double total = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  const double fastest = *std::min_element(seconds.begin(), seconds.end());
  nlohmann::ordered_json line = {
      {"engine", "tidegate"},
      {"dtype", options.dtype},
      {"shape", fmt::format("{}x{}", options.rows, options.length)},
      {"tokens_per_second", tokens * static_cast<double>(seconds.size()) / total},
      {"peak_rss_bytes", int64_t{usage.ru_maxrss} * 1024},
      {"best_tokens_per_second", tokens / fastest},
      {"engine_bytes", training.engine->MemoryBytes()},
      {"planned_bytes", Planned(options, training).total()},
      {"threads", options.threads},
      {"isa",
       kernels::TableFor(training.base->compute().backend, training.base->compute().dtype)->isa},
      {"first_loss", first_loss},
      {"last_loss", last_loss}};
  fmt::print("{}\n", line.dump());
  return OkStatus();
}

}  // namespace
}  // namespace tidegate

int main(int argc, char** argv) {
  const auto options = tidegate::Parse(argc, argv);
  const tidegate::Status status = options ? tidegate::Run(*options) : options.error();
  if (!status.ok()) fmt::print(stderr, "finetune_step_bench: {}\n", status.ToString());
  return status.ok() ? 0 : 1;
}
