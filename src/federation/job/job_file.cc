#include "federation/job/job_file.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <optional>

#include "base/limits.h"
#include "federation/rounds/aggregate.h"
#include "federation/rounds/server_optimizer.h"
#include "federation/shared/grid.h"
#include "federation/shared/layout.h"
#include "model/adapter.h"
#include "model/config.h"
#include "protocols/strategy.h"
#include "protocols/update.h"

namespace tidegate::federation {
namespace {

using protocols::JobManifest;
using protocols::LateRule;

struct Draft {
  JobManifest job;
  uint32_t most_sites = protocols::kMaxSites;  // that a number of sites may say
  model::LoraConfig lora;
  bool has_quorum = false;
  bool has_max_weight = false;
  bool has_rounding = false;
  bool has_error_feedback = false;
  bool has_late = false;
  bool has_server_learning_rate = false;
  // As the file names them; which of them the optimizer has is looked at when all is read.
  std::optional<double> server_momentum, beta_1, beta_2, tau;
};

struct Where {
  const std::string& file;
  const toml::key& key;
};

Error Bad(const Where& at, std::string_view why) {
  return InvalidArgument("{} line {}: {} {}", at.file, at.key.source().begin.line, at.key.str(),
                         why);
}

// One key: takes its value into the draft.
using Taker = std::function<Status(const Where&, const toml::node&, Draft&)>;
using Takers = std::map<std::string, Taker, std::less<>>;

template <typename T>
Taker Whole(T JobManifest::*field, int64_t least, int64_t most) {
  return [=](const Where& at, const toml::node& node, Draft& draft) -> Status {
    const auto value = node.value_exact<int64_t>();
    if (!value || *value < least || *value > most) {
      return Bad(at, fmt::format("must be a whole number, {} … {}", least, most));
    }
    draft.job.*field = static_cast<T>(*value);
    return OkStatus();
  };
}

Result<double> RealOf(const Where& at, const toml::node& node, double least, double most) {
  const auto whole = node.value_exact<int64_t>();
  const auto real =
      whole ? std::optional<double>(static_cast<double>(*whole)) : node.value_exact<double>();
  if (!real || !(*real >= least && *real <= most)) {
    return Bad(at, fmt::format("must be a number, {} … {}", least, most));
  }
  return *real;
}

Taker Real(double JobManifest::*field, double least, double most) {
  return [=](const Where& at, const toml::node& node, Draft& draft) -> Status {
    TG_ASSIGN_OR_RETURN(draft.job.*field, RealOf(at, node, least, most));
    return OkStatus();
  };
}

Taker Optional(std::optional<double> Draft::*field, double least, double most) {
  return [=](const Where& at, const toml::node& node, Draft& draft) -> Status {
    TG_ASSIGN_OR_RETURN(draft.*field, RealOf(at, node, least, most));
    return OkStatus();
  };
}

Taker Flag(bool JobManifest::*field) {
  return [=](const Where& at, const toml::node& node, Draft& draft) -> Status {
    const auto value = node.value_exact<bool>();
    if (!value) return Bad(at, "must be true or false");
    draft.job.*field = *value;
    return OkStatus();
  };
}

template <typename E>
Taker OneOf(E JobManifest::*field, std::vector<std::pair<std::string, E>> names) {
  return [=](const Where& at, const toml::node& node, Draft& draft) -> Status {
    const auto value = node.value_exact<std::string>();
    std::string known;
    for (const auto& [name, number] : names) {
      if (value && *value == name) {
        draft.job.*field = number;
        return OkStatus();
      }
      known += (known.empty() ? "" : ", ") + name;
    }
    return Bad(at, "must be one of: " + known);
  };
}

Taker NumberOfSites(uint32_t JobManifest::*field) {
  return [=](const Where& at, const toml::node& node, Draft& draft) {
    return Whole(field, 1, draft.most_sites)(at, node, draft);
  };
}

Status TakeSites(const Where& at, const toml::node& node, Draft& draft) {
  const toml::array* list = node.as_array();
  if (list == nullptr || list->empty() || list->size() > protocols::kMaxSites) {
    return Bad(at, fmt::format("must be a list of 1 … {} names", protocols::kMaxSites));
  }
  for (const toml::node& item : *list) {
    const auto name = item.value_exact<std::string>();
    if (!name || name->size() > protocols::kMaxName) return Bad(at, "must be a list of names");
    draft.job.sites.items.emplace_back(*name);
  }
  return OkStatus();
}

Status TakeTargets(const Where& at, const toml::node& node, Draft& draft) {
  std::string names;
  if (const toml::array* list = node.as_array()) {
    for (const toml::node& item : *list) {
      const auto name = item.value_exact<std::string>();
      if (!name) return Bad(at, "must be \"all-linear\" or a list of module names");
      names += (names.empty() ? "" : ",") + *name;
    }
  } else {
    names = node.value_exact<std::string>().value_or("");
  }
  auto targets = model::ParseTargets(names);
  if (!targets) return Bad(at, "is not good: " + targets.error().message());
  draft.lora.targets = std::move(*targets);
  return OkStatus();
}

Takers TopTakers() {
  using J = JobManifest;
  return {
      {"name",
       [](const Where& at, const toml::node& node, Draft& draft) -> Status {
         const auto name = node.value_exact<std::string>();
         const bool printable = name && std::all_of(name->begin(), name->end(),
                                                    [](char c) { return c > 0x20 && c < 0x7f; });
         if (!printable || name->empty() || name->size() > protocols::kMaxName) {
           return Bad(at, fmt::format("must be 1 … {} printable ASCII characters without spaces",
                                      protocols::kMaxName));
         }
         draft.job.name = *name;
         return OkStatus();
       }},
      {"base",  // read by the submitter, who sends what it holds
       [](const Where& at, const toml::node& node, Draft&) -> Status {
         if (node.value_exact<std::string>()) return OkStatus();
         return Bad(at, "must be the path of an HF folder");
       }},
      {"rounds", Whole(&J::rounds, 1, protocols::kMaxRounds)},
      {"quorum",
       [](const Where& at, const toml::node& node, Draft& draft) -> Status {
         draft.has_quorum = true;
         return NumberOfSites(&J::quorum)(at, node, draft);
       }},
      {"deadline_seconds",
       [](const Where& at, const toml::node& node, Draft& draft) -> Status {
         TG_ASSIGN_OR_RETURN(const double seconds, RealOf(at, node, 0.1, 30 * 86400.0));
         draft.job.round_deadline_millis = static_cast<uint64_t>(seconds * 1000);
         return OkStatus();
       }},
      {"sites", TakeSites},
      {"codec",
       [](const Where& at, const toml::node& node, Draft& draft) -> Status {
         const auto codec = protocols::CodecOf(node.value_exact<std::string>().value_or(""));
         if (!codec) return Bad(at, "must be one of: " + protocols::CodecNames());
         draft.job.codec = *codec;
         return OkStatus();
       }},
      {"rounding",
       [](const Where& at, const toml::node& node, Draft& draft) {
         draft.has_rounding = true;
         return OneOf<protocols::Rounding>(
             &J::rounding, {{"nearest", protocols::Rounding::kNearest},
                            {"stochastic", protocols::Rounding::kStochastic}})(at, node, draft);
       }},
      {"error_feedback",
       [](const Where& at, const toml::node& node, Draft& draft) {
         draft.has_error_feedback = true;
         return Flag(&J::error_feedback)(at, node, draft);
       }},
      {"late",
       [](const Where& at, const toml::node& node, Draft& draft) {
         draft.has_late = true;
         return OneOf<protocols::LateRule>(&J::late, {{"discard", protocols::LateRule::kDiscard},
                                                      {"carry", protocols::LateRule::kCarry}})(
             at, node, draft);
       }},
      {"strategy",
       OneOf<protocols::Strategy>(&J::strategy, {{"fedit", protocols::Strategy::kFedIt},
                                                 {"ffa-lora", protocols::Strategy::kFfaLora},
                                                 {"rolora", protocols::Strategy::kRoLora},
                                                 {"fedsa-lora", protocols::Strategy::kFedSaLora}})},
      {"proximal_mu", Real(&J::proximal_mu, 0, 1e6)},
      {"server_optimizer",
       OneOf<protocols::ServerOptimizer>(&J::server_optimizer,
                                         {{"fedavg", protocols::ServerOptimizer::kFedAvg},
                                          {"fedavgm", protocols::ServerOptimizer::kFedAvgM},
                                          {"fedadam", protocols::ServerOptimizer::kFedAdam},
                                          {"fedyogi", protocols::ServerOptimizer::kFedYogi}})},
      {"server_momentum", Optional(&Draft::server_momentum, 0, 1)},
      {"beta_1", Optional(&Draft::beta_1, 0, 1)},
      {"beta_2", Optional(&Draft::beta_2, 0, 1)},
      {"tau", Optional(&Draft::tau, 1e-9, 1)},
      {"sites_per_round", NumberOfSites(&J::sites_per_round)},
      {"target_updates", NumberOfSites(&J::target_updates)},
      {"weighting",
       OneOf<protocols::Weighting>(&J::weighting, {{"equal", protocols::Weighting::kEqual},
                                                   {"tokens", protocols::Weighting::kTokens}})},
      {"max_weight",
       [](const Where& at, const toml::node& node, Draft& draft) {
         draft.has_max_weight = true;
         return Whole(&J::max_weight, 1, protocols::kMaxWeight)(at, node, draft);
       }},
      {"server_learning_rate",
       [](const Where& at, const toml::node& node, Draft& draft) {
         draft.has_server_learning_rate = true;
         return Real(&J::server_learning_rate, 1e-6, 10)(at, node, draft);
       }},
      {"norm_clip", Real(&J::norm_clip, 0, 1e6)},
      {"seed", Whole(&J::seed, 0, std::numeric_limits<int64_t>::max())},
  };
}

// What an adapter of one machine may have, and one of a federation not.
constexpr std::string_view kLocalKeys[] = {"rank_pattern", "alpha_pattern", "layers_to_transform"};

Status RefuseLocalKey(const Where& at) {
  return Bad(at,
             "is not for jobs: a job has one rank and one alpha for every module of every layer, "
             "and each site's gate holds every tensor of an update against them; leave it out, or "
             "train with `tidegate finetune`");
}

Takers LoraTakers() {
  return {
      {"r",
       [](const Where& at, const toml::node& node, Draft& draft) -> Status {
         TG_RETURN_IF_ERROR(Whole(&JobManifest::lora_r, 1, protocols::kMaxRank)(at, node, draft));
         draft.lora.r = draft.job.lora_r;
         return OkStatus();
       }},
      {"alpha",
       [](const Where& at, const toml::node& node, Draft& draft) -> Status {
         TG_ASSIGN_OR_RETURN(draft.lora.alpha, RealOf(at, node, 1e-6, 1e6));
         return OkStatus();
       }},
      {"dropout",
       [](const Where& at, const toml::node& node, Draft& draft) -> Status {
         TG_ASSIGN_OR_RETURN(draft.lora.dropout, RealOf(at, node, 0, 0.99));
         return OkStatus();
       }},
      {"targets", TakeTargets},
      {"local_r", Whole(&JobManifest::local_lora_r, 0, protocols::kMaxRank)},
  };
}

Takers TrainTakers() {
  using J = JobManifest;
  constexpr int64_t kMany = 1'000'000'000;
  return {
      {"local_steps", Whole(&J::local_steps, 1, protocols::kMaxLocalSteps)},
      {"batch_size", Whole(&J::batch_size, 1, 4096)},
      {"gradient_accumulation_steps", Whole(&J::gradient_accumulation_steps, 1, 1 << 20)},
      {"learning_rate", Real(&J::learning_rate, 0, 100)},
      {"scheduler",
       OneOf<protocols::Scheduler>(&J::scheduler, {{"constant", protocols::Scheduler::kConstant},
                                                   {"linear", protocols::Scheduler::kLinear},
                                                   {"cosine", protocols::Scheduler::kCosine}})},
      {"warmup_steps", Whole(&J::warmup_steps, 0, kMany)},
      {"weight_decay", Real(&J::weight_decay, 0, 100)},
      {"max_grad_norm", Real(&J::max_grad_norm, 0, 1e6)},
      {"max_length", Whole(&J::max_length, 2, kMaxSequenceLength)},
      {"packing", Flag(&J::packing)},
      {"base", OneOf<protocols::HeldBase>(&J::held_base, {{"as-is", protocols::HeldBase::kAsItIs},
                                                          {"8bit", protocols::HeldBase::kInt8},
                                                          {"4bit", protocols::HeldBase::kNf4}})},
      {"assistant_only_loss", Flag(&J::assistant_only_loss)},
  };
}

Status TakeTable(const std::string& file, const toml::table& table, const Takers& takers,
                 const std::map<std::string, Takers, std::less<>>& sections, Draft& draft) {
  for (const auto& [key, node] : table) {
    const Where at{file, key};
    if (const auto section = sections.find(key.str()); section != sections.end()) {
      const toml::table* inner = node.as_table();
      if (inner == nullptr) return Bad(at, "must be a table");
      TG_RETURN_IF_ERROR(TakeTable(file, *inner, section->second, {}, draft));
      continue;
    }
    const auto taker = takers.find(key.str());
    if (taker == takers.end() && std::ranges::count(kLocalKeys, key.str()) > 0) {
      return RefuseLocalKey(at);
    }
    if (taker == takers.end()) {
      std::string known;
      for (const auto& [name, unused] : takers) known += (known.empty() ? "" : ", ") + name;
      for (const auto& [name, unused] : sections) known += ", [" + name + "]";
      return Bad(at, "is not known; the keys here are " + known);
    }
    TG_RETURN_IF_ERROR(taker->second(at, node, draft));
  }
  return OkStatus();
}

Draft Defaults(const JobSource& source) {
  Draft draft;
  draft.lora.r = 16;
  draft.lora.alpha = 32;
  draft.lora.targets = *model::ParseTargets("all-linear");
  JobManifest& job = draft.job;
  const size_t slash = source.file.rfind('/');
  std::string stem = source.file.substr(slash == std::string::npos ? 0 : slash + 1);
  stem = stem.substr(0, std::min(stem.rfind(".toml"), protocols::kMaxName));
  for (char& c : stem) c = c > 0x20 && c < 0x7f ? c : '-';
  job.name = stem.empty() ? "job" : stem;
  job.base_hash = source.base_hash;
  job.lora_r = 16;
  job.rounds = 10;
  job.local_steps = 16;
  job.batch_size = 8;
  job.max_length = 1024;
  job.packing = true;
  job.assistant_only_loss = true;
  job.scheduler = protocols::Scheduler::kCosine;
  job.learning_rate = 2e-4;
  job.seed = 42;
  job.round_deadline_millis = 3600 * 1000;
  return draft;
}

Status CheckCodec(const std::string& file, const Draft& draft) {
  const JobManifest& job = draft.job;
  if (job.codec == protocols::Codec::kFixed32 && job.norm_clip > 0) {
    return InvalidArgument(
        "{}: codec fixed32 is exact and is never scaled; leave out norm_clip or take int8", file);
  }
  if (job.codec == protocols::Codec::kFixed32 &&
      (draft.has_rounding || draft.has_error_feedback || job.late != LateRule::kDiscard)) {
    return InvalidArgument(
        "{}: codec fixed32 is exact: nothing is rounded and nothing is left to carry over; leave "
        "out rounding, error_feedback and late, or take int8",
        file);
  }
  if (job.codec == protocols::Codec::kInt4 && !draft.has_error_feedback) {
    return InvalidArgument(
        "{}: codec int4 loses a tenth of each delta; say error_feedback = true, so that a site "
        "sends later what was lost, or error_feedback = false to do without",
        file);
  }
  return OkStatus();
}

// FedAvgM's number is its momentum, the others' are named as their authors do.
Status TakeServerRule(const std::string& file, Draft& draft) {
  JobManifest& job = draft.job;
  const bool momentum = job.server_optimizer == protocols::ServerOptimizer::kFedAvgM;
  const bool adaptive = HasV(job.server_optimizer);
  if (draft.server_momentum && !momentum) {
    return InvalidArgument("{}: server_momentum is fedavgm's; leave it out", file);
  }
  if ((draft.beta_1 || draft.beta_2 || draft.tau) && !adaptive) {
    return InvalidArgument("{}: beta_1, beta_2 and tau are fedadam's and fedyogi's; leave them out",
                           file);
  }
  if (momentum) job.server_beta1 = draft.server_momentum.value_or(0.9);
  if (adaptive) {
    job.server_beta1 = draft.beta_1.value_or(0.9);
    job.server_beta2 = draft.beta_2.value_or(0.99);
    job.server_tau = draft.tau.value_or(1e-3);
    if (!draft.has_server_learning_rate) job.server_learning_rate = 1e-3;
  }
  return CheckServerRule(RuleOf(job)).WithContext(file);
}

// Which sites the job names: those of the file, or all that are in force.
Status TakeNames(const std::string& file, const std::vector<std::string>& in_force,
                 JobManifest& job) {
  if (job.sites.items.empty()) {
    for (const std::string& name : in_force) job.sites.items.emplace_back(name);
  }
  if (job.sites.items.empty()) {
    return FailedPrecondition("no site is enrolled; a job needs one (`tidegate site approve`)");
  }
  if (job.sites.size() > protocols::kMaxSites) {
    return ResourceExhausted("{}: {} sites are over the limit {}; name those that take part", file,
                             job.sites.size(), protocols::kMaxSites);
  }
  std::sort(job.sites.items.begin(), job.sites.items.end());
  for (const protocols::Name& site : job.sites.items) {
    if (std::find(in_force.begin(), in_force.end(), site.text) == in_force.end()) {
      return NotFound("{}: site {} is not enrolled; `tidegate site list` shows those that are",
                      file, site.text);
    }
  }
  if (std::adjacent_find(job.sites.items.begin(), job.sites.items.end()) != job.sites.items.end()) {
    return InvalidArgument("{}: sites names a site twice", file);
  }
  return OkStatus();
}

// What the keys say together. `unnamed`: sites that the job has without naming them, or 0.
Status CheckWhole(const std::string& file, const std::vector<std::string>& in_force,
                  uint32_t unnamed, Draft& draft) {
  JobManifest& job = draft.job;
  if (unnamed == 0) {
    TG_RETURN_IF_ERROR(TakeNames(file, in_force, job));
  } else if (!job.sites.items.empty()) {
    return InvalidArgument("{}: sites names sites, and this job has {} without names; leave it out",
                           file, unnamed);
  }
  const size_t sites = unnamed == 0 ? job.sites.size() : unnamed;
  if (job.sites_per_round > sites) {
    return InvalidArgument("{}: sites_per_round {} is more than the job's {} sites", file,
                           job.sites_per_round, sites);
  }
  const auto asked =
      static_cast<uint32_t>(job.sites_per_round == 0 ? sites : size_t{job.sites_per_round});
  if (!draft.has_quorum) job.quorum = job.target_updates == 0 ? asked : job.target_updates;
  if (job.quorum > asked) {
    return InvalidArgument("{}: quorum {} is more than the {} sites that a round asks", file,
                           job.quorum, asked);
  }
  if (job.target_updates != 0 && (job.target_updates < job.quorum || job.target_updates > asked)) {
    return InvalidArgument(
        "{}: target_updates {} is not in {} … {}: the quorum and the sites that a round asks", file,
        job.target_updates, job.quorum, asked);
  }
  TG_RETURN_IF_ERROR(TakeServerRule(file, draft));
  job.phase_groups.items = protocols::PhasesOf(job.strategy);
  // What came too late is an error to feed back, unless the file says otherwise.
  if (job.error_feedback && !draft.has_late) job.late = LateRule::kCarry;
  if (job.weighting == protocols::Weighting::kTokens && !draft.has_max_weight) {
    job.max_weight = 4096;
  }
  const uint64_t most =
      job.weighting == protocols::Weighting::kTokens ? uint64_t{asked} * job.max_weight : asked;
  if (most > kMaxTotalWeight) {
    return InvalidArgument(
        "{}: max_weight {} of {} sites is {} together, a sum takes {}; lower max_weight or "
        "sites_per_round",
        file, job.max_weight, asked, most, kMaxTotalWeight);
  }
  TG_RETURN_IF_ERROR(CheckCodec(file, draft));
  if (static_cast<uint64_t>(job.warmup_steps) >
      static_cast<uint64_t>(job.rounds) * job.local_steps) {
    return InvalidArgument("{}: warmup_steps {} is more than the job's {} steps", file,
                           job.warmup_steps, static_cast<uint64_t>(job.rounds) * job.local_steps);
  }
  return OkStatus();
}

}  // namespace

Result<NewJobFiles> MakeJob(const JobSource& source, const protocols::Id16& federation,
                            const std::vector<std::string>& sites, int64_t unix_millis) {
  Draft draft = Defaults(source);
  if (source.unnamed_sites > 0) draft.most_sites = source.unnamed_sites;
  bool has_base = false;
  try {
    const toml::table table = toml::parse(source.text, source.file);
    has_base = table.contains("base");
    TG_RETURN_IF_ERROR(TakeTable(source.file, table, TopTakers(),
                                 {{"lora", LoraTakers()}, {"train", TrainTakers()}}, draft));
  } catch (const toml::parse_error& e) {
    return InvalidArgument("{} line {}: {}", source.file, e.source().begin.line,
                           std::string(e.description()));
  }
  if (!has_base && source.names_base)
    return InvalidArgument("{}: base is missing; it is the path of an HF folder", source.file);
  TG_RETURN_IF_ERROR(CheckWhole(source.file, sites, source.unnamed_sites, draft));
  TG_RETURN_IF_ERROR(model::CheckLora(draft.lora));
  TG_ASSIGN_OR_RETURN(const model::ModelConfig base,
                      model::ParseHfConfig(source.model_config, "the base's config.json"));
  NewJobFiles out;
  JobManifest& job = out.manifest;
  job = std::move(draft.job);
  job.federation = federation;
  job.created_unix_millis = unix_millis;
  job.lora_alpha = draft.lora.alpha;
  job.lora_dropout = draft.lora.dropout;
  for (const model::Module module : draft.lora.targets) {
    job.lora_targets |= static_cast<uint8_t>(1u << static_cast<unsigned>(module));
  }
  // Counted before it is made: the rank and the sizes of config.json multiply.
  uint64_t parameters = 0;
  for (const model::AdapterTensor& t : model::AdapterLayout(base, draft.lora)) {
    parameters += static_cast<uint64_t>(t.count());
  }
  if (parameters >
      std::min(protocols::kMaxUpdateValues, protocols::kMaxContentBytes / sizeof(float))) {
    return ResourceExhausted("{}: an adapter of {} parameters is over the limit {}; lower lora.r",
                             source.file, parameters, protocols::kMaxUpdateValues);
  }
  model::Adapter adapter = model::Adapter::Create(base, draft.lora, job.seed);
  TG_ASSIGN_OR_RETURN(job.layout, LayoutOf(adapter));
  TG_RETURN_IF_ERROR(SnapAllToGrid(adapter.parameters()));
  out.parameters.assign(adapter.parameters().begin(), adapter.parameters().end());
  return out;
}

}  // namespace tidegate::federation
