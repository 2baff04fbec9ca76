#include "onshore/trainer/simulation.h"

#include <sys/resource.h>

#include <algorithm>
#include <set>

#include "base/checksum.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"
#include "crypto/base_hash.h"
#include "crypto/hash.h"
#include "federation/job/job_file.h"
#include "federation/rounds/aggregate.h"
#include "federation/rounds/round.h"
#include "federation/rounds/server_optimizer.h"
#include "federation/shared/grid.h"
#include "federation/shared/layout.h"
#include "onshore/trainer/federated_job.h"
#include "onshore/trainer/simulated_sites.h"
#include "onshore/trainer/simulation_charts.h"
#include "protocols/strategy.h"

namespace tidegate::trainer {
namespace {

using federation::Effect;

ByteSpan BytesOf(const std::vector<float>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float)};
}

int64_t PeakBytes() {
  struct rusage usage = {};
  return ::getrusage(RUSAGE_SELF, &usage) == 0 ? int64_t{usage.ru_maxrss} * 1024 : 0;
}

// What a rank adds to a round, in whole numbers: their sum is the same in any order.
class RoundSum {
 public:
  explicit RoundSum(size_t values) : sum_(values) {}

  Status Take(ByteSpan update, const protocols::Layout& layout) {
    const auto view = protocols::UpdateView::Parse(update, layout);
    if (!view) return Internal("an update does not parse: {}", view.error().reason);
    TG_RETURN_IF_ERROR(sum_.Add(*view, view->header().weight));
    bytes_ += static_cast<int64_t>(update.size());
    train_milli_ += view->header().metrics.train_loss_milli;
    heldout_milli_ += view->header().metrics.heldout_loss_milli;
    return OkStatus();
  }

  // The sums of values come first, then these.
  enum Tail : size_t { kWeight, kBytes, kTrain, kHeldout, kPeak, kCheck, kTail };
  std::vector<int64_t> Values(int64_t check) const {
    std::vector<int64_t> out(sum_.sum().begin(), sum_.sum().end());
    out.insert(out.end(), {static_cast<int64_t>(sum_.total_weight()), bytes_, train_milli_,
                           heldout_milli_, PeakBytes(), check});
    return out;
  }

 private:
  federation::WeightedSum sum_;
  int64_t bytes_ = 0, train_milli_ = 0, heldout_milli_ = 0;
};

class Simulation {
 public:
  explicit Simulation(const SimulationOptions& options) : options_(options) {}
  Result<SimulationResult> Run();

 private:
  struct Part {
    size_t site = 0;
    bool in_time = false;
  };

  Status Load();
  Status LoadSites();
  Status PlayRound(const federation::OpenRound& open);
  Result<std::vector<Part>> PartsOf(const federation::OpenRound& open,
                                    const std::vector<size_t>& arrivals);
  Status Train(const federation::OpenRound& open, const std::vector<Part>& parts, RoundSum* sum);
  Status Apply(const federation::Event& event);
  Result<std::vector<int64_t>> OverRanks(const RoundSum& sum) const;
  Status Publish(uint32_t round, std::span<const int64_t> sum, uint64_t weight);
  Status Finish();
  std::vector<size_t> Arrivals(uint32_t round, const std::set<std::string>& present) const;
  std::set<std::string> Present(uint32_t round) const;
  void Tell() const;
  bool IsMine(size_t site) const {
    return site % static_cast<size_t>(options_.ranks) == static_cast<size_t>(options_.rank);
  }
  static double SecondsSince(int64_t millis) {
    return static_cast<double>(SystemClock().MonotonicMillis() - millis) / 1000.0;
  }

  const SimulationOptions& options_;
  SimulatedJob job_;
  std::optional<finetune::LoadedBase> base_;
  std::unique_ptr<SimulatedSites> sites_;
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
  source.unnamed_sites = options_.light.sites;
  TG_ASSIGN_OR_RETURN(source.model_config, ReadTextFile(options_.base / "config.json", 1 << 20));
  TG_ASSIGN_OR_RETURN(source.base_hash, crypto::BaseHash(options_.base));
  std::vector<std::string> names;
  for (const SimulatedSite& site : options_.sites) names.push_back(site.name);
  TG_ASSIGN_OR_RETURN(federation::NewJobFiles made, federation::MakeJob(source, {}, names, 0));
  job_.manifest = std::move(made.manifest);
  parameters_ = std::move(made.parameters);
  job_.encoded = protocols::Encode(job_.manifest);
  const Digest digest = crypto::Sha256::Of(job_.encoded);
  std::copy_n(digest.begin(), job_.id.size(), job_.id.begin());
  moments_ = federation::FirstMoments(federation::RuleOf(job_.manifest), parameters_.size());
  federation::RoundRules rules = federation::RulesOf(job_.manifest);
  for (uint32_t i = 0; i < options_.light.sites; ++i) rules.sites.push_back(LightSiteName(i));
  TG_ASSIGN_OR_RETURN(state_, federation::NewJob(std::move(rules), kMaxLightSites));
  effects_ = federation::PendingEffects(state_);
  result_.job = ToHex(job_.id);
  result_.sites = state_.rules.sites.size();
  result_.ranks = options_.ranks;
  return LoadSites();
}

Status Simulation::LoadSites() {
  TG_ASSIGN_OR_RETURN(const finetune::FinetuneConfig config,
                      ConfigOf(job_.manifest, job_.id, AnySite(options_)));
  TG_ASSIGN_OR_RETURN(base_,
                      finetune::LoadedBase::Load(config.base, config.dtype,
                                                 finetune::ThreadsOf(config.threads), config.held));
  TG_ASSIGN_OR_RETURN(sites_, options_.light.sites > 0 ? OpenLightSites(options_, job_, *base_)
                                                       : OpenFolderSites(options_, job_, *base_));
  return OkStatus();
}

std::set<std::string> Simulation::Present(uint32_t round) const {
  std::set<std::string> present;
  uint64_t index = 0;
  for (const std::string& name : state_.rules.sites) {
    const uint32_t word =
        RandomWords(job_.manifest.seed, RngPurpose::kAvailability, round, index++)[0];
    if (static_cast<double>(UniformFloat(word)) < options_.availability) {
      present.insert(present.end(), name);
    }
  }
  return present;
}

// In which order the updates of those who were asked and are there arrive.
std::vector<size_t> Simulation::Arrivals(uint32_t round,
                                         const std::set<std::string>& present) const {
  std::vector<size_t> order;
  const std::vector<std::string>& sites = state_.rules.sites;
  for (const std::string& name : std::get<federation::Collecting>(state_.phase).asked) {
    if (!present.contains(name)) continue;
    order.push_back(
        static_cast<size_t>(std::lower_bound(sites.begin(), sites.end(), name) - sites.begin()));
  }
  for (size_t i = order.size(); i > 1; --i) {
    const uint32_t word = RandomWords(job_.manifest.seed, RngPurpose::kArrival, round, i)[0];
    std::swap(order[i - 1], order[UniformBelow(word, static_cast<uint32_t>(i))]);
  }
  return order;
}

// After an error there is no state any more, and no simulation.
Status Simulation::Apply(const federation::Event& event) {
  TG_ASSIGN_OR_RETURN(federation::Transition next, federation::Step(std::move(state_), event));
  state_ = std::move(next.state);
  effects_.insert(effects_.end(), next.effects.begin(), next.effects.end());
  return OkStatus();
}

// Who trains in the round, and which of the updates is in time. That does not depend on what is in
// them: every rank knows it of all, before the first one trains. Once the round has ended an update
// is late: trained for only where the site would carry it over.
Result<std::vector<Simulation::Part>> Simulation::PartsOf(const federation::OpenRound& open,
                                                          const std::vector<size_t>& arrivals) {
  std::vector<Part> parts;
  for (const size_t site : arrivals) {
    const bool in_time = std::holds_alternative<federation::Collecting>(state_.phase);
    if (!in_time && job_.manifest.late == protocols::LateRule::kDiscard) break;
    parts.push_back({site, in_time});
    if (!in_time) continue;
    const std::string name = state_.rules.sites[site];
    TG_RETURN_IF_ERROR(Apply(federation::UpdateAccepted{name, open.round, {}}));
  }
  if (std::holds_alternative<federation::Collecting>(state_.phase)) {
    TG_RETURN_IF_ERROR(
        Apply(federation::TimePassed{static_cast<int64_t>(job_.manifest.round_deadline_millis)}));
  }
  return parts;
}

// Nothing is allocated in here that outlives a site: with 1,000 of them the heap would be full of
// holes as large as what one of them trains in.
Status Simulation::Train(const federation::OpenRound& open, const std::vector<Part>& parts,
                         RoundSum* sum) {
  for (const Part& part : parts) {
    if (options_.should_stop && options_.should_stop()) {
      return Cancelled("the simulation was stopped in round {} of {}", open.round,
                       job_.manifest.rounds);
    }
    if (!IsMine(part.site)) continue;
    TG_ASSIGN_OR_RETURN(const Bytes update, sites_->Train(part.site, BytesOf(parameters_),
                                                          {.job = job_.id,
                                                           .round = open.round,
                                                           .phase = open.phase,
                                                           .adapter_version = state_.version,
                                                           .norm_clip = job_.manifest.norm_clip,
                                                           .train_loss = true,
                                                           .heldout_loss = true}));
    if (!part.in_time) continue;
    TG_RETURN_IF_ERROR(sum->Take(update, job_.manifest.layout));
    sites_->Counted(part.site, open.round);
  }
  return OkStatus();
}

Result<std::vector<int64_t>> Simulation::OverRanks(const RoundSum& sum) const {
  // Ranks that do not start from the same version would add what does not belong together.
  const auto check = static_cast<int64_t>(ChecksumOf(BytesOf(parameters_)) >> 32);
  std::vector<int64_t> values = sum.Values(check);
  if (options_.ranks == 1) return values;
  TG_RETURN_IF_ERROR(options_.add_over_ranks(values));
  if (values.back() != check * options_.ranks) {
    return Internal("rank {} of {} has another version {} than the others", options_.rank,
                    options_.ranks, state_.version);
  }
  return values;
}

Status Simulation::PlayRound(const federation::OpenRound& open) {
  const int64_t begin = SystemClock().MonotonicMillis();
  const protocols::JobManifest& job = job_.manifest;
  const std::set<std::string> present = Present(open.round);
  TG_RETURN_IF_ERROR(Apply(federation::RoundOpened{
      open.round, 0, federation::DrawSites(state_.rules, job.seed, open.round, present)}));
  RoundSum sum(parameters_.size());
  SimulatedRound round;
  round.round = open.round;
  round.asked = state_.rules.asked();
  const std::vector<size_t> arrivals = Arrivals(open.round, present);
  round.bytes_down = arrivals.size() * BytesOf(parameters_).size();
  TG_ASSIGN_OR_RETURN(const std::vector<Part> parts, PartsOf(open, arrivals));
  for (const Part& part : parts) round.updates += part.in_time ? 1 : 0;
  TG_RETURN_IF_ERROR(Train(open, parts, &sum));
  TG_ASSIGN_OR_RETURN(const std::vector<int64_t> values, OverRanks(sum));
  const std::span<const int64_t> all = values;
  const auto tail = all.last(RoundSum::kTail);
  const double count = std::max(round.updates, 1u);
  round.bytes = static_cast<uint64_t>(tail[RoundSum::kBytes]);
  round.train_loss = static_cast<double>(tail[RoundSum::kTrain]) / 1000.0 / count;
  round.heldout_loss = static_cast<double>(tail[RoundSum::kHeldout]) / 1000.0 / count;
  round.peak_bytes = static_cast<uint64_t>(tail[RoundSum::kPeak]);
  if (std::holds_alternative<federation::Aggregating>(state_.phase)) {
    TG_RETURN_IF_ERROR(Publish(open.round, all.first(parameters_.size()),
                               static_cast<uint64_t>(tail[RoundSum::kWeight])));
    round.version = state_.version;
  }
  round.seconds = SecondsSince(begin);
  result_.rounds.push_back(round);
  if (options_.rank != 0) return OkStatus();
  Tell();
  return WriteRounds(options_.out, result_);
}

Status Simulation::Publish(uint32_t round, std::span<const int64_t> sum, uint64_t weight) {
  const protocols::JobManifest& job = job_.manifest;
  const uint8_t groups = job.phase_groups.items.at((round - 1) % job.phase_groups.size());
  TG_ASSIGN_OR_RETURN(parameters_, federation::ServerStep(federation::RuleOf(job), parameters_, sum,
                                                          weight, job.layout, groups, &moments_));
  size_t saturated = 0;
  TG_RETURN_IF_ERROR(federation::SaturateAllToGrid(parameters_, &saturated));
  if (saturated > 0 && options_.rank == 0) {
    LogWarning("parameters_saturated job={} round={} values={} limit={}", job.name.text, round,
               saturated, federation::kLargestOnGrid);
  }
  return Apply(federation::VersionPublished{state_.version + 1});
}

void Simulation::Tell() const {
  if (options_.progress == nullptr) return;
  const SimulatedRound& r = result_.rounds.back();
  const double a_round = SecondsSince(start_millis_) / static_cast<double>(result_.rounds.size());
  const double left = a_round * (job_.manifest.rounds - state_.version);
  const std::string version = r.version > 0
                                  ? fmt::format("version {} of {}", r.version, job_.manifest.rounds)
                                  : "abandoned";
  const std::string line = fmt::format(
      "round {}: {} of {} updates, {}, train loss {:.3f}, held out {:.3f}, {:.1f} s a round, "
      "{:.0f} s left\n",
      r.round, r.updates, r.asked, version, r.train_loss, r.heldout_loss, a_round, left);
  std::fputs(line.c_str(), options_.progress);
}

Status Simulation::Finish() {
  for (size_t site = 0; site < result_.sites; ++site) {
    if (!IsMine(site)) continue;
    TG_RETURN_IF_ERROR(sites_->End(site, state_.version, BytesOf(parameters_)));
  }
  result_.adapter = options_.out / "adapter";
  if (options_.rank != 0) return OkStatus();
  model::Adapter adapter =
      model::Adapter::CreateZero(base_->config, federation::LoraOf(job_.manifest));
  std::copy(parameters_.begin(), parameters_.end(), adapter.parameters().begin());
  return model::SavePeft(result_.adapter, adapter, options_.base.native());
}

Result<SimulationResult> Simulation::Run() {
  start_millis_ = SystemClock().MonotonicMillis();
  TG_RETURN_IF_ERROR(Load());
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
  result_.seconds = SecondsSince(start_millis_);
  return result_;
}

}  // namespace

Result<SimulationResult> Simulate(const SimulationOptions& options) {
  return Simulation(options).Run();
}

}  // namespace tidegate::trainer
