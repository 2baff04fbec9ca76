// finetune: trains a LoRA adapter on records of this machine.
#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <filesystem>

#include "base/file.h"
#include "finetune/finetune.h"
#include "finetune/progress.h"
#include "onshore/trainer/verb.h"

namespace tidegate::trainer {
namespace {

using finetune::FinetuneConfig;
using finetune::FinetuneSummary;
using nlohmann::ordered_json;

void AddFileOptions(CLI::App& verb, FinetuneConfig& c) {
  verb.add_option(Flag("base"), c.base, "HF folder of the base model")->required();
  verb.add_option(Flag("data"), c.data, "Records, JSONL")->required();
  verb.add_option(Flag("eval_data"), c.eval_data, "Held-out records, JSONL");
  verb.add_option(Flag("eval_split"), c.eval_split, "Share of --data to hold out");
  verb.add_option(Flag("adapter"), c.adapter, "PEFT folder to start from");
  verb.add_option(Flag("output_dir") + ",--out", c.output_dir,
                  "Where adapter, metrics and state go")
      ->required();
  verb.add_option(Flag("base_model_name_or_path"), c.base_name,
                  "Name of the base that the adapter's files carry; default: --base");
}

void AddModelOptions(CLI::App& verb, FinetuneConfig& c) {
  verb.add_option(Flag("dtype"), c.dtype, "auto, bf16 or f32")->capture_default_str();
  verb.add_option(Flag("threads"), c.threads, "0: all CPUs of this process")->capture_default_str();
  verb.add_option(Flag("lora_r"), c.lora_r, "Rank")->capture_default_str();
  verb.add_option(Flag("lora_alpha"), c.lora_alpha, "Scale is alpha / r")->capture_default_str();
  verb.add_option(Flag("lora_dropout"), c.lora_dropout, "On the adapter's input")
      ->capture_default_str();
  verb.add_option(Flag("lora_target_modules"), c.lora_target_modules,
                  "all-linear, or names: q_proj,v_proj")
      ->capture_default_str();
  verb.add_option(Flag("max_length"), c.max_length, "Tokens; longer examples are cut")
      ->capture_default_str();
  AddSwitch(verb, "packing", c.packing, "Several examples a row, without changing the loss");
  AddSwitch(verb, "assistant_only_loss", c.assistant_only_loss,
            "Of chats train the assistant's turns alone; false: every token, TRL's default");
}

void AddTrainingOptions(CLI::App& verb, FinetuneConfig& c) {
  verb.add_option(Flag("per_device_train_batch_size"), c.per_device_train_batch_size,
                  "Rows a micro-batch")
      ->capture_default_str();
  verb.add_option(Flag("gradient_accumulation_steps"), c.gradient_accumulation_steps,
                  "Micro-batches a step")
      ->capture_default_str();
  verb.add_option(Flag("learning_rate"), c.learning_rate, "Peak")->capture_default_str();
  verb.add_option(Flag("lr_scheduler_type"), c.lr_scheduler_type,
                  "cosine, linear, constant or constant_with_warmup")
      ->capture_default_str();
  verb.add_option(Flag("warmup_ratio"), c.warmup_ratio, "Share of the steps")
      ->capture_default_str();
  verb.add_option(Flag("warmup_steps"), c.warmup_steps, "Above 0: instead of the ratio")
      ->capture_default_str();
  verb.add_option(Flag("weight_decay"), c.weight_decay, "Of AdamW")->capture_default_str();
  verb.add_option(Flag("max_grad_norm"), c.max_grad_norm, "0: no clipping")->capture_default_str();
  verb.add_option(Flag("max_steps"), c.max_steps, "Above 0: instead of the epochs")
      ->capture_default_str();
  verb.add_option(Flag("num_train_epochs"), c.num_train_epochs, "May be a fraction")
      ->capture_default_str();
  verb.add_option(Flag("seed"), c.seed, "Of adapter, order and dropout")->capture_default_str();
  verb.add_option(Flag("logging_steps"), c.logging_steps, "A progress line each so many steps")
      ->capture_default_str();
  verb.add_option(Flag("save_steps"), c.save_steps, "0: only at the end")->capture_default_str();
  verb.add_option(Flag("eval_steps"), c.eval_steps, "0: only at the end")->capture_default_str();
  verb.add_flag(Flag("load_best_model_at_end"), c.load_best_model_at_end,
                "Write the adapter of the best evaluation");
  verb.add_flag(Flag("resume"), c.resume, "Go on from the state in --output_dir");
}

// Two runs in one folder would take each other's states away. The lock is on the folder itself and
// ends with the program, however that ends.
Status LockFolder(Invocation& invocation, const std::filesystem::path& dir) {
  Fd folder(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) return ErrnoStatus("open", dir.native(), errno);
  // Other errors are those of file systems without locks.
  if (::flock(folder.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return FailedPrecondition(
        "another run is writing to {}; wait for its end, or give another --output_dir",
        dir.native());
  }
  invocation.held.push_back(std::move(folder));
  return OkStatus();
}

Status Prepare(Invocation& invocation, const FinetuneConfig& c) {
  TG_RETURN_IF_ERROR(finetune::CheckConfig(c));
  TG_RETURN_IF_ERROR(AllowRead(invocation, "base", c.base));
  TG_RETURN_IF_ERROR(AllowRead(invocation, "data", c.data));
  if (!c.eval_data.empty()) TG_RETURN_IF_ERROR(AllowRead(invocation, "eval_data", c.eval_data));
  if (!c.adapter.empty()) TG_RETURN_IF_ERROR(AllowRead(invocation, "adapter", c.adapter));
  // Made before the walls, which know only what exists.
  std::error_code error;
  std::filesystem::create_directories(c.output_dir, error);
  if (error) return ErrnoStatus("create", c.output_dir.native(), error.value());
  TG_RETURN_IF_ERROR(LockFolder(invocation, c.output_dir));
  invocation.walls.read_write.push_back(c.output_dir);
  return OkStatus();
}

ordered_json SummaryJson(const FinetuneSummary& s, const FinetuneConfig& c) {
  ordered_json json;
  json["output_dir"] = c.output_dir.native();
  json["stopped"] = s.stopped;
  json["steps"] = s.steps;
  json["total_steps"] = s.total_steps;
  if (s.steps_here > 0) {
    json["last_loss"] = s.last_loss;
    json["tokens_per_second"] = s.tokens_per_second;
  }
  json["tokens_seen"] = s.tokens_seen;
  json["targets_seen"] = s.targets_seen;
  json["skipped_windows"] = s.skipped_windows;
  if (s.has_eval) json["eval_nll"] = s.eval.nll;
  if (s.best_step > 0) json["best_step"] = s.best_step;
  json["dtype"] = s.dtype;
  json["kernels"] = s.kernels;
  json["threads"] = s.threads;
  json["train"] = finetune::ReportJson(s.train_report);
  if (s.has_eval) json["eval"] = finetune::ReportJson(s.eval_report);
  return json;
}

std::string SummaryText(const FinetuneSummary& s, const FinetuneConfig& c) {
  std::string text = "data     " + finetune::ReportText(s.train_report) + "\n";
  const std::string here = s.steps_here > 0 ? fmt::format("last loss {:.4f}, {:.0f} tokens/s",
                                                          s.last_loss, s.tokens_per_second)
                                            : std::string("none was left to do");
  text += fmt::format("steps    {} of {}, {} ({} with {} kernels)\n", s.steps, s.total_steps, here,
                      s.dtype, s.kernels);
  if (s.has_eval)
    text += fmt::format("held out NLL {:.4f} over {} targets\n", s.eval.nll, s.eval.targets);
  return text + fmt::format("adapter  {}\n", c.output_dir.native());
}

Status Run(const Invocation& invocation, const FinetuneConfig& c, const std::string& raised) {
  CatchStopSignals();
  const finetune::RunHooks hooks{
      .should_stop = StopAsked,
      .progress = stderr,
      .terminal = invocation.terminal && !invocation.json,
      .walls = raised,
  };
  TG_ASSIGN_OR_RETURN(const FinetuneSummary summary, finetune::RunFinetune(c, hooks));
  if (summary.stopped) {
    return Cancelled(
        "stopped by a signal after step {} of {}; the state is saved, go on with "
        "--resume",
        summary.steps, summary.total_steps);
  }
  return Print(invocation, SummaryJson(summary, c), SummaryText(summary, c));
}

}  // namespace

void RegisterFinetune(CLI::App& app, Invocation& invocation) {
  auto config = std::make_shared<FinetuneConfig>();
  CLI::App* verb = AddVerb(
      app, "finetune", "Train a LoRA adapter on records of this machine", invocation,
      [&invocation, config] { return Prepare(invocation, *config); },
      [&invocation, config](const std::string& raised) {
        return Run(invocation, *config, raised);
      });
  AddFileOptions(*verb, *config);
  AddModelOptions(*verb, *config);
  AddTrainingOptions(*verb, *config);
}

}  // namespace tidegate::trainer
