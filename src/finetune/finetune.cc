#include "finetune/finetune.h"

#include "base/checksum.h"
#include "finetune/run_log.h"
#include "runlog/run_page.h"
#include "train/checkpoint.h"

namespace tidegate::finetune {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

std::string ParametersChecksum(std::span<const float> values) {
  return fmt::format("{:016x}", ChecksumOf({reinterpret_cast<const uint8_t*>(values.data()),
                                            values.size_bytes()}));
}

ordered_json StartLine(const Session& session, const std::string& walls) {
  ordered_json line;
  line["event"] = "start";
  line["walls"] = walls;
  line["threads"] = session.base().base->compute().threads;
  line["resumed_at"] = session.state().step;
  line["train"] = ReportJson(session.train_report());
  if (session.has_eval()) line["eval"] = ReportJson(session.eval_report());
  for (const auto& [name, value] : session.identity()) line["run"][name] = value;
  return line;
}

// One run, from an open session to its files.
class Runner {
 public:
  Runner(const RunHooks& hooks, Session& session)
      : config_(session.config()),
        hooks_(hooks),
        session_(session),
        store_(config_.output_dir / "state"),
        total_(session.loop().config().schedule.total_steps),
        log_(config_, total_, hooks.progress, hooks.terminal) {}

  Result<FinetuneSummary> Run() {
    TG_RETURN_IF_ERROR(Start());
    if (const Status status = Train(); !status.ok()) return Unexpected(WithRemedy(status));
    Summarize();
    return summary_;
  }

 private:
  bool StopAsked() const { return hooks_.should_stop && hooks_.should_stop(); }

  // Whether early stopping has ended the run. A resumed run knows it from its state.
  bool EndedEarly() const {
    return config_.early_stopping_patience > 0 &&
           session_.state().best.evaluations_since >= config_.early_stopping_patience;
  }

  Status Train() {
    // Due, and cut short by what stopped the run before.
    if (EvaluationIsDue()) TG_RETURN_IF_ERROR(EvaluateStep(session_.state().step));
    while (session_.state().step < total_ && !summary_.stopped && !EndedEarly()) {
      const Status status = OneStep();
      // A step that is not finite changed nothing: what was learnt before it is kept.
      if (status.code() == Code::kFailedPrecondition) TG_RETURN_IF_ERROR(SaveIfNew());
      TG_RETURN_IF_ERROR(status);
    }
    log_.FinishLine();
    // The state first: a disk that is full for the adapter then costs no step.
    TG_RETURN_IF_ERROR(SaveIfNew());
    if (!summary_.stopped) TG_RETURN_IF_ERROR(Finish());
    TG_RETURN_IF_ERROR(log_.End(EndLine()));
    return runlog::WriteRunPage(config_.output_dir);
  }

  Status WithRemedy(const Status& status) const {
    if (status.code() != Code::kResourceExhausted) return status;
    return Status(status.code(),
                  fmt::format("{}; step {} of {} is saved in {}: free space there, then --resume",
                              status.message(), saved_step_, total_, config_.output_dir.native()));
  }

  Status Start() {
    std::error_code error;
    fs::create_directories(config_.output_dir, error);
    if (error) return ErrnoStatus("create", config_.output_dir.native(), error.value());
    TG_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, store_.Steps());
    if (!steps.empty() && !config_.resume) {
      return AlreadyExists(
          "{} holds a training state of step {}; give --resume to go on with it, or another "
          "--output_dir",
          config_.output_dir.native(), steps.back());
    }
    if (config_.resume) {
      TG_ASSIGN_OR_RETURN(auto state, store_.LoadNewest(session_.identity()));
      if (state) TG_RETURN_IF_ERROR(session_.Restore(std::move(*state)));
    }
    saved_step_ = session_.state().step;
    return log_.Open(session_.state().step, StartLine(session_, hooks_.walls));
  }

  Status OneStep() {
    TG_ASSIGN_OR_RETURN(const train::StepResult step, session_.loop().Step());
    tokens_ += step.tokens;
    seconds_ += step.seconds;
    summary_.last_loss = step.loss;
    ++summary_.steps_here;
    TG_RETURN_IF_ERROR(log_.Step(step));
    if (EvaluationIsDue()) TG_RETURN_IF_ERROR(EvaluateStep(step.step));
    summary_.stopped = summary_.stopped || StopAsked();
    const bool save = config_.save_steps > 0 && step.step % config_.save_steps == 0;
    return save ? SaveIfNew() : OkStatus();
  }

  bool EvaluationIsDue() const {
    const train::TrainState& state = session_.state();
    return config_.eval_steps > 0 && state.step > 0 && state.step % config_.eval_steps == 0 &&
           state.best.last_step != state.step;
  }

  // An evaluation that a stop cuts short is left out of the state: the resumed run begins with it.
  Status EvaluateStep(int64_t step) {
    const auto eval = session_.Evaluate(hooks_.should_stop);
    if (!eval && eval.error().code() == Code::kCancelled) {
      summary_.stopped = true;
      return OkStatus();
    }
    if (!eval) return eval.error();
    TG_RETURN_IF_ERROR(log_.Eval(step, *eval, true));
    train::BestEval& best = session_.loop().mutable_state().best;
    unsaved_ = true;
    if (!train::NoteEvaluation(step, eval->nll, config_.early_stopping_threshold, &best)) {
      return OkStatus();
    }
    const auto& parameters = session_.state().parameters;
    TG_RETURN_IF_ERROR(session_.SaveAdapter(config_.output_dir / "best", parameters));
    best.parameters_checksum = ParametersChecksum(parameters);
    return Save();  // best/ and the state that names it go together
  }

  Status SaveIfNew() {
    return session_.state().step == saved_step_ && !unsaved_ ? OkStatus() : Save();
  }

  Status Save() {
    TG_RETURN_IF_ERROR(store_.Save(session_.state(), session_.identity()));
    saved_step_ = session_.state().step;
    unsaved_ = false;
    return OkStatus();
  }

  // The parameters of the best evaluation, checked against what the state says of them.
  Result<std::vector<float>> BestParameters() {
    const train::BestEval& best = session_.state().best;
    TG_ASSIGN_OR_RETURN(
        const model::Adapter adapter,
        model::LoadPeft(config_.output_dir / "best", session_.base().base->config()));
    const auto parameters = adapter.parameters();
    if (ParametersChecksum(parameters) != best.parameters_checksum) {
      return DataLoss("{} is not the adapter of step {} that the state names",
                      (config_.output_dir / "best").native(), best.step);
    }
    return std::vector<float>(parameters.begin(), parameters.end());
  }

  Status Finish() {
    const train::BestEval& best = session_.state().best;
    summary_.ended_early = EndedEarly() && session_.state().step < total_;
    if (summary_.ended_early) {
      log_.Note(
          fmt::format("stopped early at step {}: evaluations in a row without improvement: {}",
                      session_.state().step, best.evaluations_since));
    }
    std::vector<float> written = session_.state().parameters;
    const bool load_best = config_.load_best_model_at_end && best.step > 0;
    if (load_best) {
      TG_ASSIGN_OR_RETURN(written, BestParameters());
    }
    if (session_.has_eval()) {
      session_.engine().SetParameters(written);
      const auto eval = session_.Evaluate(hooks_.should_stop);
      session_.engine().SetParameters(session_.state().parameters);
      if (!eval && eval.error().code() == Code::kCancelled) {
        summary_.stopped = true;
        return OkStatus();
      }
      if (!eval) return eval.error();
      summary_.has_eval = true;
      summary_.eval = *eval;
      const bool in_curve = !load_best && best.last_step != session_.state().step;
      TG_RETURN_IF_ERROR(log_.Eval(session_.state().step, *eval, in_curve));
    }
    return session_.SaveAdapter(config_.output_dir, written);
  }

  ordered_json EndLine() const {
    ordered_json line;
    line["event"] = "end";
    line["stopped"] = summary_.stopped;
    line["ended_early"] = summary_.ended_early;
    line["steps"] = session_.state().step;
    line["tokens_seen"] = session_.state().tokens_seen;
    line["targets_seen"] = session_.state().targets_seen;
    return line;
  }

  void Summarize() {
    const train::TrainState& state = session_.state();
    summary_.steps = state.step;
    summary_.total_steps = total_;
    summary_.tokens_per_second = seconds_ > 0 ? static_cast<double>(tokens_) / seconds_ : 0.0;
    summary_.tokens_seen = state.tokens_seen;
    summary_.targets_seen = state.targets_seen;
    summary_.skipped_windows = state.skipped_windows;
    summary_.best_step = state.best.step;
    summary_.train_report = session_.train_report();
    summary_.eval_report = session_.eval_report();
    summary_.dtype = session_.base().dtype_name();
    summary_.kernels = session_.base().kernels().isa;
    summary_.threads = session_.base().base->compute().threads;
  }

  const FinetuneConfig& config_;
  const RunHooks& hooks_;
  Session& session_;
  train::CheckpointStore store_;
  int64_t total_;
  RunLog log_;
  FinetuneSummary summary_;
  int64_t saved_step_ = 0;
  bool unsaved_ = false;  // an evaluation has changed the state since
  int64_t tokens_ = 0;
  double seconds_ = 0;
};

}  // namespace

Result<FinetuneSummary> RunSession(const RunHooks& hooks, Session& session) {
  return Runner(hooks, session).Run();
}

}  // namespace tidegate::finetune
