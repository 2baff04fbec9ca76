// A site's training: base, adapter, data and loop, loaded once. The local verbs run it from end to
// end; a federated trainer calls it round by round:
//
//   Session::Open(config) → each round: loop().SetParameters(round's adapter), loop().RunSteps(k),
//   state().parameters, Evaluate() → the state lives on across rounds.
//
// With config.max_steps = rounds · local steps there is one schedule over all rounds. Not
// thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/status.h"
#include "finetune/config.h"
#include "finetune/dataset.h"
#include "finetune/loaded_base.h"
#include "model/adapter.h"
#include "train/checkpoint.h"
#include "train/loop.h"

namespace tidegate::finetune {

class Session {
 public:
  // Loads base and data, makes or reads the adapter, and sets the loop to step 0. Errors name the
  // file, and the line of a bad record.
  static Result<std::unique_ptr<Session>> Open(const FinetuneConfig& config);
  // The same with a base that is loaded already, as `config` says.
  static Result<std::unique_ptr<Session>> OpenOn(const FinetuneConfig& config, LoadedBase base);
  // The same with base and data that are loaded already.
  static Result<std::unique_ptr<Session>> Create(const FinetuneConfig& config, LoadedBase base,
                                                 TrainingData data);

  const FinetuneConfig& config() const { return config_; }
  const LoadedBase& base() const { return base_; }
  model::Engine& engine() { return *engine_; }
  train::TrainLoop& loop() { return *loop_; }
  const train::TrainState& state() const { return state_; }
  const DataReport& train_report() const { return train_report_; }
  bool has_eval() const { return eval_source_ != nullptr; }
  const DataReport& eval_report() const { return eval_report_; }

  // Everything that decides the bits of this run; see train/checkpoint.h.
  const train::Identity& identity() const { return identity_; }

  // Goes on from a saved state; CheckIdentity is the caller's (CheckpointStore does it).
  Status Restore(train::TrainState state);

  // Token-weighted NLL over the held-out data with the parameters of now; kFailedPrecondition when
  // there is no held-out data, kCancelled when `should_stop` said so.
  Result<train::EvalResult> Evaluate(const std::function<bool()>& should_stop);

  // Writes the parameters, or others of the same layout, as a PEFT folder.
  Status SaveAdapter(const std::filesystem::path& dir, std::span<const float> parameters) const;

 private:
  explicit Session(FinetuneConfig config) : config_(std::move(config)) {}
  Status OpenAdapter();
  Status MakeSources(TrainingData data);
  Status MakeLoop();
  void FillIdentity();

  FinetuneConfig config_;
  LoadedBase base_;
  std::optional<model::Adapter> adapter_;  // the layout; the parameters are the state's
  std::unique_ptr<model::Engine> engine_;
  std::unique_ptr<tokens::BatchSource> source_;
  std::unique_ptr<tokens::BatchSource> eval_source_;
  DataReport train_report_, eval_report_;
  train::TrainState state_;
  std::optional<train::TrainLoop> loop_;
  train::LoopConfig loop_config_;
  train::Identity identity_;
  std::string start_checksum_;
};

}  // namespace tidegate::finetune
