// generate: completes a prompt, or answers it as a chat, token by token.
#include <cstdio>

#include "finetune/config.h"
#include "finetune/evaluate.h"
#include "model/generate.h"
#include "onshore/trainer/verb.h"

namespace tidegate::trainer {
namespace {

using nlohmann::ordered_json;

struct GenerateConfig {
  std::filesystem::path base, adapter;
  std::string dtype = "auto";
  int threads = 0;
  std::string prompt, system;
  bool raw = false;
  model::GenerateOptions options;
};

Status Prepare(Invocation& invocation, const GenerateConfig& c) {
  if (c.prompt.empty()) return InvalidArgument("--prompt is empty; give it a text");
  finetune::EvalConfig limits;
  limits.threads = c.threads;
  limits.max_new_tokens = c.options.max_new_tokens;
  TG_RETURN_IF_ERROR(finetune::CheckEvalConfig(limits));
  TG_RETURN_IF_ERROR(AllowRead(invocation, "base", c.base));
  if (!c.adapter.empty()) TG_RETURN_IF_ERROR(AllowRead(invocation, "adapter", c.adapter));
  return OkStatus();
}

// As records become tokens: a template writes its beginning of sequence itself, other texts get the
// tokenizer's.
Result<model::Encoding> EncodePrompt(const finetune::LoadedBase& base, const GenerateConfig& c) {
  if (c.raw || !base.chat) {
    return base.tokenizer->Encode(c.prompt, {.add_special_tokens = true});
  }
  std::vector<model::ChatMessage> messages;
  if (!c.system.empty()) messages.push_back({"system", c.system});
  messages.push_back({"user", c.prompt});
  model::RenderOptions render = base.render;
  render.add_generation_prompt = true;
  TG_ASSIGN_OR_RETURN(model::Rendered rendered, base.chat->Render(messages, render));
  return base.tokenizer->Encode(rendered.text);
}

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

Status Run(const Invocation& invocation, const GenerateConfig& c) {
  CatchStopSignals();
  TG_ASSIGN_OR_RETURN(const finetune::LoadedBase base,
                      finetune::LoadedBase::Load(c.base, c.dtype, finetune::ThreadsOf(c.threads)));
  TG_ASSIGN_OR_RETURN(const auto engine, finetune::MakeEngine(base, c.adapter));
  TG_ASSIGN_OR_RETURN(const model::Encoding prompt, EncodePrompt(base, c));
  model::GenerateOptions options = c.options;
  options.stop_ids = base.stop_ids;
  options.vocab_limit = base.tokenizer->vocab_size();
  model::StreamDecoder decoder(*base.tokenizer);
  std::string answer;
  const auto on_token = [&](int32_t id) {
    const auto piece = decoder.Push(id);
    if (piece) answer += *piece;
    // As it comes, for a person; as a whole, for a program.
    if (piece && !invocation.json) {
      std::fputs(piece->c_str(), stdout);
      std::fflush(stdout);
    }
    return !StopAsked();
  };
  model::KvCache cache = engine->NewCache();
  TG_ASSIGN_OR_RETURN(const model::Generation generation,
                      model::Generate(*engine, cache, prompt.ids, options, on_token));
  const std::string rest = decoder.Flush();
  answer += rest;
  if (!invocation.json) return Print(invocation, {}, rest + "\n");
  const ordered_json json = {{"text", answer},
                             {"prompt_tokens", prompt.ids.size()},
                             {"new_tokens", generation.ids.size()},
                             {"finish_reason", ReasonName(generation.reason)}};
  return Print(invocation, json, answer);
}

}  // namespace

void RegisterGenerate(CLI::App& app, Invocation& invocation) {
  auto c = std::make_shared<GenerateConfig>();
  CLI::App* verb = AddVerb(
      app, "generate", "Complete a prompt", invocation,
      [&invocation, c] { return Prepare(invocation, *c); },
      [&invocation, c](const std::string&) { return Run(invocation, *c); });
  verb->add_option(Flag("base"), c->base, "HF folder of the base model")->required();
  verb->add_option(Flag("adapter"), c->adapter, "PEFT folder; without it the base alone");
  verb->add_option(Flag("prompt"), c->prompt, "What is asked or continued")->required();
  verb->add_option(Flag("system"), c->system, "A system message before it");
  verb->add_flag(Flag("raw"), c->raw, "Continue the text as it is, without the chat template");
  verb->add_option(Flag("dtype"), c->dtype, "auto, bf16 or f32")->capture_default_str();
  verb->add_option(Flag("threads"), c->threads, "0: all CPUs of this process")
      ->capture_default_str();
  verb->add_option(Flag("max_new_tokens"), c->options.max_new_tokens, "Tokens at most")
      ->capture_default_str();
  verb->add_option(Flag("temperature"), c->options.temperature, "0: the likeliest token")
      ->capture_default_str();
  verb->add_option(Flag("top_p"), c->options.top_p, "Sample from so much probability")
      ->capture_default_str();
  verb->add_option(Flag("seed"), c->options.seed, "Of sampling")->capture_default_str();
}

}  // namespace tidegate::trainer
