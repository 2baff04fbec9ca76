// Local jobs: at a site, or a tidegate of the caller's own. What they write is read as it comes and
// told as events; nothing of it is kept.
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <deque>

#include "base/json.h"
#include "sdk/process.h"
#include "sdk/site.h"

namespace tidegate::sdk {
namespace {

using onshore::LocalVerb;
using onshore::api::LocalEnded;

static_assert(TG_VERB_DATA_CHECK == static_cast<int>(LocalVerb::kDataCheck));

constexpr size_t kMaxLine = 64 << 10;

struct Owned {
  tg_job_event event{};
  std::string text;
};

Owned LineOf(std::string line) {
  Owned out;
  out.event.kind = TG_JOB_LINE;
  long long step = 0, total = 0;
  double a = 0, b = 0, norm = 0, speed = 0;
  if (std::sscanf(line.c_str(), "step %lld/%lld  loss %lf  lr %lf  norm %lf  %lf tokens/s", &step,
                  &total, &a, &b, &norm, &speed) == 6) {
    out.event.kind = TG_JOB_STEP;
    out.event.total_steps = total;
    out.event.loss = a;
    out.event.learning_rate = b;
    out.event.tokens_per_second = speed;
  } else if (std::sscanf(line.c_str(), "step %lld  held-out NLL %lf", &step, &a) == 2) {
    out.event.kind = TG_JOB_EVAL;
    out.event.heldout_loss = a;
  }
  if (out.event.kind != TG_JOB_LINE) out.event.step = step;
  out.text = std::move(line);
  return out;
}

// The message of an error that the job wrote as JSON; empty for any other line.
std::string ErrorIn(const std::string& line) {
  if (!line.starts_with("{\"error\"")) return "";
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object() || !json["error"].is_object()) return "";
  return json["error"].value("message", std::string());
}

}  // namespace
}  // namespace tidegate::sdk

struct tg_job {
  std::timed_mutex mutex;
  // One of the two runs it.
  std::optional<tidegate::onshore::api::ApiClient> client;
  tidegate::sdk::Process process;
  std::filesystem::path socket;
  uint32_t number = 0;

  tidegate::Fd flags;  // a program of our own reads them by our process's name for them
  tidegate::Fd output, errors;
  std::string line;        // of standard error, as far as it came
  std::string last_error;  // that it said
  std::deque<tidegate::sdk::Owned> events;
  std::string told;  // the text of the last event
  std::optional<tg_job_event> end;
  bool over = false;  // its end was told
};

namespace tidegate::sdk {
namespace {

// False at the pipe's end.
Result<bool> ReadSome(const Fd& from, std::string* text) {
  char buffer[16 << 10];
  const ssize_t n = ::read(from.get(), buffer, sizeof(buffer));
  if (n < 0 && errno != EINTR) return Unexpected(ErrnoStatus("read", "the job's output", errno));
  if (n > 0) text->append(buffer, static_cast<size_t>(n));
  return n != 0;
}

void TakeLines(tg_job& job, bool all) {
  for (;;) {
    const size_t end = job.line.find('\n');
    if (end == std::string::npos && job.line.size() < kMaxLine && !(all && !job.line.empty())) {
      return;
    }
    std::string line = job.line.substr(0, end);
    job.line.erase(0, end == std::string::npos ? std::string::npos : end + 1);
    if (std::string error = ErrorIn(line); !error.empty()) {
      job.last_error = std::move(error);
    } else {
      job.events.push_back(LineOf(std::move(line)));
    }
  }
}

Status TakeOutput(tg_job& job) {
  Owned out;
  out.event.kind = TG_JOB_OUTPUT;
  TG_ASSIGN_OR_RETURN(const bool more, ReadSome(job.output, &out.text));
  if (!more) job.output.reset();
  if (!out.text.empty()) job.events.push_back(std::move(out));
  return OkStatus();
}

Status TakeErrors(tg_job& job) {
  TG_ASSIGN_OR_RETURN(const bool more, ReadSome(job.errors, &job.line));
  if (!more) job.errors.reset();
  TakeLines(job, !more);
  return OkStatus();
}

// The end, which a site tells, and a program's exit status.
Status TakeEnd(tg_job& job, const Call& call) {
  tg_job_event end{};
  end.kind = TG_JOB_ENDED;
  if (job.client) {
    job.client->Limit(call.left(), call.cancel());
    TG_ASSIGN_OR_RETURN(const auto told, job.client->Next(call.left()));
    const auto* ended = std::get_if<LocalEnded>(&told);
    if (ended == nullptr || ended->job != job.number) return OkStatus();
    end.exit_code = ended->exit_status;
    end.signal = ended->signal;
  } else {
    const int status = job.process.Reap();
    end.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : TG_INTERNAL;
    end.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  }
  if (end.signal != 0 && end.exit_code == 0) end.exit_code = TG_CANCELLED;
  job.end = end;
  return OkStatus();
}

// One thing more to tell, or time is up.
Status Await(tg_job& job, const Call& call) {
  while (job.events.empty() && !job.end) {
    if (!job.output.valid() && !job.errors.valid()) {
      TG_RETURN_IF_ERROR(TakeEnd(job, call));
      continue;
    }
    pollfd fds[] = {
        {job.output.get(), POLLIN, 0}, {job.errors.get(), POLLIN, 0}, {call.cancel(), POLLIN, 0}};
    const int ready = ::poll(fds, 3, static_cast<int>(std::min<int64_t>(call.left(), 60'000)));
    if (ready < 0 && errno != EINTR) return ErrnoStatus("wait for", "the job", errno);
    if (ready > 0 && fds[2].revents != 0) return Cancelled("the call was cancelled");
    if (ready <= 0 && call.left() == 0) return DeadlineExceeded("the job said nothing in time");
    if (ready > 0 && fds[0].revents != 0) TG_RETURN_IF_ERROR(TakeOutput(job));
    if (ready > 0 && fds[1].revents != 0) TG_RETURN_IF_ERROR(TakeErrors(job));
  }
  return OkStatus();
}

Result<tg_job_event> NextOf(tg_job& job, const Call& call) {
  if (job.over) return FailedPrecondition("the job has ended, and its end was told");
  TG_RETURN_IF_ERROR(Await(job, call));
  tg_job_event event;
  if (!job.events.empty()) {
    event = job.events.front().event;
    job.told = std::move(job.events.front().text);
    job.events.pop_front();
  } else {
    event = *job.end;
    job.told = job.last_error;
    job.over = true;
  }
  event.struct_size = sizeof(event);
  event.text = job.told.c_str();
  event.text_size = job.told.size();
  return event;
}

Status StartAtSite(const tg_site& site, const tg_job_spec& spec, const Call& call, tg_job* job) {
  TG_ASSIGN_OR_RETURN(ApiClient client, ConnectAgain(site, call));
  TG_ASSIGN_OR_RETURN(PipeEnds out, MakePipe());
  TG_ASSIGN_OR_RETURN(PipeEnds err, MakePipe());
  Fd data, eval_data, input;
  if (spec.data != nullptr) {
    TG_ASSIGN_OR_RETURN(data, OpenToRead(spec.data));
  }
  if (spec.eval_data != nullptr) {
    TG_ASSIGN_OR_RETURN(eval_data, OpenToRead(spec.eval_data));
  }
  onshore::api::LocalJob local;
  local.verb = static_cast<LocalVerb>(spec.verb);
  local.json = true;
  local.flags = job->flags.get();
  local.output = out.write.get();
  local.errors = err.write.get();
  local.data = data.get();
  local.eval_data = eval_data.get();
  TG_ASSIGN_OR_RETURN(const auto started, client.RunLocal(local));
  job->number = started.job;
  job->socket = site.socket;
  job->client.emplace(std::move(client));
  job->output = std::move(out.read);
  job->errors = std::move(err.read);
  return OkStatus();
}

Status StartOwn(const tg_job_spec& spec, tg_job* job) {
  if (spec.verb != TG_VERB_FINETUNE) {
    return Unsupported("without a site only finetune is a job; tg_run_tidegate runs the others");
  }
  TG_ASSIGN_OR_RETURN(const std::filesystem::path program, FindProgram("tidegate"));
  std::vector<std::string> words = {program.native(),   "finetune", "--config",
                                    PathOf(job->flags), "--format", "json"};
  if (spec.data != nullptr) words.insert(words.end(), {"--data", spec.data});
  if (spec.eval_data != nullptr) words.insert(words.end(), {"--eval_data", spec.eval_data});
  TG_ASSIGN_OR_RETURN(job->process, Process::Start(words));
  job->output = std::move(job->process.output());
  job->errors = std::move(job->process.errors());
  return OkStatus();
}

}  // namespace
}  // namespace tidegate::sdk

using namespace tidegate::sdk;  // NOLINT: what follows is C
using tidegate::OkStatus;
using tidegate::Status;

int32_t tg_job_start(tg_site* site, const tg_job_spec* spec, const tg_call* given, tg_job** out,
                     tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(out);
    TG_RETURN_IF_ERROR(CheckStruct(spec, sizeof(*spec), "tg_job_spec"));
    if (spec->verb > TG_VERB_DATA_CHECK) {
      return tidegate::InvalidArgument("there is no verb {}", spec->verb);
    }
    const Call call(given);
    auto job = std::make_unique<tg_job>();
    TG_ASSIGN_OR_RETURN(job->flags, MemoryFile(spec->flags == nullptr ? "" : spec->flags));
    if (site == nullptr) {
      TG_RETURN_IF_ERROR(StartOwn(*spec, job.get()));
    } else {
      TG_RETURN_IF_ERROR(StartAtSite(*site, *spec, call, job.get()));
    }
    *out = job.release();
    return OkStatus();
  });
}

int32_t tg_job_next(tg_job* job, const tg_call* given, tg_job_event* out, tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(job);
    TG_RETURN_IF_ERROR(CheckStruct(out, sizeof(*out), "tg_job_event"));
    const Call call(given);
    const Locked lock(job->mutex, call);
    TG_RETURN_IF_ERROR(lock.status());
    TG_ASSIGN_OR_RETURN(const tg_job_event event, NextOf(*job, call));
    return Fill(event, out, "tg_job_event");
  });
}

int32_t tg_job_run(tg_job* job, const tg_call* given, tg_job_fn each, void* user, tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(job);
    const Call call(given);
    const Locked lock(job->mutex, call);
    TG_RETURN_IF_ERROR(lock.status());
    for (;;) {
      TG_ASSIGN_OR_RETURN(const tg_job_event event, NextOf(*job, call));
      if (each != nullptr && each(&event, user) != 0) return OkStatus();
      if (event.kind != TG_JOB_ENDED) continue;
      if (event.exit_code == 0) return OkStatus();
      const bool known = event.exit_code > 0 && event.exit_code <= TG_INTERNAL;
      return tidegate::MakeError(
          known ? static_cast<tidegate::Code>(event.exit_code) : tidegate::Code::kInvalidArgument,
          "{}", job->told.empty() ? "the job ended without a word" : job->told);
    }
  });
}

// Over a connection of its own: another thread may wait on the job's.
int32_t tg_job_stop(tg_job* job, tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(job);
    if (!job->client) {
      job->process.Signal(SIGTERM);
      return OkStatus();
    }
    TG_ASSIGN_OR_RETURN(ApiClient client, ApiClient::Connect(job->socket));
    const Status stopped = client.StopLocal(job->number);
    // One that has just ended by itself is stopped.
    return stopped.code() == tidegate::Code::kNotFound ? OkStatus() : stopped;
  });
}

void tg_job_close(tg_job* job) { delete job; }
