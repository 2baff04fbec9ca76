// What the requests of the local API do.
#include <fcntl.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/program.h"
#include "onshore/supervisor/given_fd.h"
#include "onshore/supervisor/supervisor.h"

namespace tidegate::onshore {
namespace {

using api::Reason;

template <typename Body>
ApiAnswer Told(const Body& body) {
  return {Reason::kNone, api::BytesOf(body)};
}

ApiAnswer Failed(std::string_view what, const Status& status) {
  LogWarning("api_request_failed what={} {}", what, status.ToString());
  return {Reason::kSystem};
}

}  // namespace

ApiAnswer Supervisor::OnRequest(uint64_t client, const ApiPeer& peer, const api::Request& request,
                                std::vector<Fd> descriptors) {
  using api::Type;
  switch (request.type) {
    case Type::kHello:
      return Hello(peer);
    case Type::kStatus:
      return TellStatus();
    case Type::kListDatasets:
      return TellDatasets();
    case Type::kListAdapters:
      return TellAdapters();
    case Type::kListHeld:
      return TellHeld();
    case Type::kOpenFile:
      return OpenFile(request.open_file);
    case Type::kStopLocal:
      return StopLocal(peer, request.stop_local.job);
    default:
      break;
  }
  if (stopping_) return {Reason::kStopping};
  switch (request.type) {
    case Type::kSetDataset:
      return SetDataset(request.set_dataset, std::move(descriptors));
    case Type::kResetDataset:
      return ResetDataset(request.reset_dataset.dataset);
    case Type::kPause:
      return Pause();
    case Type::kResume:
      return Resume();
    case Type::kStopJob:
      return StopJob();
    case Type::kRunLocal:
      return RunLocal(client, peer, request.run_local, descriptors);
    case Type::kDecide:
      return Decide(peer, request.decide);
    case Type::kTrainOutside:
      return TrainOutside(client, peer, std::move(descriptors));
    case Type::kShutdown:
      Note(EventCode::kStopping);
      stopping_ = true;
      return {};
    default:
      return {Reason::kMalformed};
  }
}

void Supervisor::OnClientRefused(const ApiPeer& peer) {
  if (refusals_.Take(SystemClock().MonotonicMillis())) {
    Note(EventCode::kClientRefused, {peer.uid, peer.pid});
  }
}

ApiAnswer Supervisor::Hello(const ApiPeer& peer) const {
  api::HelloReply reply;
  // A site's name has at most 63 bytes, a version fewer.
  [[maybe_unused]] bool fits = api::SetText(config_.name, &reply.site);
  fits = api::SetText(Version(), &reply.program);
  reply.epoch = static_cast<uint64_t>(started_unix_millis_);
  reply.last_event = ring_.last();
  reply.uid = peer.uid;
  return Told(reply);
}

ApiAnswer Supervisor::TellStatus() const {
  api::StatusReply reply;
  for (size_t i = 0; i < processes_.size(); ++i) {
    const Process& process = processes_[i];
    api::ProcessStatus& out = reply.processes[i];
    api::ProcessState state = api::ProcessState::kAbsent;
    if (process.running()) {
      state = process.ready_by ? api::ProcessState::kStarting : api::ProcessState::kRunning;
      out.pid = static_cast<uint32_t>(process.child.pid);
    } else if (process.start_at) {
      state = api::ProcessState::kWaiting;
    }
    out.state = static_cast<uint32_t>(state);
    out.generation = process.generation;
    out.walls = process.walls;
    out.starts = process.starts;
  }
  for (size_t i = 0; i < locals_.size(); ++i) {
    reply.locals[i] = {locals_[i].id, static_cast<uint32_t>(locals_[i].verb),
                       static_cast<uint32_t>(locals_[i].child.pid), locals_[i].uid};
  }
  reply.job = job_.id;
  reply.job_name = job_.name;
  reply.job_rounds = job_.rounds;
  reply.job_ended = job_ended_ ? 1 : 0;
  reply.round = job_.round;
  reply.adapter_version = job_.adapter_version;
  reply.train_loss_milli = job_.train_loss_milli;
  reply.heldout_loss_milli = job_.heldout_loss_milli;
  reply.connected = options_.folder.empty() && !lost_since_ ? 1 : 0;
  reply.holds = holds_;
  reply.spool_bytes = job_.spool_bytes;
  reply.open_exports = job_.open_exports;
  reply.held_round = job_.held_round;
  reply.epoch = static_cast<uint64_t>(started_unix_millis_);
  reply.last_event = ring_.last();
  reply.started_unix_millis = started_unix_millis_;
  return Told(reply);
}

ApiAnswer Supervisor::TellDatasets() const {
  api::DatasetsReply reply;
  const std::filesystem::path* of_site[] = {&config_.records, &config_.heldout};
  for (size_t i = 0; i < kDatasets; ++i) {
    api::DatasetStatus& out = reply.datasets[i];
    out.source = static_cast<uint32_t>(state_.sources[i]);
    out.bytes = dataset_bytes_[i];
    const std::filesystem::path& path =
        state_.sources[i] == DatasetSource::kSite ? *of_site[i] : state_.paths[i];
    // One of site.toml that is longer than a path can be does not open either.
    [[maybe_unused]] const bool fits = api::SetText(path.native(), &out.path);
  }
  return Told(reply);
}

ApiAnswer Supervisor::SetDataset(const api::SetDatasetRequest& request,
                                 std::vector<Fd> descriptors) {
  const auto source = static_cast<DatasetSource>(request.source);
  if (source == DatasetSource::kPath) {
    return ChangeDataset(request.dataset, source, api::TextOf(request.path), Fd(), 0);
  }
  const auto bytes = ReadOnlyFileBytes(descriptors[0].get());
  if (!bytes) return {Reason::kNotReadOnlyFile};
  return ChangeDataset(request.dataset, source, {}, std::move(descriptors[0]), *bytes);
}

ApiAnswer Supervisor::ResetDataset(uint32_t dataset) {
  return ChangeDataset(dataset, DatasetSource::kSite, {}, Fd(), 0);
}

ApiAnswer Supervisor::ChangeDataset(size_t dataset, DatasetSource source,
                                    std::filesystem::path path, Fd descriptor, uint64_t bytes) {
  SiteState next = state_;
  next.sources[dataset] = source;
  next.paths[dataset] = std::move(path);
  if (const Status saved = SaveState(std::move(next)); !saved.ok()) {
    return Failed("set_dataset", saved);
  }
  dataset_fds_[dataset] = std::move(descriptor);
  dataset_bytes_[dataset] = bytes;
  Note(EventCode::kDatasetSet, {static_cast<int64_t>(dataset), static_cast<int64_t>(source)});
  if (!trainer().outside) StopTrainer();  // one for a program outside has none of them
  const auto& sources = state_.sources;
  if (std::find(sources.begin(), sources.end(), DatasetSource::kGone) == sources.end()) {
    ClearHold(Hold::kDatasetGone);
  }
  ClearHold(Hold::kDatasetRefused);
  return {};
}

ApiAnswer Supervisor::Pause() {
  SiteState next = state_;
  next.paused = true;
  if (const Status saved = SaveState(std::move(next)); !saved.ok()) return Failed("pause", saved);
  SetHold(Hold::kPaused);
  return {};
}

ApiAnswer Supervisor::Resume() {
  SiteState next = state_;
  next.paused = next.job_stopped = false;
  if (const Status saved = SaveState(std::move(next)); !saved.ok()) return Failed("resume", saved);
  for (const Hold hold : {Hold::kPaused, Hold::kJobStopped, Hold::kDatasetRefused}) ClearHold(hold);
  return {};
}

ApiAnswer Supervisor::StopJob() {
  if (job_.id == decltype(job_.id){} || job_ended_) return {Reason::kNoJob};
  SiteState next = state_;
  next.job_stopped = true;
  next.stopped_job = job_.id;
  if (const Status saved = SaveState(std::move(next)); !saved.ok()) {
    return Failed("stop_job", saved);
  }
  SetHold(Hold::kJobStopped);
  return {};
}

}  // namespace tidegate::onshore
