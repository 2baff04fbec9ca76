#include "onshore/trainer/simulation.h"

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"
#include "chart/svg.h"
#include "crypto/base_hash.h"
#include "crypto/hash.h"
#include "federation/job/job_file.h"
#include "federation/rounds/aggregate.h"
#include "federation/rounds/round.h"
#include "federation/rounds/server_optimizer.h"
#include "federation/shared/grid.h"
#include "federation/shared/layout.h"
#include "onshore/trainer/federated_job.h"
#include "protocols/strategy.h"

namespace tidegate::trainer {
namespace {

using federation::Effect;
using protocols::JobManifest;

// Sites whose sessions stay in memory; of more, each is opened for its round and closed.
constexpr size_t kLiveSites = 8;

class Simulation {
 public:
  explicit Simulation(const SimulationOptions& options) : options_(options) {}
  Result<SimulationResult> Run();

 private:
  struct Site {
    SiteOptions options;
    std::unique_ptr<FederatedJob> job;
    uint32_t counted_round = 0;
  };
  // The sum of a round under way.
  struct Sum {
    explicit Sum(size_t values) : sum(values) {}
    federation::WeightedSum sum;
    SimulatedRound round;
  };

  Status Load();
  Status PlayRound(const federation::OpenRound& open);
  Status Ask(const federation::OpenRound& open, Site& site, Sum* sum);
  Status Apply(const federation::Event& event);
  Status Publish(uint32_t round, Sum* sum);
  Status Finish();
  Status WriteRounds() const;
  Result<FederatedJob*> Open(Site& site);
  std::vector<std::string> Arrivals(uint32_t round, const std::set<std::string>& present) const;
  std::set<std::string> Present(uint32_t round) const;
  void Tell() const;

  const SimulationOptions& options_;
  JobManifest job_;
  Bytes encoded_;
  protocols::Id16 id_{};
  std::optional<finetune::LoadedBase> base_;
  std::map<std::string, Site> sites_;
  federation::JobState state_;
  std::vector<Effect> effects_;
  std::vector<float> parameters_;
  federation::ServerMoments moments_;
  SimulationResult result_;
  int64_t start_millis_ = 0;
};

Status Simulation::Load() {
  federation::JobSource source;
  source.file = options_.job_name;
  source.text = options_.job_toml;
  source.names_base = false;
  source.base_name = options_.base.native();
  TG_ASSIGN_OR_RETURN(source.model_config, ReadTextFile(options_.base / "config.json", 1 << 20));
  TG_ASSIGN_OR_RETURN(source.base_hash, crypto::BaseHash(options_.base));
  std::vector<std::string> names;
  for (const SimulatedSite& site : options_.sites) names.push_back(site.name);
  TG_ASSIGN_OR_RETURN(federation::NewJobFiles made, federation::MakeJob(source, {}, names, 0));
  job_ = std::move(made.manifest);
  parameters_ = std::move(made.parameters);
  encoded_ = protocols::Encode(job_);
  const Digest digest = crypto::Sha256::Of(encoded_);
  std::copy_n(digest.begin(), id_.size(), id_.begin());
  moments_ = federation::FirstMoments(federation::RuleOf(job_), parameters_.size());
  for (const SimulatedSite& site : options_.sites) {
    SiteOptions& o = sites_[site.name].options;
    o.name = site.name;
    o.site = options_.out / "sites" / site.name;
    o.base = options_.base;
    o.records = site.records;
    o.heldout = site.heldout;
    o.threads = options_.threads;
    o.dtype = options_.dtype;
    std::error_code error;
    std::filesystem::create_directories(o.site, error);
    if (error) return Unavailable("cannot make {}: {}", o.site.native(), error.message());
  }
  const SiteOptions& any = sites_.begin()->second.options;
  TG_ASSIGN_OR_RETURN(const finetune::FinetuneConfig config, ConfigOf(job_, id_, any));
  TG_ASSIGN_OR_RETURN(base_,
                      finetune::LoadedBase::Load(config.base, config.dtype,
                                                 finetune::ThreadsOf(config.threads), config.held));
  TG_ASSIGN_OR_RETURN(state_, federation::NewJob(federation::RulesOf(job_)));
  effects_ = federation::PendingEffects(state_);
  return OkStatus();
}

Result<FederatedJob*> Simulation::Open(Site& site) {
  if (site.job == nullptr) {
    Progress progress;
    progress.stop = options_.should_stop;
    progress.wish = [this](uint32_t) {
      return options_.should_stop && options_.should_stop() ? RoundWish::kDrop : RoundWish::kGoOn;
    };
    auto job = FederatedJob::OpenOn(*base_, encoded_, site.options, std::move(progress));
    if (!job) return Unexpected(job.error().WithContext("site " + site.options.name));
    site.job = std::move(*job);
  }
  return site.job.get();
}

std::set<std::string> Simulation::Present(uint32_t round) const {
  std::set<std::string> present;
  uint64_t index = 0;
  for (const auto& [name, site] : sites_) {
    const uint32_t word = RandomWords(job_.seed, RngPurpose::kAvailability, round, index++)[0];
    if (static_cast<double>(UniformFloat(word)) < options_.availability) present.insert(name);
  }
  return present;
}

// In which order the updates of those who were asked and are there arrive.
std::vector<std::string> Simulation::Arrivals(uint32_t round,
                                              const std::set<std::string>& present) const {
  std::vector<std::string> order;
  const auto& open = std::get<federation::Collecting>(state_.phase);
  for (const std::string& name : open.asked) {
    if (present.contains(name)) order.push_back(name);
  }
  for (size_t i = order.size(); i > 1; --i) {
    const uint32_t word = RandomWords(job_.seed, RngPurpose::kArrival, round, i)[0];
    std::swap(order[i - 1], order[UniformBelow(word, static_cast<uint32_t>(i))]);
  }
  return order;
}

Status Simulation::Apply(const federation::Event& event) {
  TG_ASSIGN_OR_RETURN(federation::Transition next, federation::Step(state_, event));
  state_ = std::move(next.state);
  effects_.insert(effects_.end(), next.effects.begin(), next.effects.end());
  return OkStatus();
}

// One site's part of a round. Once the round has ended its update is late: trained for only where
// the site would carry it over.
Status Simulation::Ask(const federation::OpenRound& open, Site& site, Sum* sum) {
  const bool collecting = std::holds_alternative<federation::Collecting>(state_.phase);
  if (!collecting && job_.late == protocols::LateRule::kDiscard) return OkStatus();
  const ByteSpan bytes(reinterpret_cast<const uint8_t*>(parameters_.data()),
                       parameters_.size() * sizeof(float));
  TG_ASSIGN_OR_RETURN(FederatedJob * job, Open(site));
  TG_RETURN_IF_ERROR(job->SetAdapter(state_.version, bytes));
  const auto update = job->RunRound({.job = id_,
                                     .round = open.round,
                                     .phase = open.phase,
                                     .adapter_version = state_.version,
                                     .norm_clip = job_.norm_clip,
                                     .train_loss = true,
                                     .heldout_loss = true,
                                     .counted_round = site.counted_round});
  if (!update) return update.error().WithContext("site " + site.options.name);
  if (sites_.size() > kLiveSites) site.job.reset();
  if (!collecting) return OkStatus();
  const auto view = protocols::UpdateView::Parse(*update, job_.layout);
  if (!view) return Internal("an update does not parse: {}", view.error().reason);
  TG_RETURN_IF_ERROR(sum->sum.Add(*view, view->header().weight));
  site.counted_round = open.round;
  ++sum->round.updates;
  sum->round.bytes += update->size();
  sum->round.train_loss += view->header().metrics.train_loss_milli / 1000.0;
  sum->round.heldout_loss += view->header().metrics.heldout_loss_milli / 1000.0;
  return Apply(federation::UpdateAccepted{
      site.options.name, open.round, {crypto::Sha256::Of(*update), view->header().weight}});
}

Status Simulation::PlayRound(const federation::OpenRound& open) {
  const std::set<std::string> present = Present(open.round);
  TG_RETURN_IF_ERROR(Apply(federation::RoundOpened{
      open.round, 0, federation::DrawSites(state_.rules, job_.seed, open.round, present)}));
  Sum sum(parameters_.size());
  sum.round.round = open.round;
  sum.round.asked = state_.rules.asked();
  for (const std::string& name : Arrivals(open.round, present)) {
    if (options_.should_stop && options_.should_stop()) {
      return Cancelled("the simulation was stopped in round {} of {}", open.round, job_.rounds);
    }
    TG_RETURN_IF_ERROR(Ask(open, sites_.at(name), &sum));
  }
  if (std::holds_alternative<federation::Collecting>(state_.phase)) {
    TG_RETURN_IF_ERROR(
        Apply(federation::TimePassed{static_cast<int64_t>(job_.round_deadline_millis)}));
  }
  if (sum.round.updates > 0) {
    sum.round.train_loss /= sum.round.updates;
    sum.round.heldout_loss /= sum.round.updates;
  }
  if (std::holds_alternative<federation::Aggregating>(state_.phase)) {
    TG_RETURN_IF_ERROR(Publish(open.round, &sum));
  }
  result_.rounds.push_back(sum.round);
  Tell();
  return WriteRounds();
}

Status Simulation::Publish(uint32_t round, Sum* sum) {
  const uint8_t groups = job_.phase_groups.items.at((round - 1) % job_.phase_groups.size());
  TG_ASSIGN_OR_RETURN(
      parameters_, federation::ServerStep(federation::RuleOf(job_), parameters_, sum->sum.sum(),
                                          sum->sum.total_weight(), job_.layout, groups, &moments_));
  TG_RETURN_IF_ERROR(federation::SnapAllToGrid(parameters_));
  sum->round.version = state_.version + 1;
  return Apply(federation::VersionPublished{state_.version + 1});
}

void Simulation::Tell() const {
  if (options_.progress == nullptr) return;
  const SimulatedRound& r = result_.rounds.back();
  const double seconds =
      static_cast<double>(SystemClock().MonotonicMillis() - start_millis_) / 1000.0;
  const double a_round = seconds / static_cast<double>(result_.rounds.size());
  const double left = a_round * (job_.rounds - state_.version);
  const std::string line = fmt::format(
      "round {}: {} of {} updates, {}, train loss {:.3f}, held out {:.3f}, {:.1f} s a round, "
      "{:.0f} s left\n",
      r.round, r.updates, r.asked,
      r.version > 0 ? fmt::format("version {} of {}", r.version, job_.rounds) : "abandoned",
      r.train_loss, r.heldout_loss, a_round, left);
  std::fputs(line.c_str(), options_.progress);
}

Status Simulation::WriteRounds() const {
  std::string text;
  chart::Line train{"training", false, {}}, heldout{"held out", true, {}};
  for (const SimulatedRound& r : result_.rounds) {
    const nlohmann::ordered_json json = {{"round", r.round},
                                         {"version", r.version},
                                         {"asked", r.asked},
                                         {"updates", r.updates},
                                         {"bytes", r.bytes},
                                         {"train_loss", r.train_loss},
                                         {"heldout_loss", r.heldout_loss}};
    text += json.dump() + "\n";
    if (r.train_loss > 0) train.points.emplace_back(r.round, r.train_loss);
    if (r.heldout_loss > 0) heldout.points.emplace_back(r.round, r.heldout_loss);
  }
  TG_RETURN_IF_ERROR(WriteFileDurably(options_.out / "rounds.jsonl", AsBytes(text)));
  const std::string svg = chart::LineChart({train, heldout}, "round", "mean loss of the updates");
  return WriteFileDurably(options_.out / "rounds.svg", AsBytes(svg));
}

// Each site ends with the last version, as it does when the final adapter comes.
Status Simulation::Finish() {
  const ByteSpan bytes(reinterpret_cast<const uint8_t*>(parameters_.data()),
                       parameters_.size() * sizeof(float));
  for (auto& [name, site] : sites_) {
    if (site.options.heldout.empty()) continue;
    TG_ASSIGN_OR_RETURN(FederatedJob * job, Open(site));
    TG_RETURN_IF_ERROR(job->SetAdapter(state_.version, bytes));
    if (sites_.size() > kLiveSites) site.job.reset();
  }
  model::Adapter adapter = model::Adapter::CreateZero(base_->config, federation::LoraOf(job_));
  std::copy(parameters_.begin(), parameters_.end(), adapter.parameters().begin());
  result_.adapter = options_.out / "adapter";
  return model::SavePeft(result_.adapter, adapter, options_.base.native());
}

Result<SimulationResult> Simulation::Run() {
  start_millis_ = SystemClock().MonotonicMillis();
  TG_RETURN_IF_ERROR(Load());
  result_.job = ToHex(id_);
  while (!effects_.empty()) {
    const std::vector<Effect> effects = std::exchange(effects_, {});
    for (const Effect& effect : effects) {
      const auto* open = std::get_if<federation::OpenRound>(&effect);
      if (open != nullptr) TG_RETURN_IF_ERROR(PlayRound(*open));
    }
  }
  const auto& ended = std::get<federation::Ended>(state_.phase);
  result_.finished = ended.finished;
  result_.version = state_.version;
  TG_RETURN_IF_ERROR(Finish());
  result_.seconds = static_cast<double>(SystemClock().MonotonicMillis() - start_millis_) / 1000.0;
  return result_;
}

}  // namespace

Result<SimulationResult> Simulate(const SimulationOptions& options) {
  return Simulation(options).Run();
}

}  // namespace tidegate::trainer
