#include "offshore/coordinator.h"

#include <algorithm>

#include "base/log.h"
#include "crypto/document.h"
#include "offshore/open_store.h"

namespace tidegate::offshore {

using federation::Event;
using protocols::Channel;
using protocols::MessageType;

Result<std::unique_ptr<Coordinator>> Coordinator::Open(const std::filesystem::path& dir,
                                                       FederationConfig config, FederationKeys keys,
                                                       const Clock& clock) {
  TG_ASSIGN_OR_RETURN(federation::OpenedStore opened, OpenStore(dir, config));
  return Open(std::move(opened), std::move(config), std::move(keys), clock);
}

Result<std::unique_ptr<Coordinator>> Coordinator::Open(federation::OpenedStore opened,
                                                       FederationConfig config, FederationKeys keys,
                                                       const Clock& clock) {
  const std::filesystem::path dir = opened.folder;
  std::unique_ptr<federation::Store> store = std::move(opened.store);
  federation::FederationIdentity identity{config.federation};
  std::ranges::copy(keys.sign.verify_key().bytes(), identity.sign_key.begin());
  std::ranges::copy(keys.curve.public_key(), identity.curve_key.begin());
  TG_RETURN_IF_ERROR(store->BindFederation(identity));
  TG_ASSIGN_OR_RETURN(auto blocks,
                      blocks::BlockStore::Open(dir / "blocks", config.block_store_bytes));
  std::unique_ptr<Coordinator> coordinator(new Coordinator(
      std::move(config), std::move(keys), clock, std::move(store), std::move(blocks)));
  TG_ASSIGN_OR_RETURN(coordinator->bases_,
                      BaseShelf::Open(dir / "bases", coordinator->config_.federation,
                                      coordinator->keys_.sign.verify_key()));
  if (const Status status = coordinator->Load(); !status.ok()) {
    return Unexpected(coordinator->WhyEnded(status));
  }
  return coordinator;
}

Status Coordinator::Load() {
  TG_ASSIGN_OR_RETURN(std::vector<federation::StoredSite> sites, store_->Sites());
  for (federation::StoredSite& site : sites) {
    if (site.revoked_unix_millis != 0) continue;
    TG_ASSIGN_OR_RETURN(const crypto::VerifyKey key, crypto::VerifyKey::FromBytes(site.sign_key));
    access_.push_back({site.name, site.curve_key, true});
    const std::string name = site.name;
    TG_ASSIGN_OR_RETURN(const auto head, store_->Head(name, site.sign_key));
    sites_.emplace(name, Site(std::move(site), key)).first->second.head = head;
  }
  TG_ASSIGN_OR_RETURN(std::vector<federation::StoredJob> jobs, store_->Jobs());
  for (federation::StoredJob& job : jobs) TG_RETURN_IF_ERROR(LoadJob(std::move(job)));
  return RemoveOrphans();
}

Status Coordinator::LoadJob(federation::StoredJob stored) {
  const crypto::VerifyKey& own = keys_.sign.verify_key();
  TG_ASSIGN_OR_RETURN(protocols::JobManifest manifest,
                      crypto::OpenDocument<protocols::JobManifest>(
                          own, crypto::domains::kJob, stored.manifest, "a stored job"));
  auto job = std::make_unique<JobRun>();
  job->facts = FactsOf(stored.manifest, std::move(manifest));
  const protocols::JobManifest& m = job->facts.manifest;
  TG_ASSIGN_OR_RETURN(job->state, federation::NewJob(federation::RulesOf(m)));
  TG_ASSIGN_OR_RETURN(const std::vector<Event> events, store_->Events(job->facts.id));
  for (const Event& event : events) {
    auto next = federation::Step(std::move(job->state), event);
    if (!next) {
      return DataLoss("the store's events of job {} do not follow from each other: {}", m.name.text,
                      next.error().message());
    }
    job->state = std::move(next->state);
  }
  TG_ASSIGN_OR_RETURN(const auto version, store_->Version(job->facts.id, std::nullopt));
  if (!version) return DataLoss("the store has no version of job {}", m.name.text);
  job->version_document = *version;
  TG_ASSIGN_OR_RETURN(
      job->version, crypto::OpenDocument<protocols::AdapterManifest>(own, crypto::domains::kAdapter,
                                                                     *version, "a stored version"));
  if (job->collecting()) {
    TG_ASSIGN_OR_RETURN(const auto round,
                        store_->Round(job->facts.id, federation::CurrentRound(job->state)));
    if (!round)
      return DataLoss("the store has no announcement of job {}'s open round", m.name.text);
    job->announcement_document = round->announcement;
    TG_ASSIGN_OR_RETURN(job->announcement,
                        crypto::OpenDocument<protocols::RoundAnnouncement>(
                            own, crypto::domains::kRound, round->announcement, "a stored round"));
  }
  TG_ASSIGN_OR_RETURN(const auto updates, store_->NewestUpdates(job->facts.id));
  for (const federation::StoredUpdate& update : updates) {
    job->losses[update.key.site.text] = {update.key.round, update.train_loss_milli,
                                         update.heldout_loss_milli};
  }
  TG_RETURN_IF_ERROR(LoadHistory(*job, events));
  job->stored = std::move(stored);
  jobs_.push_back(std::move(job));
  return OkStatus();
}

Status Coordinator::LoadHistory(JobRun& job, const std::vector<Event>& events) {
  std::vector<const federation::RoundOpened*> opened;
  for (const Event& event : events) {
    if (const auto* o = std::get_if<federation::RoundOpened>(&event)) opened.push_back(o);
  }
  const size_t first =
      opened.size() > RoundHistory::kRemembered ? opened.size() - RoundHistory::kRemembered : 0;
  for (size_t i = first; i < opened.size(); ++i) {
    job.history.Opened(opened[i]->round, opened[i]->unix_millis);
    TG_ASSIGN_OR_RETURN(const auto updates, store_->Updates(job.facts.id, opened[i]->round));
    for (const federation::StoredUpdate& update : updates) {
      const auto release = protocols::Decode<protocols::ReleaseManifest>(update.release.body.items);
      if (!release) return DataLoss("a stored release: {}", release.error().reason);
      job.history.Took(update, release->ciphertext_bytes);
    }
  }
  return OkStatus();
}

// Blocks of offers that were never taken. Where a job is open its sites may go on with them.
Status Coordinator::RemoveOrphans() {
  std::set<Digest> keep;
  for (const auto& job : jobs_) {
    if (!job->ended()) return RememberOrphans();
    const uint32_t newest = job->version.version;
    for (uint32_t v = newest; v + config_.keep_versions > newest; --v) {
      TG_ASSIGN_OR_RETURN(const auto document, store_->Version(job->facts.id, v));
      if (document) {
        const auto manifest = protocols::Decode<protocols::AdapterManifest>(document->body.items);
        if (!manifest) return DataLoss("a stored version: {}", manifest.error().reason);
        keep.insert(manifest->blocks.items.begin(), manifest->blocks.items.end());
      }
      if (v == 0) break;
    }
  }
  TG_ASSIGN_OR_RETURN(const std::vector<Digest> all, blocks_.List());
  for (const Digest& id : all) {
    if (!keep.contains(id)) TG_RETURN_IF_ERROR(blocks_.Remove(id));
  }
  return OkStatus();
}

Status Coordinator::BeginTurn() {
  took_blocks_ = rests_on_blocks_ = false;
  return store_->Begin();
}

Result<std::vector<Outgoing>> Coordinator::EndTurn() {
  if (rests_on_blocks_ || !took_blocks_) TG_RETURN_IF_ERROR(blocks_.Sync());
  TG_RETURN_IF_ERROR(SpareNeeded());
  TG_RETURN_IF_ERROR(store_->Commit());
  for (auto& [name, site] : sites_) site.turn_bytes = 0;
  for (const Digest& id : std::exchange(remove_blocks_, {})) {
    TG_RETURN_IF_ERROR(blocks_.RemoveSoon(id));
  }
  if (std::exchange(checkpoint_, false)) TG_RETURN_IF_ERROR(store_->Checkpoint());
  return std::exchange(outbox_, {});
}

std::vector<AccessChange> Coordinator::TakeAccessChanges() { return std::exchange(access_, {}); }

bool Coordinator::JobRun::Names(const std::string& site) const {
  return std::binary_search(state.rules.sites.begin(), state.rules.sites.end(), site);
}

bool Coordinator::JobRun::Asks(const std::string& site) const {
  const auto* open = std::get_if<federation::Collecting>(&state.phase);
  return open != nullptr && std::binary_search(open->asked.begin(), open->asked.end(), site);
}

Coordinator::JobRun* Coordinator::FindJob(const protocols::Id16& id) {
  for (const auto& job : jobs_) {
    if (job->facts.id == id) return job.get();
  }
  return nullptr;
}

void Coordinator::Send(const std::string& site, Channel channel, MessageType type, Bytes body) {
  const auto it = sites_.find(site);
  if (it == sites_.end() || !it->second.connected) return;
  it->second.turn_bytes += body.size();
  outbox_.push_back({site, channel, type, std::move(body), {}, {}});
}

void Coordinator::SendChunk(const std::string& site, const protocols::Chunk& chunk,
                            std::shared_ptr<const void> owner) {
  const auto it = sites_.find(site);
  if (it == sites_.end() || !it->second.connected) return;
  it->second.turn_bytes += chunk.bytes.size();
  outbox_.push_back({site, Channel::kBulk, MessageType::kChunk, {}, chunk, std::move(owner)});
}

void Coordinator::SendError(const std::string& site, MessageType about, const Digest& content,
                            const Status& status) {
  const auto it = sites_.find(site);
  // A site that is refused over and over does not fill the log.
  const uint64_t count = it == sites_.end() ? 1 : ++it->second.refused;
  if (IsSaid(count)) {
    LogWarning("refused site={} message={} times={} reason={}", site,
               protocols::MessageTypeName(about), count, status.ToString());
  }
  protocols::ErrorMessage error;
  error.code = static_cast<uint8_t>(status.code());
  error.about = static_cast<uint16_t>(about);
  error.content = content;
  // The field takes printable ASCII; a message may hold a name or sign that is not.
  for (const char c : status.message()) {
    if (error.text.text.size() < protocols::kMaxErrorText) {
      error.text.text += c >= 0x20 && c < 0x7f ? c : '?';
    }
  }
  Send(site, Channel::kControl, MessageType::kError, protocols::Encode(error));
}

// The job as it is now. Everything is idempotent at the site, which says so again when it is
// behind.
void Coordinator::Push(const std::string& site, const JobRun& job) {
  const auto it = sites_.find(site);
  if (it == sites_.end()) return;
  // A folder takes all at once.
  if (it->second.turn_bytes >= kMaxTurnBytes && !it->second.by_folder) return;
  Send(site, Channel::kControl, MessageType::kJob,
       protocols::Encode(protocols::Job{job.stored.manifest}));
  Send(site, Channel::kControl, MessageType::kAdapter,
       protocols::Encode(protocols::AdapterOffer{job.version_document}));
  if (job.Asks(site) && job.announcement_document) {
    Send(site, Channel::kControl, MessageType::kRound,
         protocols::Encode(protocols::Round{*job.announcement_document}));
  }
}

// A site that works for another job is told of this one when that has ended.
void Coordinator::PushToAll(const JobRun& job) {
  for (const std::string& name : job.state.rules.sites) {
    const auto it = sites_.find(name);
    if (it == sites_.end()) continue;
    const auto& works_for = it->second.works_for;
    const JobRun* other = works_for && *works_for != job.facts.id ? FindJob(*works_for) : nullptr;
    if (other == nullptr || other->ended()) Push(name, job);
  }
}

// To a site without a job, one at a time: the open job that was submitted after the one it was told
// of last, and after the last of them the first again.
void Coordinator::PushNext(Site& site) {
  const JobRun *first = nullptr, *next = nullptr;
  bool passed = false;
  for (const auto& job : jobs_) {
    if (job->ended() || !job->Names(site.stored.name)) continue;
    if (first == nullptr) first = job.get();
    if (passed && next == nullptr) next = job.get();
    passed = passed || job->facts.id == site.told_of;
  }
  if (next == nullptr) next = first;
  if (next == nullptr) return;
  site.told_of = next->facts.id;
  site.leases_since = 0;
  Push(site.stored.name, *next);
}

void Coordinator::OnConnected(const std::string& site, bool by_folder) {
  const auto it = sites_.find(site);
  if (it == sites_.end()) return;
  OnDisconnected(site);
  it->second.connected = true;
  it->second.by_folder = by_folder;
  it->second.seen_unix_millis = clock_.UnixMillis();
  PushBases(site);
  PushNext(it->second);
}

// Every base in force and what was taken back. Nothing is sent that a site does not ask for.
void Coordinator::PushBases(const std::string& site) {
  const bases::Registry& registry = bases_->registry();
  size_t left = protocols::kMaxBases;
  for (const auto& [key, notice] : registry.revocations()) {
    if (left-- == 0) break;
    Send(site, Channel::kControl, MessageType::kRevoke,
         protocols::Encode(protocols::Revoke{notice}));
  }
  for (const bases::Published* base : registry.InForce()) {
    Send(site, Channel::kControl, MessageType::kBase,
         protocols::Encode(protocols::Base{base->document}));
  }
}

std::vector<std::string> Coordinator::SiteNames() const {
  std::vector<std::string> names;
  for (const auto& [name, site] : sites_) names.push_back(name);
  return names;
}

bool Coordinator::Connected(const std::string& site) const {
  const auto it = sites_.find(site);
  return it != sites_.end() && it->second.connected;
}

Status Coordinator::TellAll(const std::string& site, const protocols::Id16& works_for) {
  const JobRun* last = nullptr;
  bool open = false;
  for (const auto& job : jobs_) {
    if (!job->Names(site)) continue;
    last = job.get();
    open = open || !job->ended();
  }
  for (const auto& job : jobs_) {
    if (!job->Names(site)) continue;
    const bool told = !job->ended() || job->facts.id == works_for || (!open && job.get() == last);
    if (!told) continue;
    Push(site, *job);
    TG_ASSIGN_OR_RETURN(const auto notice, store_->Notice(job->facts.id, 0));
    if (notice) {
      Send(site, Channel::kControl, MessageType::kAbandon,
           protocols::Encode(protocols::Abandon{*notice}));
    }
  }
  return OkStatus();
}

void Coordinator::OnDisconnected(const std::string& site) {
  const auto it = sites_.find(site);
  if (it == sites_.end()) return;
  it->second.connected = it->second.owed = false;
  // What was under way is asked for again; blocks that came are on disk.
  for (const auto& [content, incoming] : it->second.offers) LeaveOff(it->second, incoming);
  it->second.offers.clear();
  it->second.outflows.clear();
  it->second.told_ended.clear();
  it->second.works_for.reset();
  it->second.told_of.reset();
}

}  // namespace tidegate::offshore
