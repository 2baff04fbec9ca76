#include "pretrain/run.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/file.h"
#include "base/log.h"
#include "pretrain/checkpoint.h"
#include "pretrain/write_base.h"
#include "runlog/progress.h"
#include "runlog/run_page.h"

namespace tidegate::pretrain {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

class Run {
 public:
  Run(const PretrainConfig& config, const RunParts& parts) : config_(config), parts_(parts) {}

  Status Open() {
    TG_RETURN_IF_ERROR(CheckConfig(config_));
    TG_ASSIGN_OR_RETURN(model_config_, ModelOf(config_));
    TG_ASSIGN_OR_RETURN(steps_, StepsOf(config_, ranks(), parts_.train->samples_per_epoch()));
    model::ComputeOptions compute;
    TG_ASSIGN_OR_RETURN(compute.backend, model::ParseDevice(config_.device));
    TG_ASSIGN_OR_RETURN(compute.dtype, model::ParseDType(config_.dtype, compute.backend));
    compute.threads = std::max(1, config_.threads);
    const model::EngineOptions engine{.gradient_checkpointing = config_.gradient_checkpointing};
    TG_ASSIGN_OR_RETURN(
        model_, model::FullModel::Create(model_config_, compute, engine, FlatMultiple(ranks())));
    partition_.emplace(model_->layout(), ranks(), rank(), config_.bucket_elements);
    TG_ASSIGN_OR_RETURN(shard_, NewShard(*model_, *partition_));
    TG_ASSIGN_OR_RETURN(trainer_, Trainer::Create(*model_, *parts_.train, *partition_, shard_,
                                                  parts_.control, parts_.data, steps_));
    identity_ = IdentityOf(config_, steps_, model_config_, compute.dtype, *parts_.train);
    writer_ = std::make_unique<CheckpointWriter>(Checkpoints(), rank(), ranks(),
                                                 static_cast<int>(config_.save_total_limit));
    return OkStatus();
  }

  // Masters and weights of the newest checkpoint that is whole, or as the run begins.
  Status Begin() {
    TG_ASSIGN_OR_RETURN(const bool resumed, Resume());
    if (!resumed && config_.base.empty()) {
      InitialiseMasters(*model_, *partition_, config_.seed, &shard_);
    } else if (!resumed) {
      TG_RETURN_IF_ERROR(LoadMasters(config_.base, *model_, *partition_, &shard_));
    }
    report_.resumed_at = shard_.step;
    report_.total_steps = steps_.schedule.total_steps;
    saved_step_ = resumed ? shard_.step : -1;
    TG_RETURN_IF_ERROR(trainer_->SpreadWeights());
    return OpenLog();
  }

  Result<RunReport> Steps() {
    while (shard_.step < steps_.schedule.total_steps && !stopped_) {
      const Status status = Step();
      // Every rank is told of a step that is not finite; what was learnt before it is kept.
      if (status.code() == Code::kFailedPrecondition) TG_RETURN_IF_ERROR(SaveNow());
      TG_RETURN_IF_ERROR(status);
    }
    if (line_) line_->Finish();
    TG_RETURN_IF_ERROR(SaveNow());
    if (!stopped_) TG_RETURN_IF_ERROR(End());
    report_.steps = shard_.step;
    report_.tokens_per_second = seconds_ > 0 ? static_cast<double>(tokens_) / seconds_ : 0;
    TG_RETURN_IF_ERROR(CloseLog());
    if (stopped_) {
      return Cancelled("stopped at step {} of {}, which is saved: --resume goes on", shard_.step,
                       steps_.schedule.total_steps);
    }
    return report_;
  }

 private:
  int ranks() const { return parts_.control == nullptr ? 1 : parts_.control->size(); }
  int rank() const { return parts_.control == nullptr ? 0 : parts_.control->rank(); }
  bool Due(int64_t every) const { return every > 0 && shard_.step % every == 0; }
  fs::path Checkpoints() const { return config_.output_dir / "checkpoints"; }

  Result<bool> Resume() {
    TG_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, CheckpointSteps(Checkpoints()));
    const int64_t newest = steps.empty() ? -1 : steps.front();
    TG_ASSIGN_OR_RETURN(const bool same, trainer_->SameOnAll(static_cast<double>(newest)));
    if (!same) {
      return Unavailable("the ranks see different checkpoints in {}: it must be one shared folder",
                         Checkpoints().native());
    }
    if (!steps.empty() && !config_.resume) {
      return AlreadyExists(
          "{} holds a training state of step {}; give --resume to go on with it, or another "
          "--output_dir",
          config_.output_dir.native(), newest);
    }
    Status last;
    for (const int64_t step : steps) {
      const Status status =
          LoadCheckpoint(Checkpoints(), step, identity_, *model_, *partition_, &shard_);
      if (!status.ok() && status.code() != Code::kDataLoss) return Unexpected(status);
      if (!status.ok()) LogWarning("checkpoint_damaged {}", status.message());
      TG_ASSIGN_OR_RETURN(const bool all, trainer_->AllTrue(status.ok()));
      if (all) return true;
      last = status;
    }
    if (steps.empty()) return false;
    return MakeError(Code::kDataLoss, "every checkpoint in {} is damaged: {}",
                     Checkpoints().native(), last.message());
  }

  Status OpenLog() {
    if (rank() != 0) return OkStatus();
    std::error_code error;
    fs::create_directories(config_.output_dir, error);
    if (error) return ErrnoStatus("create", config_.output_dir.native(), error.value());
    TG_ASSIGN_OR_RETURN(
        metrics_, runlog::MetricsFile::Open(config_.output_dir / "metrics.jsonl", shard_.step));
    if (parts_.progress != nullptr) {
      line_.emplace(parts_.progress, parts_.terminal, steps_.schedule.total_steps,
                    config_.logging_steps);
    }
    ordered_json start;
    start["event"] = "start";
    start["step"] = shard_.step;
    start["total_steps"] = steps_.schedule.total_steps;
    start["ranks"] = ranks();
    start["backend"] = parts_.data == nullptr ? "none" : parts_.data->backend();
    start["kernels"] = model_->table().isa;
    start["parameters"] = model_config_.num_parameters();
    start["samples_per_epoch"] = parts_.train->samples_per_epoch();
    start["global_batch_size"] = steps_.global_batch_size;
    start["max_length"] = parts_.train->length();
    start["memory_bytes"] =
        model_->MemoryBytes() + 3 * static_cast<size_t>(partition_->local_count()) * sizeof(float);
    return metrics_->Write(start);
  }

  Status LogStep(const train::StepResult& step) {
    if (!metrics_) return OkStatus();
    ordered_json line = runlog::StepLine(step);
    const double flops = FlopsPerToken(model_config_, parts_.train->length()) *
                         static_cast<double>(step.tokens) / std::max(step.seconds, 1e-9);
    line["tflops"] = flops * 1e-12;
    if (config_.peak_tflops > 0) line["mfu"] = flops * 1e-12 / (config_.peak_tflops * ranks());
    TG_RETURN_IF_ERROR(metrics_->Write(line));
    if (line_) line_->Step(step);
    return OkStatus();
  }

  Status Step() {
    Notice notice;
    notice.stop = parts_.stop_asked && parts_.stop_asked();
    notice.saved = writer_->PartDone();
    TG_ASSIGN_OR_RETURN(const StepOutcome outcome, trainer_->Step(notice));
    stopped_ = outcome.stop;
    tokens_ += outcome.result.tokens;
    seconds_ += outcome.result.seconds;
    report_.loss = outcome.result.loss;
    if (outcome.saved) TG_RETURN_IF_ERROR(Commit());
    TG_RETURN_IF_ERROR(LogStep(outcome.result));
    if (Due(config_.eval_steps) && !stopped_) TG_RETURN_IF_ERROR(Evaluate());
    return Due(config_.save_steps) ? Save() : OkStatus();
  }

  Status Evaluate() {
    if (parts_.held_out == nullptr) return OkStatus();
    const auto there = static_cast<int64_t>(parts_.held_out->samples_per_epoch());
    TG_ASSIGN_OR_RETURN(
        const double nll,
        trainer_->Evaluate(*parts_.held_out, std::min(config_.eval_sequences, there)));
    report_.held_out_nll = nll;
    report_.has_held_out = true;
    evaluated_step_ = shard_.step;
    if (!metrics_) return OkStatus();
    if (line_) {
      line_->Note(fmt::format("step {}  held-out NLL {:.4f}  perplexity {:.2f}", shard_.step, nll,
                              std::exp(nll)));
    }
    ordered_json line;
    line["event"] = "eval";
    line["step"] = shard_.step;
    line["nll"] = nll;
    line["perplexity"] = std::exp(nll);
    return metrics_->Write(line);
  }

  Status Commit() { return writer_->Commit(*model_, identity_); }

  // Waits for the one before, on all ranks.
  Status Settle() {
    if (!writer_->pending()) return OkStatus();
    writer_->Wait();
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const bool all, trainer_->AllTrue(true));
    return Commit();
  }

  Status Save() {
    TG_RETURN_IF_ERROR(Settle());
    saved_step_ = shard_.step;
    return writer_->Save(*model_, *partition_, shard_);
  }

  // Durable when it returns, on every rank: launchers end the others with the first that ends.
  Status SaveNow() {
    if (saved_step_ != shard_.step) TG_RETURN_IF_ERROR(Save());
    TG_RETURN_IF_ERROR(Settle());
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const bool all, trainer_->AllTrue(true));
    return OkStatus();
  }

  Status End() {
    if (evaluated_step_ != shard_.step) TG_RETURN_IF_ERROR(Evaluate());
    const fs::path target = config_.output_dir / "base";
    report_.base = target;
    TG_ASSIGN_OR_RETURN(const std::vector<float> masters, trainer_->GatherMasters());
    std::error_code gone;
    // It is there when the run had ended already and was asked for once more.
    if (rank() != 0 || fs::exists(target / "config.json", gone)) return OkStatus();
    const fs::path& tokenizer = config_.tokenizer.empty() ? config_.base : config_.tokenizer;
    return WriteBase(target, model_config_, model_->layout(), masters, config_.save_dtype,
                     tokenizer);
  }

  Status CloseLog() {
    if (!metrics_) return OkStatus();
    ordered_json end;
    end["event"] = "end";
    end["step"] = shard_.step;
    end["stopped"] = stopped_;
    end["tokens_per_second"] = report_.tokens_per_second;
    if (report_.has_held_out) end["nll"] = report_.held_out_nll;
    TG_RETURN_IF_ERROR(metrics_->Write(end));
    return runlog::WriteRunPage(config_.output_dir);
  }

  const PretrainConfig& config_;
  const RunParts& parts_;
  model::ModelConfig model_config_;
  StepConfig steps_;
  std::unique_ptr<model::FullModel> model_;
  std::optional<Partition> partition_;
  Shard shard_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<CheckpointWriter> writer_;
  train::Identity identity_;
  std::optional<runlog::MetricsFile> metrics_;  // on rank 0
  std::optional<runlog::ProgressLine> line_;
  RunReport report_;
  int64_t saved_step_ = -1, evaluated_step_ = -1, tokens_ = 0;
  double seconds_ = 0;
  bool stopped_ = false;
};

}  // namespace

Result<RunReport> RunPretraining(const PretrainConfig& config, const RunParts& parts) {
  Run run(config, parts);
  const auto go = [&run]() -> Result<RunReport> {
    TG_RETURN_IF_ERROR(run.Open());
    TG_RETURN_IF_ERROR(run.Begin());
    return run.Steps();
  };
  Result<RunReport> report = go();
  if (!report && report.error().code() != Code::kCancelled) {
    // The others wait for this rank.
    if (parts.control != nullptr) parts.control->Abort(report.error().message());
    if (parts.data != nullptr) parts.data->Abort(report.error().message());
  }
  return report;
}

}  // namespace tidegate::pretrain
