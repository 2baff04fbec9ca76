#include "finetune/session.h"

#include <algorithm>

#include "base/checksum.h"

namespace tidegate::finetune {
namespace {

ByteSpan BytesOf(std::span<const float> values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()};
}

std::string HexOf(uint64_t value) { return fmt::format("{:016x}", value); }

std::string TargetNames(const model::LoraConfig& lora) {
  std::string names;
  for (const model::Module module : lora.targets) {
    if (!names.empty()) names += ',';
    names += model::ModuleName(module);
  }
  return names;
}

std::string LayerNames(const model::LoraConfig& lora) {
  std::string names;
  for (const int64_t layer : lora.layers) {
    names += fmt::format("{}{}", names.empty() ? "" : ",", layer);
  }
  return names;
}

}  // namespace

Result<std::unique_ptr<Session>> Session::Create(const FinetuneConfig& config, LoadedBase base,
                                                 TrainingData data) {
  TG_RETURN_IF_ERROR(CheckConfig(config));
  const int64_t positions = base.config.max_positions;
  if (config.max_length > positions) {
    return InvalidArgument(
        "--max_length {} is beyond the {} positions of the base; give {} or less",
        config.max_length, positions, positions);
  }
  std::unique_ptr<Session> session(new Session(config));
  session->base_ = std::move(base);
  TG_RETURN_IF_ERROR(session->MakeSources(std::move(data)));
  TG_RETURN_IF_ERROR(session->OpenAdapter());
  TG_RETURN_IF_ERROR(session->MakeLoop());
  return session;
}

Status Session::OpenAdapter() {
  const model::ModelConfig& shape = base_.base->config();
  if (config_.adapter.empty()) {
    TG_ASSIGN_OR_RETURN(const model::LoraConfig lora, LoraOf(config_));
    TG_RETURN_IF_ERROR(model::CheckLoraFits(lora, shape));
    TG_RETURN_IF_ERROR(model::CheckPatternsAreUsed(lora, shape));
    adapter_ = model::Adapter::Create(shape, lora, config_.seed);
  } else {
    TG_ASSIGN_OR_RETURN(adapter_, model::LoadPeft(config_.adapter, shape));
  }
  TG_ASSIGN_OR_RETURN(
      engine_, model::Engine::Create(base_.base, adapter_->lora(),
                                     {.gradient_checkpointing = config_.gradient_checkpointing}));
  const auto parameters = std::as_const(*adapter_).parameters();
  start_checksum_ = HexOf(ChecksumOf(BytesOf(parameters)));
  state_ = train::TrainState::Start({parameters.begin(), parameters.end()}, config_.seed);
  return OkStatus();
}

Status Session::MakeSources(TrainingData data) {
  train_report_ = data.train.report;
  eval_report_ = data.eval.report;
  tokens::BatchOptions batches{.seed = config_.seed,
                               .shuffle = true,
                               .packed = config_.packing,
                               .max_length = config_.max_length,
                               .rows_per_batch = config_.per_device_train_batch_size};
  TG_ASSIGN_OR_RETURN(source_, tokens::MakeBatchSource(std::move(data.train.sequences), batches));
  if (!data.eval.sequences.empty()) {
    batches.shuffle = false;
    TG_ASSIGN_OR_RETURN(eval_source_,
                        tokens::MakeBatchSource(std::move(data.eval.sequences), batches));
  }
  return OkStatus();
}

Status Session::MakeLoop() {
  TG_ASSIGN_OR_RETURN(
      loop_config_, LoopOf(config_, source_->WindowsPerEpoch(config_.gradient_accumulation_steps)));
  FillIdentity();
  return Restore(std::move(state_));
}

void Session::FillIdentity() {
  const model::LoraConfig& lora = adapter_->lora();
  const train::ScheduleConfig& schedule = loop_config_.schedule;
  const train::AdamWConfig& adamw = loop_config_.adamw;
  identity_ = {
      {"base", base_.base_checksum},
      {"tokenizer", base_.tokenizer_checksum},
      {"data plan", HexOf(source_->fingerprint())},  // tokens and their order; its options by name:
      {"max_length", fmt::format("{}", config_.max_length)},
      {"packing", config_.packing ? "true" : "false"},
      {"per_device_train_batch_size", fmt::format("{}", config_.per_device_train_batch_size)},
      {"assistant_only_loss", config_.assistant_only_loss ? "true" : "false"},
      {"first adapter", start_checksum_},
      {"dtype", base_.dtype_name()},
      {"lora_r", fmt::format("{}", lora.r)},
      {"lora_alpha", fmt::format("{}", lora.alpha)},
      {"lora_dropout", fmt::format("{}", lora.dropout)},
      {"lora_target_modules", TargetNames(lora)},
      {"use_rslora", lora.rslora ? "true" : "false"},
      {"gradient_accumulation_steps", fmt::format("{}", loop_config_.gradient_accumulation_steps)},
      {"lr_scheduler_type", std::string(train::SchedulerName(schedule.type))},
      {"learning_rate", fmt::format("{}", schedule.learning_rate)},
      {"warmup_steps", fmt::format("{}", schedule.warmup_steps)},
      {"total steps", fmt::format("{}", schedule.total_steps)},
      {"weight_decay", fmt::format("{}", adamw.weight_decay)},
      {"max_grad_norm", fmt::format("{}", adamw.max_grad_norm)},
      {"seed", fmt::format("{}", config_.seed)},
      {std::string(train::kAboutPrefix) + "kernels", base_.kernels().isa},
  };
  if (!lora.layers.empty()) {
    identity_["layers_to_transform"] = LayerNames(lora);
  }
  if (!lora.rank_pattern.empty()) identity_["rank_pattern"] = model::RankPatternJson(lora);
  if (!lora.alpha_pattern.empty()) identity_["alpha_pattern"] = model::AlphaPatternJson(lora);
}

Status Session::Restore(train::TrainState state) {
  if (state.parameters.size() != adapter_->parameters().size()) {
    return InvalidArgument("the state has {} parameters, the adapter {}", state.parameters.size(),
                           adapter_->parameters().size());
  }
  state_ = std::move(state);
  loop_.reset();
  TG_ASSIGN_OR_RETURN(
      train::TrainLoop loop,
      train::TrainLoop::Create(*engine_, *source_, &base_.host_kernels(),
                               base_.base->compute().threads, loop_config_, state_));
  loop_.emplace(std::move(loop));
  return OkStatus();
}

Result<train::EvalResult> Session::Evaluate(const std::function<bool()>& should_stop) {
  if (!has_eval()) {
    return FailedPrecondition("there is no held-out data; give --eval_data or --eval_split");
  }
  return train::EvaluateAll(*engine_, *eval_source_, should_stop);
}

Status Session::SaveAdapter(const std::filesystem::path& dir,
                            std::span<const float> parameters) const {
  model::Adapter out = *adapter_;
  std::copy(parameters.begin(), parameters.end(), out.parameters().begin());
  const std::string name = config_.base_name.empty() ? config_.base.native() : config_.base_name;
  return model::SavePeft(dir, out, name);
}

}  // namespace tidegate::finetune
