#include "finetune/evaluate.h"

#include "finetune/config.h"

namespace tidegate::finetune {

Status CheckEvalConfig(const EvalConfig& config) {
  FinetuneConfig same;
  same.device = config.device;
  same.dtype = config.dtype;
  same.threads = config.threads;
  same.max_length = config.max_length;
  TG_RETURN_IF_ERROR(CheckConfig(same));
  if (config.per_device_eval_batch_size < 1 || config.per_device_eval_batch_size > kMaxRowsABatch) {
    return InvalidArgument("--per_device_eval_batch_size {} must be between 1 and {}",
                           config.per_device_eval_batch_size, kMaxRowsABatch);
  }
  if (config.max_new_tokens < 1 || config.max_new_tokens > kMaxNewTokens) {
    return InvalidArgument("--max_new_tokens {} must be between 1 and {}", config.max_new_tokens,
                           kMaxNewTokens);
  }
  return OkStatus();
}

Result<std::unique_ptr<model::Engine>> MakeEngine(const LoadedBase& base,
                                                  const std::filesystem::path& adapter) {
  if (adapter.empty()) {
    // Without a target there is nothing to add: the base itself.
    return model::Engine::Create(base.base, model::LoraConfig());
  }
  TG_ASSIGN_OR_RETURN(const model::Adapter loaded, model::LoadPeft(adapter, base.base->config()));
  TG_ASSIGN_OR_RETURN(auto engine, model::Engine::Create(base.base, loaded.lora()));
  engine->SetParameters(loaded.parameters());
  return engine;
}

Result<EvalSummary> RunEval(const EvalConfig& config, const std::function<bool()>& should_stop) {
  TG_RETURN_IF_ERROR(CheckEvalConfig(config));
  TG_ASSIGN_OR_RETURN(const LoadedBase base,
                      LoadedBase::Load(config.base, config.dtype, ThreadsOf(config.threads),
                                       config.held, config.device));
  TG_ASSIGN_OR_RETURN(const auto engine, MakeEngine(base, config.adapter));
  TG_ASSIGN_OR_RETURN(Dataset data,
                      LoadDataset(config.data, base,
                                  {.max_length = config.max_length,
                                   .assistant_only_loss = config.assistant_only_loss}));
  EvalSummary summary;
  summary.report = data.report;
  TG_ASSIGN_OR_RETURN(
      const auto source,
      tokens::MakeBatchSource(std::move(data.sequences),
                              {.shuffle = false,
                               .packed = true,
                               .max_length = config.max_length,
                               .rows_per_batch = config.per_device_eval_batch_size}));
  TG_ASSIGN_OR_RETURN(summary.loss, train::EvaluateAll(*engine, *source, should_stop));
  if (config.exact_match) {
    TG_ASSIGN_OR_RETURN(const std::vector<Question> questions, LoadQuestions(config.data, base));
    TG_ASSIGN_OR_RETURN(summary.exact_match, MeasureExactMatch(*engine, base, questions,
                                                               config.max_new_tokens, should_stop));
  }
  return summary;
}

}  // namespace tidegate::finetune
