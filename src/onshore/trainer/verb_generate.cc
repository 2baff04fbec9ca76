// generate: completes prompts, answers them as chats, or holds a conversation, token by token.
#include <unistd.h>

#include <cstdint>

#include "base/available_memory.h"
#include "finetune/config.h"
#include "finetune/evaluate.h"
#include "model/memory_plan.h"
#include "onshore/trainer/generate_run.h"

namespace tidegate::trainer {
namespace {

Status Prepare(Invocation& invocation, GenerateConfig& c) {
  const bool one = c.prompts.empty() && !c.interactive;
  if (one && c.prompt.empty()) return InvalidArgument("--prompt is empty; give it a text");
  if (c.interactive && c.style.raw) {
    return InvalidArgument("--raw continues texts, --interactive holds a conversation: choose one");
  }
  if (c.batch_size < 1 || c.batch_size > static_cast<int64_t>(model::kMaxStepSequences)) {
    return InvalidArgument("--batch_size {} must be between 1 and {}", c.batch_size,
                           model::kMaxStepSequences);
  }
  TG_RETURN_IF_ERROR(UseDevice(invocation, c.device));
  finetune::EvalConfig limits;
  limits.threads = c.threads;
  limits.max_new_tokens = c.options.max_new_tokens;
  TG_RETURN_IF_ERROR(finetune::CheckEvalConfig(limits));
  TG_RETURN_IF_ERROR(model::CheckGenerateOptions(c.options));
  TG_RETURN_IF_ERROR(AllowRead(invocation, "base", c.base));
  if (!c.adapter.empty()) TG_RETURN_IF_ERROR(AllowRead(invocation, "adapter", c.adapter));
  if (!c.prompts.empty()) TG_RETURN_IF_ERROR(AllowRead(invocation, "prompts", c.prompts));
  c.free_bytes = AvailableMemory().value_or(UINT64_MAX);
  c.input_terminal = ::isatty(STDIN_FILENO) == 1;
  invocation.reads_input = c.interactive;
  return OkStatus();
}

// Flags that the others leave without a use.
void CheckUsage(const CLI::App& verb, const GenerateConfig& c) {
  CheckHeldWeights(verb, c.held);
  if (c.prompts.empty()) {
    RefuseGiven(verb, {"batch_size"}, "is for the prompts of a file: give --prompts");
  }
  if (c.style.raw) RefuseGiven(verb, {"system"}, "is for chats, and --raw continues texts");
  if (verb.get_option("--temperature")->count() > 0) return;
  RefuseGiven(verb, {"top_k", "top_p", "seed"},
              "is for sampling: give --temperature too, such as 1");
}

Status Run(const Invocation& invocation, const GenerateConfig& c) {
  CatchStopSignals();
  std::vector<Prompt> prompts;
  if (!c.prompts.empty()) {
    TG_ASSIGN_OR_RETURN(prompts, ReadPrompts(c.prompts));
  } else {
    prompts.push_back({.where = "--prompt", .line = 0, .text = c.prompt});
  }
  TG_ASSIGN_OR_RETURN(const finetune::LoadedBase base,
                      finetune::LoadedBase::Load(c.base, c.dtype, finetune::ThreadsOf(c.threads),
                                                 c.held, c.device));
  if (!c.style.system.empty() && !base.chat) {
    return FailedPrecondition("--system needs a chat template, and {} has none", c.base.native());
  }
  TG_ASSIGN_OR_RETURN(const auto engine, finetune::MakeEngine(base, c.adapter));
  Generator generator = {invocation, c, base, *engine, c.options};
  generator.options.stop_ids = base.stop_ids;
  generator.options.vocab_limit = base.tokenizer->vocab_size();
  return c.interactive ? RunChat(generator) : RunPrompts(generator, prompts);
}

}  // namespace

std::string ReasonName(model::StopReason reason) {
  switch (reason) {
    case model::StopReason::kStopId:
      return "stop";
    case model::StopReason::kMaxNewTokens:
      return "length";
    case model::StopReason::kMaxPositions:
      return "positions";
    case model::StopReason::kCallback:
      return "stopped";
  }
  return "unknown";
}

Status Generator::CheckMemory(int64_t sequences, size_t prompt) const {
  const kernels::DType dtype = base.base->compute().dtype;
  TG_ASSIGN_OR_RETURN(const uint64_t left, base.FreeBytes(config.free_bytes));
  const int64_t positions = static_cast<int64_t>(prompt) + options.max_new_tokens;
  return model::CheckCachesFit(base.config, dtype, sequences, positions, left);
}

void RegisterGenerate(CLI::App& app, Invocation& invocation) {
  auto c = std::make_shared<GenerateConfig>();
  CLI::App* verb = AddVerb(
      app, "generate", "Complete prompts, or chat", invocation,
      [&invocation, c] { return Prepare(invocation, *c); },
      [&invocation, c](const std::string&) { return Run(invocation, *c); },
      [c](const CLI::App& parsed) { CheckUsage(parsed, *c); });
  AddSupervisedFlags(*verb, invocation, {.paths = {"base", "adapter", "prompts"}});
  verb->add_option(Flag("base"), c->base, "HF folder of the base model")->required();
  verb->add_option(Flag("adapter"), c->adapter, "PEFT folder; without it the base alone");
  CLI::App* input = verb->add_option_group("Input", "One of");
  input->add_option(Flag("prompt"), c->prompt, "What is asked or continued");
  input->add_option(Flag("prompts"), c->prompts,
                    "File of prompts: .jsonl with prompt or messages, or a text a line");
  input->add_flag(Flag("interactive"), c->interactive,
                  "A conversation, a line at a time; /reset, /quit");
  input->require_option(1);
  verb->add_option(Flag("batch_size"), c->batch_size, "Prompts of a file that advance together")
      ->capture_default_str();
  verb->add_option(Flag("system"), c->style.system, "A system message before a text");
  verb->add_flag(Flag("raw"), c->style.raw, "Continue texts as they are, without the template");
  AddDevice(*verb, c->device);
  verb->add_option(Flag("dtype"), c->dtype, "auto, bf16 or f32")->capture_default_str();
  AddHeldWeights(*verb, c->held);
  verb->add_option(Flag("threads"), c->threads, "0: all CPUs of this process")
      ->capture_default_str();
  verb->add_option(Flag("max_new_tokens"), c->options.max_new_tokens, "Tokens at most")
      ->capture_default_str();
  verb->add_option(Flag("temperature"), c->options.temperature, "0: the likeliest token")
      ->capture_default_str();
  verb->add_option(Flag("top_k"), c->options.top_k, "Sample from so many tokens; 0: all")
      ->capture_default_str();
  verb->add_option(Flag("top_p"), c->options.top_p, "Sample from so much probability")
      ->capture_default_str();
  verb->add_option(Flag("repetition_penalty"), c->options.repetition_penalty,
                   "Above 1: against what was said already")
      ->capture_default_str();
  AddSeed(*verb, c->options.seed, "Of sampling");
}

}  // namespace tidegate::trainer
