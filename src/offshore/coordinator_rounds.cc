// The effects of a job's rounds: what the pure state machine of federation/rounds/round.h asks for.
#include <cstring>

#include "base/log.h"
#include "base/memory.h"
#include "blocks/content.h"
#include "crypto/document.h"
#include "federation/rounds/aggregate.h"
#include "federation/rounds/aggregate_threads.h"
#include "federation/shared/grid.h"
#include "offshore/coordinator.h"

namespace tidegate::offshore {

using federation::Effect;
using protocols::Channel;
using protocols::MessageType;

Status Coordinator::Resume() {
  for (size_t i = 0; i < jobs_.size(); ++i) {
    for (const Effect& effect : federation::PendingEffects(jobs_[i]->state)) {
      TG_RETURN_IF_ERROR(Do(*jobs_[i], effect));
    }
  }
  return OnTime();
}

Status Coordinator::OnTime() {
  TG_RETURN_IF_ERROR(FillOwed());
  const int64_t now = clock_.UnixMillis();
  for (size_t i = 0; i < jobs_.size(); ++i) {
    const auto* open = std::get_if<federation::Collecting>(&jobs_[i]->state.phase);
    if (open == nullptr || now < open->deadline_unix_millis) continue;
    const federation::TimePassed event{now};
    TG_RETURN_IF_ERROR(store_->LogTime(jobs_[i]->facts.id, event));
    TG_RETURN_IF_ERROR(Apply(*jobs_[i], event));
  }
  return OkStatus();
}

int64_t Coordinator::MillisToDeadline() const {
  constexpr int64_t kMost = 60'000;
  const int64_t now = clock_.UnixMillis();
  int64_t wait = kMost;
  for (const auto& job : jobs_) {
    if (const auto* open = std::get_if<federation::Collecting>(&job->state.phase)) {
      wait = std::clamp<int64_t>(open->deadline_unix_millis - now, 0, wait);
    }
  }
  return wait;
}

// The event is logged already.
Status Coordinator::Apply(JobRun& job, const federation::Event& event) {
  rests_on_blocks_ = true;
  auto next = federation::Step(std::move(job.state), event);
  if (!next) return next.error().WithContext("job " + job.facts.manifest.name.text);
  job.state = std::move(next->state);
  for (const Effect& effect : next->effects) TG_RETURN_IF_ERROR(Do(job, effect));
  return OkStatus();
}

Status Coordinator::Do(JobRun& job, const Effect& effect) {
  if (const auto* open = std::get_if<federation::OpenRound>(&effect)) return OpenRound(job, *open);
  if (const auto* sum = std::get_if<federation::Aggregate>(&effect))
    return AggregateRound(job, *sum);
  if (const auto* round = std::get_if<federation::AbandonRound>(&effect)) {
    TG_RETURN_IF_ERROR(SendNotice(job, round->round, round->reason));
    return DropRoundLater(job, round->round);
  }
  const auto& end = std::get<federation::EndJob>(effect);
  LogInfo("job_ended job={} finished={} version={}", job.facts.manifest.name.text, end.finished,
          job.state.version);
  job.announcement_document.reset();
  if (kept_content_ == job.version.content) kept_ = nullptr;
  if (!end.finished) {
    TG_RETURN_IF_ERROR(SendNotice(job, 0, end.reason));
    // 0: no round was opened.
    return job.announcement.round == 0 ? OkStatus() : DropRoundLater(job, job.announcement.round);
  }
  PushToAll(job);
  return OkStatus();
}

Status Coordinator::OpenRound(JobRun& job, const federation::OpenRound& effect) {
  TG_ASSIGN_OR_RETURN(const auto recipient, crypto::AgreeSecretKey::Generate());
  const int64_t now = clock_.UnixMillis();
  protocols::RoundAnnouncement& round = job.announcement;
  round = {};
  round.job = job.facts.id;
  round.round = effect.round;
  round.phase = effect.phase;
  const auto key = recipient.public_key().bytes();
  std::copy(key.begin(), key.end(), round.recipient.begin());
  round.adapter_version = job.version.version;
  round.adapter_manifest = crypto::DocumentDigest(job.version_document);
  round.deadline_unix_millis = now + static_cast<int64_t>(job.facts.manifest.round_deadline_millis);
  TG_ASSIGN_OR_RETURN(job.announcement_document,
                      crypto::SignDocument(keys_.sign, crypto::domains::kRound, round));
  std::set<std::string> present;
  for (const auto& [name, site] : sites_) {
    const bool free = !site.works_for || *site.works_for == job.facts.id;
    if (site.connected && free) present.insert(name);
  }
  const federation::RoundOpened event{
      effect.round, now,
      federation::DrawSites(job.state.rules, job.facts.manifest.seed, effect.round, present)};
  TG_RETURN_IF_ERROR(store_->OpenRound(job.facts.id, event, *job.announcement_document, recipient));
  job.history.Opened(effect.round, now);
  TG_RETURN_IF_ERROR(Apply(job, event));
  LogInfo("round_opened job={} round={} version={}", job.facts.manifest.name.text, effect.round,
          job.version.version);
  PushToAll(job);
  return OkStatus();
}

Result<std::vector<float>> Coordinator::LoadFloats(std::span<const Digest> blocks, uint64_t bytes,
                                                   std::string_view what) {
  std::vector<float> values;
  values.reserve(bytes / sizeof(float));
  AdviseHugePages(values.data(), bytes);
  values.resize(bytes / sizeof(float));
  auto* out = reinterpret_cast<uint8_t*>(values.data());
  uint64_t at = 0;
  for (const Digest& id : blocks) {
    TG_ASSIGN_OR_RETURN(const Bytes block, blocks_.Get(id));
    if (at + block.size() > bytes) {
      return DataLoss("the blocks of {} are longer than its content", what);
    }
    std::memcpy(out + at, block.data(), block.size());
    at += block.size();
  }
  if (at == bytes) return values;
  return DataLoss("the blocks of {} have {} bytes, not {}", what, at, bytes);
}

Result<Coordinator::Parameters> Coordinator::LoadParameters(
    const protocols::AdapterManifest& manifest) {
  if (kept_ != nullptr && kept_content_ == manifest.content) return kept_;
  TG_ASSIGN_OR_RETURN(std::vector<float> read,
                      LoadFloats(manifest.blocks.items, manifest.content_bytes,
                                 fmt::format("adapter version {}", manifest.version)));
  return std::make_shared<const std::vector<float>>(std::move(read));
}

// m and v, one after the other, as the optimizer has them.
Result<federation::ServerMoments> Coordinator::LoadMoments(const JobRun& job) {
  const federation::ServerRule rule = federation::RuleOf(job.facts.manifest);
  federation::ServerMoments moments = federation::FirstMoments(rule, job.facts.values);
  TG_ASSIGN_OR_RETURN(const auto stored, store_->Moments(job.facts.id));
  if (!stored) return moments;
  TG_ASSIGN_OR_RETURN(const std::vector<float> values,
                      LoadFloats(stored->blocks, stored->bytes, "the optimizer's moments"));
  if (values.size() != moments.m.size() + moments.v.size()) {
    return DataLoss("the optimizer's moments have {} values, not {}", values.size(),
                    moments.m.size() + moments.v.size());
  }
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(moments.m.size());
  std::copy(values.begin(), middle, moments.m.begin());
  std::copy(middle, values.end(), moments.v.begin());
  return moments;
}

Result<std::optional<federation::StoredContent>> Coordinator::StoreMoments(
    const federation::ServerMoments& moments) {
  if (moments.m.empty()) return std::optional<federation::StoredContent>();
  std::vector<float> values = moments.m;
  values.insert(values.end(), moments.v.begin(), moments.v.end());
  Status stored;
  const ByteSpan bytes(reinterpret_cast<const uint8_t*>(values.data()),
                       values.size() * sizeof(float));
  const blocks::Content content = blocks::Cut(bytes, [&](const Digest& id, ByteSpan block) {
    if (stored.ok()) stored = blocks_.PutHashed(id, block);
  });
  if (!stored.ok()) return Unexpected(stored);
  return std::optional(federation::StoredContent{content.bytes, content.blocks});
}

// In the order of the sites' names.
Result<std::vector<float>> Coordinator::SumRound(JobRun& job, uint32_t round,
                                                 federation::ServerMoments* moments) {
  TG_ASSIGN_OR_RETURN(const crypto::AgreeSecretKey key, store_->RecipientKey(job.facts.id, round));
  TG_ASSIGN_OR_RETURN(const auto updates, store_->Updates(job.facts.id, round));
  const auto read = [this](const Digest& id) { return blocks_.GetUnverified(id); };
  TG_ASSIGN_OR_RETURN(const Parameters start, LoadParameters(job.version));
  TG_ASSIGN_OR_RETURN(*moments, LoadMoments(job));
  const protocols::JobManifest& m = job.facts.manifest;
  const federation::ServerRule rule = federation::RuleOf(m);
  return StepOfUpdates(updates, job.facts, key, read, {rule, *start, GroupsOf(m, round)}, moments,
                       federation::SumThreads());
}

Status Coordinator::AggregateRound(JobRun& job, const federation::Aggregate& effect) {
  federation::ServerMoments moments;
  auto parameters = SumRound(job, effect.round, &moments);
  // However far one site pushes a value, it does not end the job of all. A spool that the disk
  // damaged would fail again after every restart.
  size_t saturated = 0;
  const Status status =
      parameters ? federation::SaturateAllToGrid(*parameters, &saturated) : parameters.error();
  if (!status.ok()) {
    TG_RETURN_IF_ERROR(SendNotice(job, effect.round, protocols::AbandonReason::kInternal));
    TG_RETURN_IF_ERROR(DropRoundLater(job, effect.round));
    return GiveUp(job, status);
  }
  if (saturated > 0) {
    LogWarning("parameters_saturated job={} round={} values={} limit={}",
               job.facts.manifest.name.text, effect.round, saturated, federation::kLargestOnGrid);
  }
  TG_RETURN_IF_ERROR(
      PublishVersion(job, effect.round,
                     std::make_shared<const std::vector<float>>(std::move(*parameters)), moments));
  return DropRoundLater(job, effect.round);
}

// A job that can not go on is stopped; the others do.
Status Coordinator::GiveUp(JobRun& job, const Status& why) {
  LogError("job_stopped job={} reason={}", job.facts.manifest.name.text, why.ToString());
  const federation::StopRequested event{clock_.UnixMillis()};
  TG_RETURN_IF_ERROR(store_->LogStop(job.facts.id, event));
  return Apply(job, event);
}

Result<protocols::Signed> Coordinator::StoreVersion(const JobFacts& facts, uint32_t version,
                                                    bool final, Parameters parameters,
                                                    protocols::AdapterManifest* manifest) {
  const ByteSpan bytes = BytesOf(*parameters);
  const auto block = [bytes](size_t i) {
    const size_t at = i * protocols::kBlockBytes;
    return bytes.subspan(at, std::min(protocols::kBlockBytes, bytes.size() - at));
  };
  blocks::Content content;
  content.bytes = bytes.size();
  content.blocks.resize((bytes.size() + protocols::kBlockBytes - 1) / protocols::kBlockBytes);
  federation::OnThreads(federation::SumThreads(), content.blocks.size(),
                        [&](size_t i) { content.blocks[i] = blocks::BlockId(block(i)); });
  content.id = blocks::ContentId(content.blocks);
  for (size_t i = 0; i < content.blocks.size(); ++i) {
    TG_RETURN_IF_ERROR(blocks_.PutHashed(content.blocks[i], block(i)));
  }
  *manifest = {};
  manifest->job = facts.id;
  manifest->version = version;
  manifest->final = final;
  manifest->base_hash = facts.manifest.base_hash;
  manifest->layout_digest = facts.layout_digest;
  manifest->content_bytes = content.bytes;
  manifest->content = content.id;
  manifest->blocks.items = content.blocks;
  kept_content_ = content.id;
  kept_ = !final && content.bytes <= kMaxKeptBytes ? std::move(parameters) : nullptr;
  return crypto::SignDocument(keys_.sign, crypto::domains::kAdapter, *manifest);
}

Status Coordinator::PublishVersion(JobRun& job, uint32_t round, Parameters parameters,
                                   const federation::ServerMoments& moments) {
  const uint32_t version = job.version.version + 1;
  const uint32_t old = version >= config_.keep_versions ? version - config_.keep_versions : 0;
  const bool final = version == job.facts.manifest.rounds;
  TG_ASSIGN_OR_RETURN(job.version_document,
                      StoreVersion(job.facts, version, final, std::move(parameters), &job.version));
  const federation::VersionPublished event{version, clock_.UnixMillis()};
  TG_ASSIGN_OR_RETURN(const auto before, store_->Moments(job.facts.id));
  std::optional<federation::StoredContent> after;
  if (!final) {
    TG_ASSIGN_OR_RETURN(after, StoreMoments(moments));
  }
  TG_RETURN_IF_ERROR(
      store_->Publish(job.facts.id, round, event, job.version_document, after ? &*after : nullptr));
  if (before) RemoveLater(before->blocks);
  checkpoint_ = true;
  if (version >= config_.keep_versions) {
    TG_ASSIGN_OR_RETURN(const auto document, store_->Version(job.facts.id, old));
    const auto manifest = document
                              ? protocols::Decode<protocols::AdapterManifest>(document->body.items)
                              : protocols::Decoded<protocols::AdapterManifest>();
    if (manifest) RemoveLater(manifest->blocks.items);
  }
  LogInfo("version_published job={} round={} version={}", job.facts.manifest.name.text, round,
          version);
  return Apply(job, event);
}

void Coordinator::RemoveLater(const std::vector<Digest>& blocks) {
  remove_blocks_.insert(remove_blocks_.end(), blocks.begin(), blocks.end());
}

// A block may be in several contents: parts of an adapter that did not change, zeros of moments,
// and whatever a site has named in a release of its own. What is to go stays while anything else
// has it.
Result<std::set<Digest>> Coordinator::NeededBlocks() {
  std::set<Digest> needed;
  const auto need = [&needed](const auto& manifest) {
    needed.insert(manifest.blocks.items.begin(), manifest.blocks.items.end());
  };
  for (const auto& job : jobs_) {
    const uint32_t newest = job->version.version;
    const uint32_t first = newest >= config_.keep_versions ? newest - config_.keep_versions + 1 : 0;
    for (uint32_t v = first; v <= newest; ++v) {
      TG_ASSIGN_OR_RETURN(const auto document, store_->Version(job->facts.id, v));
      if (!document) continue;
      const auto manifest = protocols::Decode<protocols::AdapterManifest>(document->body.items);
      if (!manifest) return DataLoss("a stored version: {}", manifest.error().reason);
      need(*manifest);
    }
    TG_ASSIGN_OR_RETURN(const auto moments, store_->Moments(job->facts.id));
    if (moments) needed.insert(moments->blocks.begin(), moments->blocks.end());
    if (job->ended()) continue;
    TG_ASSIGN_OR_RETURN(const auto updates,
                        store_->Updates(job->facts.id, federation::CurrentRound(job->state)));
    for (const federation::StoredUpdate& update : updates) {
      const auto release = protocols::Decode<protocols::ReleaseManifest>(update.release.body.items);
      if (!release) return DataLoss("a stored release: {}", release.error().reason);
      need(*release);
    }
  }
  for (const auto& [name, site] : sites_) {
    for (const auto& [content, incoming] : site.offers) need(incoming.manifest);
  }
  return needed;
}

Status Coordinator::SpareNeeded() {
  DropOrphans();
  if (remove_blocks_.empty()) return OkStatus();
  TG_ASSIGN_OR_RETURN(const std::set<Digest> needed, NeededBlocks());
  std::erase_if(remove_blocks_, [&needed](const Digest& id) { return needed.contains(id); });
  return OkStatus();
}

// Which offers they were of is not known any more, so they wait for all of these rounds.
Status Coordinator::RememberOrphans() {
  TG_ASSIGN_OR_RETURN(const std::set<Digest> needed, NeededBlocks());
  TG_ASSIGN_OR_RETURN(orphans_, blocks_.List());
  std::erase_if(orphans_, [&needed](const Digest& id) { return needed.contains(id); });
  for (const auto& job : jobs_) {
    if (job->ended()) continue;
    orphan_rounds_.emplace_back(job->facts.id, federation::CurrentRound(job->state));
  }
  return OkStatus();
}

void Coordinator::DropOrphans() {
  if (orphans_.empty()) return;
  for (const auto& [id, round] : orphan_rounds_) {
    const JobRun* job = FindJob(id);
    // An ended job's round is 0.
    if (job != nullptr && federation::CurrentRound(job->state) == round) return;
  }
  RemoveLater(std::exchange(orphans_, {}));
}

Status Coordinator::SendNotice(JobRun& job, uint32_t round, protocols::AbandonReason reason) {
  const protocols::AbandonNotice notice{job.facts.id, round, reason, clock_.UnixMillis()};
  TG_ASSIGN_OR_RETURN(const protocols::Signed document,
                      crypto::SignDocument(keys_.sign, crypto::domains::kAbandon, notice));
  TG_RETURN_IF_ERROR(store_->PutNotice(job.facts.id, round, document));
  checkpoint_ = true;
  job.announcement_document.reset();
  LogInfo("round_abandoned job={} round={} reason={}", job.facts.manifest.name.text, round,
          static_cast<int>(reason));
  for (const std::string& site : job.state.rules.sites) {
    Send(site, Channel::kControl, MessageType::kAbandon,
         protocols::Encode(protocols::Abandon{document}));
  }
  return OkStatus();
}

// The spool of a round that is over, taken or not.
Status Coordinator::DropRoundLater(const JobRun& job, uint32_t round) {
  TG_ASSIGN_OR_RETURN(const auto updates, store_->Updates(job.facts.id, round));
  for (const federation::StoredUpdate& update : updates) {
    const auto release = protocols::Decode<protocols::ReleaseManifest>(update.release.body.items);
    if (!release) return DataLoss("a stored release: {}", release.error().reason);
    RemoveLater(release->blocks.items);
  }
  for (auto& [name, site] : sites_) {
    std::erase_if(site.left_off, [&](const LeftOff& left) {
      const bool of_round = left.key.job == job.facts.id && left.key.round == round;
      if (of_round) RemoveLater(left.blocks);
      return of_round;
    });
    for (auto it = site.offers.begin(); it != site.offers.end();) {
      const Incoming& incoming = it->second;
      const protocols::ReleaseManifest& release = incoming.manifest;
      if (release.key.job != job.facts.id || release.key.round != round) {
        ++it;
        continue;
      }
      RemoveLater(release.blocks.items);
      // Or the site would wait for a receipt for as long as it stays connected.
      TG_RETURN_IF_ERROR(AcceptLate(site, release, incoming.document, incoming.ledger_head));
      it = site.offers.erase(it);
    }
  }
  return OkStatus();
}

}  // namespace tidegate::offshore
