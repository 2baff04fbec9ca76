// Local jobs: finetune, eval and generate as walled trainers of their own, for a client of the
// local API. Flags, output and errors are the client's descriptors: nothing of them is read here.
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>

#include "base/log.h"
#include "onshore/supervisor/given_fd.h"
#include "onshore/supervisor/supervisor.h"

namespace tidegate::onshore {
namespace {

using api::Reason;

constexpr int64_t kStopLocalMillis = 10'000;
// In the child: 3 has the flags, those of the data follow.
constexpr int kFlagsFd = 3;

int64_t MonotonicNow() { return SystemClock().MonotonicMillis(); }

struct Given {
  int flags = -1, output = -1, errors = -1, input = -1;
  std::vector<int> data;  // of --data, --eval_data
};

// In the order of the request's bits (api/messages.h); ParseRequest has counted them.
Reason Sort(const api::RunLocalRequest& request, const std::vector<Fd>& descriptors, Given* out) {
  size_t next = 0;
  const auto take = [&] { return descriptors[next++].get(); };
  out->flags = take();
  out->output = take();
  out->errors = take();
  if ((request.has & api::kHasInput) != 0) out->input = take();
  for (const uint32_t bit : {api::kHasData, api::kHasEvalData}) {
    if ((request.has & bit) != 0) out->data.push_back(take());
  }
  if (!IsPipe(out->output) || !IsPipe(out->errors)) return Reason::kNotPipe;
  if (out->input >= 0 && !IsPipe(out->input)) return Reason::kNotPipe;
  const auto flags = ReadOnlyFileBytes(out->flags);
  if (!flags) return Reason::kNotReadOnlyFile;
  if (*flags > api::kMaxFlagsBytes) return Reason::kFlagsTooLong;
  for (const int fd : out->data) {
    if (!ReadOnlyFileBytes(fd)) return Reason::kNotReadOnlyFile;
  }
  return Reason::kNone;
}

}  // namespace

ApiAnswer Supervisor::RunLocal(uint64_t client, const ApiPeer& peer,
                               const api::RunLocalRequest& request,
                               const std::vector<Fd>& descriptors) {
  if (locals_.size() >= api::kMaxLocalJobs) return {Reason::kTooManyLocal};
  if (std::any_of(locals_.begin(), locals_.end(),
                  [client](const LocalJob& job) { return job.client == client; })) {
    return {Reason::kAlready};
  }
  Given given;
  if (const Reason bad = Sort(request, descriptors, &given); bad != Reason::kNone) return {bad};
  SpawnSpec spec;
  spec.program = options_.programs / "tidegate-trainer";
  spec.arguments = {std::string(LocalVerbName(request.verb)),
                    "--flags_fd",
                    std::to_string(kFlagsFd),
                    "--site",
                    options_.site.native(),
                    "--walls",
                    config_.walls,
                    "--format",
                    request.json != 0 ? "json" : "text"};
  if (static_cast<LocalVerb>(request.verb) != LocalVerb::kDataCheck) {
    spec.arguments.insert(spec.arguments.end(), {"--device", config_.device});
  }
  if (config_.separate_uids) {
    spec.arguments.insert(spec.arguments.end(),
                          {"--uid", std::to_string((*config_.separate_uids)[0])});
  }
  spec.fds = {given.flags};
  int next = kFlagsFd + 1;
  for (const auto& [bit, flag] :
       {std::pair{api::kHasData, "--data"}, std::pair{api::kHasEvalData, "--eval_data"}}) {
    if ((request.has & bit) == 0) continue;
    spec.arguments.insert(spec.arguments.end(), {flag, fmt::format("/dev/fd/{}", next++)});
  }
  spec.fds.insert(spec.fds.end(), given.data.begin(), given.data.end());
  spec.input_fd = given.input;
  spec.output_fd = given.output;
  spec.log_fd = given.errors;
  spec.environment = Environment();
  auto child = Spawn(spec);
  if (!child) {
    LogWarning("local_job_failed {}", child.error().ToString());
    return {Reason::kSystem};
  }
  LocalJob job;
  job.id = next_local_++;
  job.client = client;
  job.uid = peer.uid;
  job.verb = static_cast<LocalVerb>(request.verb);
  job.child = std::move(*child);
  const api::RunLocalReply reply{job.id, static_cast<uint32_t>(job.child.pid)};
  Note(EventCode::kLocalStarted, {job.id, request.verb, job.child.pid, peer.uid});
  locals_.push_back(std::move(job));
  api_->SetBusy(client, true);
  return {Reason::kNone, api::BytesOf(reply)};
}

// By who asked for it, or by who may end the site anyway.
ApiAnswer Supervisor::StopLocal(const ApiPeer& peer, uint32_t id) {
  for (LocalJob& job : locals_) {
    if (job.id != id) continue;
    if (peer.uid != job.uid && peer.uid != 0 && peer.uid != ::geteuid()) break;
    StopLocalJob(job);
    return {};
  }
  return {Reason::kNoSuchLocal};
}

// A finetune ends after its step with its state saved, as at Ctrl-C.
void Supervisor::StopLocalJob(LocalJob& job) {
  if (job.kill_at) return;
  job.kill_at = MonotonicNow() + kStopLocalMillis;
  (void)::syscall(SYS_pidfd_send_signal, job.child.pidfd.get(), SIGTERM, nullptr, 0);
}

void Supervisor::OnClientGone(uint64_t client) {
  OnOutsideClientGone(client);
  for (LocalJob& job : locals_) {
    if (job.client == client) StopLocalJob(job);
  }
}

void Supervisor::OnLocalEnds() {
  for (auto it = locals_.begin(); it != locals_.end();) {
    if (it->kill_at && *it->kill_at <= MonotonicNow()) {
      it->kill_at = INT64_MAX;
      [[maybe_unused]] const Status killed = Kill(it->child);
    }
    const auto end = Reap(it->child, false);
    if (!end || !*end) {
      ++it;
      continue;
    }
    Note(EventCode::kLocalEnded,
         {it->id, static_cast<int64_t>((*end)->end), (*end)->signal, (*end)->exit_status});
    api::Header header;
    header.type = static_cast<uint16_t>(api::Type::kLocalEnded);
    api_->Tell(it->client,
               api::Encode(header, api::LocalEnded{it->id, static_cast<uint32_t>((*end)->end),
                                                   (*end)->signal, (*end)->exit_status}));
    api_->SetBusy(it->client, false);
    it = locals_.erase(it);
  }
}

}  // namespace tidegate::onshore
