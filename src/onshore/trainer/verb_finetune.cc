// finetune: trains a LoRA adapter on records of this machine.
#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <cmath>
#include <filesystem>

#include "base/file.h"
#include "finetune/finetune.h"
#include "onshore/trainer/finetune_options.h"
#include "onshore/trainer/verb.h"

namespace tidegate::trainer {
namespace {

using finetune::FinetuneConfig;
using finetune::FinetuneSummary;
using nlohmann::ordered_json;

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

// What a run reads stays as it is: a base is named by the hash of its folder, and a resumed run
// begins with the adapter that the first one began with.
Status CheckOutputDir(const FinetuneConfig& c) {
  const std::pair<const char*, const std::filesystem::path&> read[] = {{"base", c.base},
                                                                       {"adapter", c.adapter}};
  for (const auto& [option, path] : read) {
    std::error_code error;
    if (!path.empty() && std::filesystem::equivalent(path, c.output_dir, error)) {
      return InvalidArgument("--output_dir {} is the folder of --{} too; give another",
                             c.output_dir.native(), option);
    }
  }
  return OkStatus();
}

Status Prepare(Invocation& invocation, const FinetuneConfig& c) {
  TG_RETURN_IF_ERROR(UseDevice(invocation, c.device));
  TG_RETURN_IF_ERROR(finetune::CheckConfig(c));
  if (c.output_dir.empty()) return InvalidArgument("--output_dir is empty; give it a folder");
  TG_RETURN_IF_ERROR(CheckOutputDir(c));
  TG_RETURN_IF_ERROR(AllowRead(invocation, "base", c.base));
  TG_RETURN_IF_ERROR(AllowRead(invocation, "data", c.data));
  if (!c.eval_data.empty()) TG_RETURN_IF_ERROR(AllowRead(invocation, "eval_data", c.eval_data));
  if (!c.adapter.empty()) TG_RETURN_IF_ERROR(AllowRead(invocation, "adapter", c.adapter));
  // Made before the walls, which know only what exists.
  TG_RETURN_IF_ERROR(MakeOutputDir(invocation, c.output_dir));
  TG_RETURN_IF_ERROR(LockFolder(invocation, c.output_dir));
  invocation.walls.read_write.push_back(c.output_dir);
  return OkStatus();
}

ordered_json SummaryJson(const FinetuneSummary& s, const FinetuneConfig& c) {
  ordered_json json;
  json["output_dir"] = c.output_dir.native();
  json["stopped"] = s.stopped;
  json["ended_early"] = s.ended_early;
  json["steps"] = s.steps;
  json["total_steps"] = s.total_steps;
  if (s.steps_here > 0) {
    json["last_loss"] = s.last_loss;
    json["tokens_per_second"] = s.tokens_per_second;
  }
  json["tokens_seen"] = s.tokens_seen;
  json["targets_seen"] = s.targets_seen;
  json["skipped_windows"] = s.skipped_windows;
  if (s.has_eval) {
    json["eval_nll"] = s.eval.nll;
    json["eval_perplexity"] = std::exp(s.eval.nll);
  }
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
  if (s.ended_early) {
    text += fmt::format("early    no improvement any more; the best evaluation was of step {}\n",
                        s.best_step);
  }
  if (s.has_eval) {
    text += fmt::format("held out NLL {:.4f} over {} targets, perplexity {:.2f}\n", s.eval.nll,
                        s.eval.targets, std::exp(s.eval.nll));
  }
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
      [&invocation, config](const std::string& raised) { return Run(invocation, *config, raised); },
      [config](const CLI::App& parsed) { CheckFinetuneUsage(parsed, *config); });
  AddFinetuneOptions(*verb, *config, invocation);
}

}  // namespace tidegate::trainer
