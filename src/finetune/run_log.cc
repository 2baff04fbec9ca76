#include "finetune/run_log.h"

#include <array>
#include <cmath>

namespace tidegate::finetune {
namespace {

using nlohmann::ordered_json;

double SpeedOf(const train::StepResult& step) {
  return step.seconds > 0 ? static_cast<double>(step.tokens) / step.seconds : 0.0;
}

}  // namespace

RunLog::RunLog(const FinetuneConfig& config, int64_t total_steps, std::FILE* progress,
               bool terminal)
    : config_(config),
      line_(progress, terminal, total_steps, config.logging_steps),
      shown_(progress != nullptr) {}

Status RunLog::Open(int64_t last_step, const ordered_json& start) {
  TG_ASSIGN_OR_RETURN(metrics_,
                      runlog::MetricsFile::Open(config_.output_dir / "metrics.jsonl", last_step));
  TG_RETURN_IF_ERROR(metrics_->Write(start));
  if (config_.report_to == "tensorboard") {
    TG_ASSIGN_OR_RETURN(
        events_, runlog::EventFile::Open(config_.output_dir / "runs", last_step, SystemClock()));
  }
  return OkStatus();
}

Status RunLog::Step(const train::StepResult& step) {
  TG_RETURN_IF_ERROR(metrics_->Write(runlog::StepLine(step)));
  if (shown_) line_.Step(step);
  if (!events_) return OkStatus();
  const std::array<runlog::Scalar, 4> scalars = {{{"train/learning_rate", step.learning_rate},
                                                  {"train/tokens_per_second", SpeedOf(step)},
                                                  {"train/grad_norm", step.grad_norm},
                                                  {"train/loss", step.loss}}};
  // A window without a target has neither loss nor gradient.
  return events_->Write(step.step, std::span(scalars).first(step.skipped ? 2 : 4));
}

Status RunLog::Eval(int64_t step, const train::EvalResult& eval, bool in_curve) {
  const double perplexity = std::exp(eval.nll);
  ordered_json line;
  line["event"] = "eval";
  line["step"] = step;
  line["nll"] = eval.nll;
  line["perplexity"] = perplexity;
  line["targets"] = eval.targets;
  Note(fmt::format("step {}  held-out NLL {:.4f}  perplexity {:.2f}", step, eval.nll, perplexity));
  TG_RETURN_IF_ERROR(metrics_->Write(line));
  if (!events_ || !in_curve) return OkStatus();
  const std::array<runlog::Scalar, 2> scalars = {
      {{"eval/loss", eval.nll}, {"eval/perplexity", perplexity}}};
  return events_->Write(step, scalars);
}

void RunLog::Note(const std::string& text) {
  if (shown_) line_.Note(text);
}

Status RunLog::End(const ordered_json& end) { return metrics_->Write(end); }

void RunLog::FinishLine() {
  if (shown_) line_.Finish();
}

}  // namespace tidegate::finetune
