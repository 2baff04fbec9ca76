#include "onshore/trainer/federated_job.h"

#include <fcntl.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "crypto/base_hash.h"
#include "crypto/hash.h"
#include "federation/shared/delta_codec.h"
#include "federation/shared/grid.h"
#include "federation/shared/layout.h"
#include "onshore/trainer/residual_file.h"
#include "onshore/trainer/round_update.h"
#include "protocols/strategy.h"
#include "train/checkpoint.h"

namespace tidegate::trainer {
namespace {

uint32_t Milli(double loss) {
  return std::isfinite(loss) && loss > 0
             ? static_cast<uint32_t>(std::min(std::lround(loss * 1000.0), 1000000L))
             : 0;
}

train::CheckpointStore States(const SiteOptions& options, const protocols::Id16& id) {
  // More than there can be: which ones are kept is SaveState's business.
  constexpr int kAll = 16;
  return train::CheckpointStore(JobDir(options, id) / "state", kAll);
}

// The held-out loss of the adapter that is kept; nothing when there is none, or when it was
// measured on another base or other records.
Result<std::optional<double>> KeptLoss(const std::filesystem::path& folder,
                                       const std::filesystem::path& note,
                                       const std::string& base_hash, int64_t targets) {
  if (!std::filesystem::exists(note) ||
      !std::filesystem::exists(folder / "adapter_model.safetensors")) {
    return std::nullopt;
  }
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(note, 1 << 16));
  auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object() || !json["heldout_nll"].is_number() || json["base_hash"] != base_hash ||
      json["heldout_targets"] != targets) {
    return std::nullopt;
  }
  return json["heldout_nll"].get<double>();
}

}  // namespace

Result<std::unique_ptr<FederatedJob>> FederatedJob::Decode(ByteSpan encoded,
                                                           const SiteOptions& options,
                                                           Progress progress) {
  auto manifest = protocols::Decode<protocols::JobManifest>(encoded);
  if (!manifest) return DataLoss("a job manifest: {}", manifest.error().reason);
  std::unique_ptr<FederatedJob> job(
      new FederatedJob(std::move(*manifest), options, std::move(progress)));
  const Digest digest = crypto::Sha256::Of(encoded);
  std::copy_n(digest.begin(), job->id_.size(), job->id_.begin());
  return job;
}

Result<std::unique_ptr<FederatedJob>> FederatedJob::Open(ByteSpan encoded,
                                                         const SiteOptions& options,
                                                         Progress progress) {
  TG_ASSIGN_OR_RETURN(auto job, Decode(encoded, options, std::move(progress)));
  TG_ASSIGN_OR_RETURN(const Digest hash, crypto::BaseHash(options.base));
  if (hash != job->job_.base_hash) {
    return FailedPrecondition(
        "the base in {} has hash {}, the job is for {}; give the site the job's base",
        options.base.native(), ToHex(hash), ToHex(job->job_.base_hash));
  }
  TG_RETURN_IF_ERROR(job->Load(nullptr));
  return job;
}

Result<std::unique_ptr<FederatedJob>> FederatedJob::OpenOn(const finetune::LoadedBase& base,
                                                           ByteSpan encoded,
                                                           const SiteOptions& options,
                                                           Progress progress) {
  TG_ASSIGN_OR_RETURN(auto job, Decode(encoded, options, std::move(progress)));
  TG_RETURN_IF_ERROR(job->Load(&base));
  return job;
}

Result<std::unique_ptr<FederatedJob>> FederatedJob::OpenLight(
    const finetune::LoadedBase& base, const protocols::JobManifest& job, const protocols::Id16& id,
    const SiteOptions& options, finetune::TrainingData data, Progress progress) {
  if (protocols::CarriesOver(job) || protocols::KeptGroups(job.strategy) != 0 ||
      job.local_lora_r > 0) {
    return Unsupported(
        "light sites keep nothing from round to round: leave out error_feedback, late = \"carry\", "
        "lora.local_r and strategy = \"fedsa-lora\", or play sites with --site");
  }
  std::unique_ptr<FederatedJob> light(new FederatedJob(job, options, std::move(progress)));
  light->id_ = id;
  light->leaves_nothing_ = true;
  TG_ASSIGN_OR_RETURN(const finetune::FinetuneConfig config, ConfigOf(job, id, options));
  TG_ASSIGN_OR_RETURN(light->session_, finetune::Session::Create(config, base, std::move(data)));
  TG_RETURN_IF_ERROR(light->CheckLayout());
  return light;
}

Status FederatedJob::Load(const finetune::LoadedBase* base) {
  TG_ASSIGN_OR_RETURN(const finetune::FinetuneConfig config, ConfigOf(job_, id_, options_));
  std::error_code error;
  std::filesystem::create_directories(config.output_dir, error);
  if (error) return Unavailable("cannot make {}: {}", config.output_dir.native(), error.message());
  TG_ASSIGN_OR_RETURN(session_, base != nullptr ? finetune::Session::OpenOn(config, *base)
                                                : finetune::Session::Open(config));
  TG_RETURN_IF_ERROR(CheckLayout());
  first_ = session_->state().parameters;
  TG_ASSIGN_OR_RETURN(std::optional<train::TrainState> state,
                      States(options_, id_).LoadNewest(session_->identity()));
  if (state) TG_RETURN_IF_ERROR(session_->Restore(std::move(*state)));
  return OkStatus();
}

Status FederatedJob::CheckLayout() {
  TG_ASSIGN_OR_RETURN(const model::LoraConfig trained, finetune::LoraOf(session_->config()));
  model::LoraConfig shared = trained;
  shared.r = job_.lora_r;
  shared.alpha = job_.lora_alpha;
  const model::ModelConfig& base = session_->base().config;
  const model::Adapter adapter = model::Adapter::CreateZero(base, shared);
  TG_ASSIGN_OR_RETURN(layout_, federation::LayoutOf(adapter));
  view_.emplace(adapter.tensors(), model::AdapterLayout(base, trained));
  if (layout_ != job_.layout) {
    return FailedPrecondition("the job's layout is not that of its base and LoRA shape");
  }
  return OkStatus();
}

// The version's parameters, and what is the site's own of `own`.
std::vector<float> FederatedJob::Together(std::span<const float> own) const {
  std::vector<float> out(own.begin(), own.end());
  const uint8_t kept = protocols::KeptGroups(job_.strategy);
  view_->Put(start_, static_cast<uint8_t>(protocols::kBothGroups & ~kept), out);
  return out;
}

// What the round trains, and what it is held near to.
Status FederatedJob::SetTrained(uint8_t shared) {
  TG_RETURN_IF_ERROR(session_->loop().SetProximal(
      job_.proximal_mu, Together(session_->state().parameters), view_->RangesOf(shared)));
  if (!protocols::Freezes(job_.strategy)) return OkStatus();
  const uint8_t groups = protocols::TrainedGroups(job_.strategy, shared);
  std::vector<train::Ranges> parts;
  std::vector<size_t> trained;
  for (const uint8_t group : {protocols::kOnlyA, protocols::kOnlyB}) {
    if ((groups & group) != 0) trained.push_back(parts.size());
    parts.push_back(view_->RangesOf(group));
  }
  if (job_.local_lora_r > 0) {
    trained.push_back(parts.size());
    parts.push_back(view_->LocalRanges());
  }
  return session_->loop().SetParts(std::move(parts), std::move(trained));
}

Status FederatedJob::SetAdapter(uint32_t version, ByteSpan parameters) {
  const size_t count = view_->shared_count();
  if (parameters.size() != count * sizeof(float)) {
    return DataLoss("adapter version {} has {} bytes, its layout says {}", version,
                    parameters.size(), count * sizeof(float));
  }
  std::vector<float> values(count);
  std::memcpy(values.data(), parameters.data(), parameters.size());
  std::vector<float> snapped = values;
  TG_RETURN_IF_ERROR(federation::SnapAllToGrid(snapped));
  if (snapped != values) return DataLoss("adapter version {} is not on the grid", version);
  if (version_ == version && values == start_) return OkStatus();
  start_ = std::move(values);
  version_ = version;
  heldout_milli_ = 0;
  if (!session_->has_eval()) return OkStatus();
  session_->engine().SetParameters(Together(session_->state().parameters));
  TG_ASSIGN_OR_RETURN(const train::EvalResult eval, session_->Evaluate(progress_.stop));
  heldout_milli_ = Milli(eval.nll);
  // The engine holds the loop's parameters again whatever comes next.
  session_->engine().SetParameters(session_->state().parameters);
  return KeepIfBetter(version, eval);
}

// Beside the adapter, not in the job's folder: a later job's first versions must not replace what
// an earlier job has learnt.
Status FederatedJob::KeepIfBetter(uint32_t version, const train::EvalResult& eval) {
  const std::filesystem::path folder = TrainerDir(options_) / "adapter";
  const std::filesystem::path note = TrainerDir(options_) / "kept.json";
  TG_ASSIGN_OR_RETURN(const std::optional<double> best,
                      KeptLoss(folder, note, ToHex(job_.base_hash), eval.targets));
  const bool keep = std::isfinite(eval.nll) && (!best || eval.nll < *best);
  if (keep) {
    TG_RETURN_IF_ERROR(session_->SaveAdapter(folder, Together(session_->state().parameters)));
    const nlohmann::ordered_json json = {{"job", ToHex(id_)},
                                         {"version", version},
                                         {"base_hash", ToHex(job_.base_hash)},
                                         {"heldout_targets", eval.targets},
                                         {"heldout_nll", eval.nll}};
    TG_RETURN_IF_ERROR(WriteFileDurably(note, AsBytes(json.dump() + "\n")));
  }
  if (progress_.evaluated) progress_.evaluated(version, best.value_or(0), eval.nll, keep);
  return OkStatus();
}

Result<Bytes> FederatedJob::RunRound(const onshore::RoundStart& start) {
  if (version_ != start.adapter_version) {
    return FailedPrecondition("round {} starts from adapter version {}, which is not here",
                              start.round, start.adapter_version);
  }
  std::optional<RoundNote> note;
  if (!leaves_nothing_) {
    TG_ASSIGN_OR_RETURN(note, LoadRoundNote(JobDir(options_, id_)));
  }
  if (!note || note->round != start.round) {
    TG_ASSIGN_OR_RETURN(note, Begin(start, note));
  }
  if (!note->trained || session_->state().step != note->end_step) {
    TG_RETURN_IF_ERROR(Train(*note));
  }
  return Encode(start, *note);
}

Result<Bytes> FederatedJob::Encode(const onshore::RoundStart& start, const RoundNote& note) const {
  std::vector<float> result = start_;
  view_->PutShared(session_->state().parameters, job_.phase_groups.items.at(start.phase), result);
  size_t saturated = 0;
  TG_RETURN_IF_ERROR(federation::SnapResultToGrid(start_, result, &saturated));
  if (saturated > 0 && !leaves_nothing_) {
    LogWarning("parameters_saturated site={} round={} values={} limit={}", options_.name,
               start.round, saturated, federation::kLargestOnGrid);
  }
  std::vector<double> delta = federation::Difference(start_, result);
  if (protocols::CarriesOver(job_)) TG_RETURN_IF_ERROR(AddResidual(note, start.phase, &delta));
  const TrainedWith with{note.weight, note.train_loss_milli, note.heldout_loss_milli};
  auto update =
      federation::EncodeDelta(HeaderOf(job_, id_, options_.name, start, with), layout_, delta,
                              {.norm_clip = start.norm_clip,
                               .rounding = job_.rounding,
                               .key = RoundingKey(job_, id_, options_.name)});
  // Before anybody has the update: whatever becomes of it, the next round knows what to begin with.
  if (update && protocols::CarriesOver(job_)) {
    TG_RETURN_IF_ERROR(SaveResiduals(start.round, *update, delta));
  }
  return update;
}

Status FederatedJob::AddResidual(const RoundNote& note, uint8_t phase,
                                 std::vector<double>* delta) const {
  const std::string name = phase < note.residuals.size() ? note.residuals[phase] : "";
  if (name.empty()) return OkStatus();
  const uint8_t groups = job_.phase_groups.items.at(phase);
  const auto residual =
      LoadResidual(JobDir(options_, id_), name, protocols::UpdateValues(layout_, groups));
  if (!residual && residual.error().code() == Code::kNotFound) {
    LogWarning("residual_missing {}", residual.error().message());
    return OkStatus();
  }
  if (!residual) return residual.error();
  size_t flat = 0, next = 0;
  for (const protocols::LayoutTensor& t : layout_.tensors.items) {
    const size_t count = static_cast<size_t>(t.rows) * t.cols;
    for (size_t i = 0; (groups >> t.group & 1) != 0 && i < count; ++i) {
      (*delta)[flat + i] += static_cast<double>((*residual)[next++]);
    }
    flat += count;
  }
  return OkStatus();
}

Status FederatedJob::SaveResiduals(uint32_t round, const Bytes& update,
                                   const std::vector<double>& clipped) const {
  const auto view = protocols::UpdateView::Parse(update, layout_);
  if (!view) return Internal("an encoded update does not parse: {}", view.error().reason);
  std::vector<float> carried;
  carried.reserve(view->header().values);
  std::vector<float> kept;
  kept.reserve(view->header().values);
  for (const protocols::UpdateTensor& tensor : view->tensors()) {
    protocols::ForEachValue(tensor, [&](uint64_t at, double sent) {
      carried.push_back(static_cast<float>(clipped[at]));
      kept.push_back(static_cast<float>(clipped[at] - sent));
    });
  }
  const std::filesystem::path dir = JobDir(options_, id_);
  if (job_.late == protocols::LateRule::kCarry) {
    TG_RETURN_IF_ERROR(SaveResidual(dir, CarriedName(round), carried));
  }
  return job_.error_feedback ? SaveResidual(dir, KeptName(round), kept) : OkStatus();
}

// The session at the state of this step: in memory already, on disk, or the job's first.
Status FederatedJob::GoTo(int64_t step) {
  if (session_->state().step == step) return OkStatus();
  if (step == 0) {
    return session_->Restore(train::TrainState::Start(first_, session_->config().seed));
  }
  TG_ASSIGN_OR_RETURN(train::TrainState state,
                      States(options_, id_).Load(step, session_->identity()));
  return session_->Restore(std::move(state));
}

// What the round begins with: what the one before it left in its phase's residual. Of a round that
// published no version nothing is left.
void FederatedJob::Settle(const onshore::RoundStart& start, const std::optional<RoundNote>& before,
                          RoundNote* note) const {
  if (!protocols::CarriesOver(job_)) return;
  if (before) note->residuals = before->residuals;
  const size_t phases = job_.phase_groups.size();
  note->residuals.resize(phases);
  if (!before || !before->trained || before->adapter_version == start.adapter_version) return;
  const std::string name =
      start.counted_round == before->round ? KeptName(before->round) : CarriedName(before->round);
  // One that never was an update has left none.
  if (HasResidual(JobDir(options_, id_), name)) {
    note->residuals[(before->round - 1) % phases] = name;
  }
}

// A new round goes on from where the one before ended, if that published a version. If it did not,
// it was abandoned: then from where that one began, or its steps would be gone from the schedule.
Result<RoundNote> FederatedJob::Begin(const onshore::RoundStart& start,
                                      const std::optional<RoundNote>& before) {
  if (before) {
    const bool counted = before->trained && before->adapter_version != start.adapter_version;
    const Status there = GoTo(counted ? before->end_step : before->begin_step);
    // Its file is gone: the newest state that there is has to do.
    if (!there.ok() && there.code() != Code::kNotFound && there.code() != Code::kDataLoss) {
      return Unexpected(there);
    }
  }
  RoundNote note;
  note.round = start.round;
  note.adapter_version = start.adapter_version;
  note.begin_step = session_->state().step;
  note.first_step = note.at_step =
      std::max(note.begin_step, int64_t{start.adapter_version} * job_.local_steps);
  note.end_step = note.first_step + job_.local_steps;
  note.heldout_loss_milli = heldout_milli_;
  if (leaves_nothing_) return note;
  // First, or a state of the round before could pass for one of this round.
  TG_RETURN_IF_ERROR(KeepStates(note.begin_step));
  Settle(start, before, &note);
  TG_RETURN_IF_ERROR(SaveRoundNote(JobDir(options_, id_), note));
  // Not before the note says which it begins with.
  if (protocols::CarriesOver(job_)) {
    TG_RETURN_IF_ERROR(KeepResiduals(JobDir(options_, id_), note.residuals));
  }
  return note;
}

Status FederatedJob::SaveState(const RoundNote& note) {
  if (leaves_nothing_) return OkStatus();
  TG_RETURN_IF_ERROR(SaveRoundNote(JobDir(options_, id_), note));
  TG_RETURN_IF_ERROR(States(options_, id_).Save(session_->state(), session_->identity()));
  return KeepStates(note.begin_step);
}

// Of the states on disk the one before the round stays, and the one of now.
Status FederatedJob::KeepStates(int64_t begin_step) {
  const train::CheckpointStore states = States(options_, id_);
  TG_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, states.Steps());
  for (const int64_t step : steps) {
    if (step == begin_step || step == session_->state().step) continue;
    std::error_code error;
    std::filesystem::remove(states.PathOf(step), error);
    if (error) return ErrnoStatus("remove", states.PathOf(step).native(), error.value());
  }
  return steps.empty() ? OkStatus() : SyncDirectory(states.PathOf(0).parent_path());
}

Status FederatedJob::Train(RoundNote& note) {
  const int64_t begin = SystemClock().MonotonicMillis();
  note.trained = false;
  if (note.at_step == note.first_step || !GoTo(note.at_step).ok()) {
    TG_RETURN_IF_ERROR(GoTo(note.begin_step));
    note.at_step = note.first_step;
    note.loss_sum = 0;
    note.targets = 0;
    TG_RETURN_IF_ERROR(session_->loop().SetParameters(Together(session_->state().parameters)));
    session_->loop().mutable_state().step = note.first_step;
  }
  TG_RETURN_IF_ERROR(
      SetTrained(job_.phase_groups.items.at((note.round - 1) % job_.phase_groups.size())));
  const train::TrainState& state = session_->state();
  double loss_sum = note.loss_sum;
  int64_t targets = note.targets;
  RoundWish wished = RoundWish::kGoOn;
  TG_RETURN_IF_ERROR(
      session_->loop().RunSteps(note.end_step - state.step, [&](const train::StepResult& step) {
        loss_sum += step.loss;
        targets += step.targets;
        if (progress_.wish && step.step < note.end_step) wished = progress_.wish(note.round);
        return wished == RoundWish::kGoOn;
      }));
  if (wished == RoundWish::kPause) {
    note.at_step = state.step;
    note.loss_sum = loss_sum;
    note.targets = targets;
    TG_RETURN_IF_ERROR(SaveState(note));
  }
  if (wished != RoundWish::kGoOn) {
    return Cancelled("round {} was left at step {} of {}", note.round, state.step, note.end_step);
  }
  const double seconds = static_cast<double>(SystemClock().MonotonicMillis() - begin) / 1000.0;
  return Finish(note, loss_sum, targets, seconds);
}

Status FederatedJob::Finish(RoundNote& note, double loss_sum, int64_t targets, double seconds) {
  const double loss = loss_sum / static_cast<double>(std::max(job_.local_steps, 1u));
  note.trained = true;
  note.train_loss_milli = Milli(loss);
  note.weight = job_.weighting == protocols::Weighting::kEqual
                    ? 1
                    : static_cast<uint32_t>(std::clamp<int64_t>(targets, 1, job_.max_weight));
  TG_RETURN_IF_ERROR(SaveState(note));
  TG_RETURN_IF_ERROR(AppendRoundLine(note, seconds));
  if (progress_.trained) progress_.trained(note.round, job_.local_steps, loss);
  return OkStatus();
}

Status FederatedJob::AppendRoundLine(const RoundNote& note, double seconds) const {
  if (leaves_nothing_) return OkStatus();
  const std::filesystem::path path = JobDir(options_, id_) / "rounds.jsonl";
  const nlohmann::ordered_json json = {{"round", note.round},
                                       {"adapter_version", note.adapter_version},
                                       {"train_loss", note.train_loss_milli / 1000.0},
                                       {"heldout_loss", note.heldout_loss_milli / 1000.0},
                                       {"weight", note.weight},
                                       {"steps", job_.local_steps},
                                       {"seconds", seconds}};
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus("open", path.native(), errno);
  return WriteAll(fd.get(), AsBytes(json.dump() + "\n"), path.native());
}

}  // namespace tidegate::trainer
