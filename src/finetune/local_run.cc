// From files to a session: what the local verbs and the federated trainer open.
#include "finetune/finetune.h"

namespace tidegate::finetune {

Result<std::unique_ptr<Session>> Session::Open(const FinetuneConfig& config) {
  TG_RETURN_IF_ERROR(CheckConfig(config));
  TG_ASSIGN_OR_RETURN(LoadedBase base,
                      LoadedBase::Load(config.base, config.dtype, ThreadsOf(config.threads),
                                       config.held, config.device));
  return OpenOn(config, std::move(base));
}

Result<std::unique_ptr<Session>> Session::OpenOn(const FinetuneConfig& config, LoadedBase base) {
  const DataOptions options{config.max_length, config.assistant_only_loss};
  TrainingData data;
  TG_ASSIGN_OR_RETURN(data.train, LoadDataset(config.data, base, options));
  if (!config.eval_data.empty()) {
    TG_ASSIGN_OR_RETURN(data.eval, LoadDataset(config.eval_data, base, options));
  } else if (config.eval_split > 0) {
    TG_ASSIGN_OR_RETURN(data.eval, HoldOut(&data.train, config.eval_split, config.seed));
  }
  return Create(config, std::move(base), std::move(data));
}

Result<FinetuneSummary> RunFinetune(const FinetuneConfig& config, const RunHooks& hooks) {
  TG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::Open(config));
  return RunSession(hooks, *session);
}

}  // namespace tidegate::finetune
