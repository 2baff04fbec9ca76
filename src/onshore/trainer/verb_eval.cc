// eval and data-check: numbers about records, without training.
#include <cmath>

#include "finetune/evaluate.h"
#include "onshore/trainer/verb.h"

namespace tidegate::trainer {
namespace {

using finetune::EvalConfig;
using nlohmann::ordered_json;

Status PrepareEval(Invocation& invocation, const EvalConfig& c) {
  TG_RETURN_IF_ERROR(UseDevice(invocation, c.device));
  TG_RETURN_IF_ERROR(finetune::CheckEvalConfig(c));
  TG_RETURN_IF_ERROR(AllowRead(invocation, "base", c.base));
  TG_RETURN_IF_ERROR(AllowRead(invocation, "data", c.data));
  if (!c.adapter.empty()) TG_RETURN_IF_ERROR(AllowRead(invocation, "adapter", c.adapter));
  return OkStatus();
}

Status RunEvalVerb(const Invocation& invocation, const EvalConfig& c, const std::string& raised) {
  CatchStopSignals();
  TG_ASSIGN_OR_RETURN(const finetune::EvalSummary summary, finetune::RunEval(c, StopAsked));
  ordered_json json;
  json["nll"] = summary.loss.nll;
  json["perplexity"] = std::exp(summary.loss.nll);
  json["targets"] = summary.loss.targets;
  json["tokens"] = summary.loss.tokens;
  json["data"] = finetune::ReportJson(summary.report);
  json["walls"] = raised;
  std::string text = fmt::format(
      "data         {}\nNLL          {:.6f} over {} targets\n"
      "perplexity   {:.4f}\n",
      finetune::ReportText(summary.report), summary.loss.nll, summary.loss.targets,
      std::exp(summary.loss.nll));
  if (summary.exact_match) {
    const finetune::ExactMatch& match = *summary.exact_match;
    json["exact_match"] = {{"questions", match.questions},
                           {"correct", match.correct},
                           {"cut", match.cut},
                           {"share", match.share()}};
    text += fmt::format("exact match  {} of {} ({:.1f} %), {} answers were cut\n", match.correct,
                        match.questions, 100 * match.share(), match.cut);
  }
  return Print(invocation, json, text);
}

Status RunDataCheck(const Invocation& invocation, const EvalConfig& c, const std::string& raised) {
  TG_ASSIGN_OR_RETURN(const finetune::LoadedBase base, finetune::LoadedBase::LoadText(c.base));
  const finetune::DataOptions options{.max_length = c.max_length,
                                      .assistant_only_loss = c.assistant_only_loss};
  TG_ASSIGN_OR_RETURN(const finetune::DataCheck check, finetune::CheckData(c.data, base, options));
  ordered_json json = finetune::CheckJson(check);
  json["walls"] = raised;
  TG_RETURN_IF_ERROR(Print(invocation, json, finetune::CheckText(check)));
  return finetune::VerdictOf(check, c.data, options);
}

void AddDataOptions(CLI::App& verb, EvalConfig& c) {
  verb.add_option(Flag("base"), c.base, "HF folder of the base model")->required();
  verb.add_option(Flag("data"), c.data, "Records, JSONL")->required();
  verb.add_option(Flag("max_length"), c.max_length, "Tokens; longer records are cut")
      ->capture_default_str();
  AddSwitch(verb, "assistant_only_loss", c.assistant_only_loss,
            "Of chats only the assistant's turns count; false: every token");
}

}  // namespace

void RegisterEval(CLI::App& app, Invocation& invocation) {
  auto config = std::make_shared<EvalConfig>();
  CLI::App* verb = AddVerb(
      app, "eval", "Measure a base or an adapter on records", invocation,
      [&invocation, config] { return PrepareEval(invocation, *config); },
      [&invocation, config](const std::string& raised) {
        return RunEvalVerb(invocation, *config, raised);
      },
      [config](const CLI::App& parsed) {
        CheckHeldWeights(parsed, config->held);
        if (config->exact_match) return;
        RefuseGiven(parsed, {"max_new_tokens"}, "is for --exact_match: give that too");
      });
  AddSupervisedFlags(*verb, invocation, {.paths = {"base", "data", "adapter"}});
  AddDataOptions(*verb, *config);
  verb->add_option(Flag("adapter"), config->adapter, "PEFT folder; without it the base alone");
  AddDevice(*verb, config->device);
  verb->add_option(Flag("dtype"), config->dtype, "auto, bf16 or f32")->capture_default_str();
  AddHeldWeights(*verb, config->held);
  verb->add_option(Flag("threads"), config->threads, "0: all CPUs of this process")
      ->capture_default_str();
  verb->add_option(Flag("per_device_eval_batch_size"), config->per_device_eval_batch_size,
                   "Rows a batch")
      ->capture_default_str();
  verb->add_flag(Flag("exact_match"), config->exact_match,
                 "Also answer each record greedily and compare byte for byte");
  verb->add_option(Flag("max_new_tokens"), config->max_new_tokens, "Of such an answer")
      ->capture_default_str();
}

void RegisterDataCheck(CLI::App& app, Invocation& invocation) {
  auto config = std::make_shared<EvalConfig>();
  CLI::App* verb = AddVerb(
      app, "data-check", "Read every record and report what training would use", invocation,
      [&invocation, config] { return PrepareEval(invocation, *config); },
      [&invocation, config](const std::string& raised) {
        return RunDataCheck(invocation, *config, raised);
      });
  AddSupervisedFlags(*verb, invocation, {.paths = {"base", "data"}});
  AddDataOptions(*verb, *config);
  // As people type it, in its help; `tidegate` passes it on as one word.
  verb->name("data check")->alias("data-check");
}

}  // namespace tidegate::trainer
