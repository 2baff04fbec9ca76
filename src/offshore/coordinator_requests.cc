// The operator's verbs, as they come over the admin socket or from a one-shot run.
#include <algorithm>

#include "base/log.h"
#include "crypto/document.h"
#include "federation/job/job_file.h"
#include "federation/shared/layout.h"
#include "model/adapter.h"
#include "model/config.h"
#include "offshore/coordinator.h"
#include "offshore/enrolment.h"

namespace tidegate::offshore {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

Result<std::string> TextOf(const json& request, const char* key) {
  const auto it = request.find(key);
  if (it == request.end() || !it->is_string()) {
    return InvalidArgument("the request lacks the text {}", key);
  }
  return it->get<std::string>();
}

// Lines of a job's log in one answer.
constexpr uint32_t kMostLogged = 1000;

std::string KeyText(const protocols::PublicKey& key) {
  return crypto::PublicKeyText("ed25519", key);
}

// A fatal error is also the answer.
template <typename T>
tl::unexpected<Status> Fatal(const T& status, Status* fatal) {
  *fatal = status;
  return Unexpected(status);
}

}  // namespace

Result<ordered_json> Coordinator::OnRequest(const json& request, Status* fatal) {
  TG_ASSIGN_OR_RETURN(const std::string verb, TextOf(request, "verb"));
  if (verb == "status") return StatusJson();
  if (verb == "site_list") return SitesJson();
  if (verb == "site_approve") return Approve(request, fatal);
  if (verb == "site_revoke") return Revoke(request, fatal);
  if (verb == "job_submit") return Submit(request, fatal);
  if (verb == "job_stop") return Stop(request, fatal);
  if (verb == "job_export") return Export(request);
  if (verb == "job_log") return LogOf(request);
  if (verb == "base_publish") return PublishBase(request);
  if (verb == "base_revoke") return RevokeBase(request);
  if (verb == "base_list") return bases_->ListJson();
  if (verb == "base_shelf") return bases_->WhereJson();
  if (verb == "job_list") {
    Json list = Json::array();
    for (const auto& job : jobs_) list.push_back(JobJson(*job));
    return list;
  }
  if (verb == "job_show") {
    TG_ASSIGN_OR_RETURN(const JobRun* job, JobOf(request));
    return JobJson(*job);
  }
  return Unsupported("the coordinator has no verb {}", verb);
}

Result<ordered_json> Coordinator::Approve(const json& request, Status* fatal) {
  TG_ASSIGN_OR_RETURN(const std::string text, TextOf(request, "request"));
  TG_ASSIGN_OR_RETURN(const federation::StoredSite site,
                      offshore::Approve(text, config_, keys_, clock_.UnixMillis()));
  TG_ASSIGN_OR_RETURN(const crypto::VerifyKey key, crypto::VerifyKey::FromBytes(site.sign_key));
  const Status put = store_->PutSite(site);
  if (put.code() == Code::kAlreadyExists) return Unexpected(put);
  if (!put.ok()) return Fatal(put, fatal);
  const auto it = sites_.try_emplace(site.name, site, key).first;
  it->second.stored = site;
  it->second.key = key;
  const auto head = store_->Head(site.name, site.sign_key);
  if (!head) return Fatal(head.error(), fatal);
  it->second.head = *head;
  access_.push_back({site.name, site.curve_key, true});
  LogInfo("site_approved site={}", site.name);
  Json answer;
  answer["site"] = site.name;
  answer["site_key"] = KeyText(site.sign_key);
  answer["fingerprint"] = ToHex(key.Fingerprint());
  TG_ASSIGN_OR_RETURN(answer["approval"], ArmoredApproval(site));
  return answer;
}

Result<ordered_json> Coordinator::Revoke(const json& request, Status* fatal) {
  TG_ASSIGN_OR_RETURN(const std::string name, TextOf(request, "site"));
  const auto it = sites_.find(name);
  if (it == sites_.end()) return NotFound("no site {} is enrolled", name);
  const Status status = store_->RevokeSite(name, clock_.UnixMillis());
  if (!status.ok()) return Fatal(status, fatal);
  access_.push_back({name, it->second.stored.curve_key, false});
  OnDisconnected(name);
  for (const LeftOff& left : it->second.left_off) RemoveLater(left.blocks);
  sites_.erase(it);
  LogInfo("site_revoked site={}", name);
  Json answer;
  answer["site"] = name;
  answer["revoked"] = true;
  return answer;
}

Result<ordered_json> Coordinator::Submit(const json& request, Status* fatal) {
  federation::JobSource source;
  TG_ASSIGN_OR_RETURN(source.file, TextOf(request, "file"));
  TG_ASSIGN_OR_RETURN(source.text, TextOf(request, "text"));
  TG_ASSIGN_OR_RETURN(source.model_config, TextOf(request, "model_config"));
  TG_ASSIGN_OR_RETURN(source.base_name, TextOf(request, "base_name"));
  TG_ASSIGN_OR_RETURN(const std::string hash, TextOf(request, "base_hash"));
  TG_ASSIGN_OR_RETURN(source.base_hash, DigestFromHex(hash));
  std::vector<std::string> names;
  for (const auto& [name, site] : sites_) names.push_back(name);
  TG_ASSIGN_OR_RETURN(federation::NewJobFiles made,
                      federation::MakeJob(source, config_.federation, names, clock_.UnixMillis()));
  federation::StoredJob stored;
  TG_ASSIGN_OR_RETURN(stored.manifest,
                      crypto::SignDocument(keys_.sign, crypto::domains::kJob, made.manifest));
  stored.id = crypto::JobIdOf(stored.manifest);
  stored.base_name = source.base_name;
  stored.model_config = source.model_config;
  if (FindJob(stored.id) != nullptr) return AlreadyExists("this job was submitted already");
  const JobFacts facts = FactsOf(stored.manifest, std::move(made.manifest));
  protocols::AdapterManifest version0;
  auto document = StoreVersion(
      facts, 0, false, std::make_shared<const std::vector<float>>(std::move(made.parameters)),
      &version0);
  if (!document) {
    return document.error().code() == Code::kResourceExhausted ? Unexpected(document.error())
                                                               : Fatal(document.error(), fatal);
  }
  if (const Status status = store_->AddJob(stored, *document); !status.ok()) {
    return Fatal(status, fatal);
  }
  if (const Status status = LoadJob(std::move(stored)); !status.ok()) return Fatal(status, fatal);
  JobRun& job = *jobs_.back();
  LogInfo("job_submitted job={} id={}", facts.manifest.name.text, ToHex(facts.id));
  for (const federation::Effect& effect : federation::PendingEffects(job.state)) {
    if (const Status status = Do(job, effect); !status.ok()) return Fatal(status, fatal);
  }
  return JobJson(job);
}

Result<Coordinator::JobRun*> Coordinator::JobOf(const json& request) {
  TG_ASSIGN_OR_RETURN(const std::string id, TextOf(request, "job"));
  JobRun* found = nullptr;
  // An id, the beginning of one, or a name; the newest job of a name.
  for (const auto& job : jobs_) {
    if (job->facts.manifest.name.text == id) found = job.get();
  }
  if (found != nullptr) return found;
  for (const auto& job : jobs_) {
    if (id.size() < 4 || !ToHex(job->facts.id).starts_with(id)) continue;
    if (found != nullptr) return InvalidArgument("more than one job's id begins with {}", id);
    found = job.get();
  }
  if (found != nullptr) return found;
  return NotFound("there is no job {}; `tidegate job list` shows those there are", id);
}

Result<ordered_json> Coordinator::Stop(const json& request, Status* fatal) {
  TG_ASSIGN_OR_RETURN(JobRun * job, JobOf(request));
  if (job->ended()) {
    return FailedPrecondition("job {} has ended already", job->facts.manifest.name.text);
  }
  const federation::StopRequested event{clock_.UnixMillis()};
  Status status = store_->LogStop(job->facts.id, event);
  if (status.ok()) status = Apply(*job, event);
  if (!status.ok()) return Fatal(status, fatal);
  return JobJson(*job);
}

// The events, and after a round that was abandoned why it was.
Result<ordered_json> Coordinator::LogOf(const json& request) {
  TG_ASSIGN_OR_RETURN(const JobRun* job, JobOf(request));
  int64_t after = 0;
  if (const auto it = request.find("after"); it != request.end()) {
    if (!it->is_number_integer()) return InvalidArgument("after must be a number");
    after = it->get<int64_t>();
  }
  TG_ASSIGN_OR_RETURN(const auto log, store_->EventLog(job->facts.id, after, kMostLogged));
  Json answer;
  answer["job"] = ToHex(job->facts.id);
  answer["events"] = Json::array();
  for (const federation::LoggedEvent& event : log) {
    const bool published = std::string_view(event.kind) == "published";
    const bool opened = std::string_view(event.kind) == "opened";
    Json line = {{"number", event.number}, {"event", event.kind}};
    // Stores of before had no times for some.
    line["time"] = event.unix_millis == 0 ? "" : FormatUtc(event.unix_millis);
    if (event.round > 0) line[published ? "version" : "round"] = event.round;
    if (!event.site.empty()) line[opened ? "asked" : "site"] = event.site;
    if (event.weight > 0) line["weight"] = event.weight;
    answer["events"].push_back(std::move(line));
    if (!opened) continue;
    TG_ASSIGN_OR_RETURN(const auto document, store_->Notice(job->facts.id, event.round));
    if (!document) continue;
    const auto notice = protocols::Decode<protocols::AbandonNotice>(document->body.items);
    if (!notice) return DataLoss("a stored notice: {}", notice.error().reason);
    static constexpr const char* kReasons[] = {"", "below quorum", "stopped", "internal"};
    answer["events"].push_back({{"number", event.number},
                                {"event", "abandoned"},
                                {"time", FormatUtc(notice->unix_millis)},
                                {"round", event.round},
                                {"reason", kReasons[static_cast<int>(notice->reason)]}});
  }
  answer["more"] = log.size() == kMostLogged;
  return answer;
}

Result<ordered_json> Coordinator::Export(const json& request) {
  TG_ASSIGN_OR_RETURN(const JobRun* job, JobOf(request));
  TG_ASSIGN_OR_RETURN(const std::string out, TextOf(request, "out"));
  const std::filesystem::path dir(out);
  if (!dir.is_absolute()) return InvalidArgument("the folder {} must be an absolute path", out);
  protocols::AdapterManifest manifest = job->version;
  if (const auto it = request.find("version"); it != request.end()) {
    if (!it->is_number_unsigned() || it->get<uint64_t>() > job->version.version) {
      return NotFound("job {} has versions 0 … {}", job->facts.manifest.name.text,
                      job->version.version);
    }
    TG_ASSIGN_OR_RETURN(const auto document, store_->Version(job->facts.id, it->get<uint32_t>()));
    if (!document) return NotFound("the store does not have version {}", it->get<uint32_t>());
    auto decoded = protocols::Decode<protocols::AdapterManifest>(document->body.items);
    if (!decoded) return DataLoss("a stored version: {}", decoded.error().reason);
    manifest = std::move(*decoded);
  }
  auto parameters = LoadParameters(manifest);
  if (!parameters && parameters.error().code() == Code::kNotFound) {
    return NotFound(
        "the content of version {} is no longer kept; the newest {} are (keep_versions)",
        manifest.version, config_.keep_versions);
  }
  if (!parameters) return Unexpected(parameters.error());
  const protocols::JobManifest& m = job->facts.manifest;
  TG_ASSIGN_OR_RETURN(const model::ModelConfig base,
                      model::ParseHfConfig(job->stored.model_config, "the job's base"));
  model::Adapter adapter = model::Adapter::CreateZero(base, federation::LoraOf(m));
  const std::vector<float>& values = **parameters;
  if (adapter.parameters().size() != values.size()) {
    return DataLoss("the adapter of job {} does not fit its base", m.name.text);
  }
  std::copy(values.begin(), values.end(), adapter.parameters().begin());
  TG_RETURN_IF_ERROR(model::SavePeft(dir, adapter, job->stored.base_name));
  Json answer;
  answer["job"] = ToHex(job->facts.id);
  answer["version"] = manifest.version;
  answer["final"] = manifest.final;
  answer["out"] = out;
  answer["content"] = ToHex(manifest.content);
  return answer;
}

Result<ordered_json> Coordinator::PublishBase(const json& request) {
  TG_ASSIGN_OR_RETURN(const bases::Published* base,
                      bases_->Publish(request, keys_.sign, clock_.UnixMillis()));
  for (const auto& [name, site] : sites_) {
    Send(name, protocols::Channel::kControl, protocols::MessageType::kBase,
         protocols::Encode(protocols::Base{base->document}));
  }
  Json answer;
  answer["base"] = bases::BaseKey{base->manifest.name.text, base->manifest.version}.Text();
  answer["base_hash"] = ToHex(base->manifest.base_hash);
  answer["manifest"] = ToHex(base->digest);
  return answer;
}

Result<ordered_json> Coordinator::RevokeBase(const json& request) {
  TG_ASSIGN_OR_RETURN(const bases::BaseKey base,
                      bases_->Revoke(request, keys_.sign, clock_.UnixMillis()));
  for (const auto& [name, site] : sites_) {
    Send(name, protocols::Channel::kControl, protocols::MessageType::kRevoke,
         protocols::Encode(protocols::Revoke{bases_->registry().revocations().at(base)}));
  }
  Json answer;
  answer["base"] = base.Text();
  answer["revoked"] = true;
  return answer;
}

ordered_json Coordinator::SitesJson() const {
  Json list = Json::array();
  for (const auto& [name, site] : sites_) {
    Json one;
    one["name"] = name;
    one["key"] = KeyText(site.stored.sign_key);
    one["fingerprint"] = ToHex(site.key.Fingerprint());
    one["approved"] = FormatUtc(site.stored.approved_unix_millis);
    one["connected"] = site.connected;
    one["bytes_in"] = site.bytes_in;
    one["refused"] = site.refused;
    one["ledger_leaves"] = site.head ? site.head->size : 0;
    const int64_t set_back = site.head ? site.head->set_back_unix_millis : 0;
    one["ledger_set_back"] = set_back == 0 ? "" : FormatUtc(set_back);
    one["seen"] = site.seen_unix_millis == 0 ? "" : FormatUtc(site.seen_unix_millis);
    list.push_back(std::move(one));
  }
  return list;
}

ordered_json Coordinator::JobJson(const JobRun& job) const {
  const protocols::JobManifest& m = job.facts.manifest;
  Json out;
  out["id"] = ToHex(job.facts.id);
  out["name"] = m.name.text;
  const auto* ended = std::get_if<federation::Ended>(&job.state.phase);
  out["state"] = ended == nullptr ? federation::StateName(job.state)
                                  : (ended->finished ? "finished" : "stopped");
  out["ended"] = ended != nullptr;
  out["version"] = job.version.version;
  out["rounds"] = m.rounds;
  out["created"] = FormatUtc(m.created_unix_millis);
  out["base_hash"] = ToHex(m.base_hash);
  out["parameters"] = job.facts.values;
  out["quorum"] = m.quorum;
  out["bytes_in"] = job.bytes_in;
  Json round;
  if (const auto* open = std::get_if<federation::Collecting>(&job.state.phase)) {
    round["round"] = open->round;
    round["deadline"] = FormatUtc(open->deadline_unix_millis);
    round["asked"] = open->asked;
    round["accepted"] = Json::array();
    for (const auto& [site, update] : open->accepted) round["accepted"].push_back(site);
  }
  out["open_round"] = round;
  out["sites"] = Json::array();
  for (const std::string& site : job.state.rules.sites) out["sites"].push_back(site);
  out["losses"] = Json::object();
  for (const auto& [site, losses] : job.losses) {
    out["losses"][site] = {{"round", losses.round},
                           {"train", losses.train_milli / 1000.0},
                           {"heldout", losses.heldout_milli / 1000.0}};
  }
  return out;
}

ordered_json Coordinator::StatusJson() {
  Json out;
  out["time"] = FormatUtc(clock_.UnixMillis());
  out["federation"] = {{"id", ToHex(config_.federation)},
                       {"name", config_.name},
                       {"address", config_.address},
                       {"key", keys_.sign.verify_key().ToText()},
                       {"fingerprint", ToHex(keys_.sign.verify_key().Fingerprint())}};
  out["sites"] = SitesJson();
  out["jobs"] = Json::array();
  for (const auto& job : jobs_) {
    out["jobs"].push_back(JobJson(*job));
    out["jobs"].back()["history"] = job->history.ToJson();
  }
  out["block_bytes"] = blocks_.used_bytes();
  const auto equivocations = store_->Equivocations();
  out["equivocations"] = equivocations ? *equivocations : 0;
  return out;
}

}  // namespace tidegate::offshore
