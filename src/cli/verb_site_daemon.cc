// site status | watch | pause | resume | stop | dataset | run | shutdown: a running
// tidegate-onshore over its local API. docs/formats/local-api.md.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "cli/verb.h"
#include "onshore/api/client.h"
#include "onshore/sandbox/walls.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
namespace api = onshore::api;
using nlohmann::ordered_json;

struct Options {
  fs::path dir, socket, path, flags, data, eval_data;
  std::string which, verb;
  uint64_t after = 0, epoch = 0, count = 0;
  bool new_only = false, by_descriptor = false;
};

Result<api::ApiClient> Connect(const Options& options) {
  return api::ApiClient::Connect(options.socket.empty() ? options.dir / "api.sock"
                                                        : options.socket);
}

constexpr const char* kStates[] = {"absent", "starting", "running", "waiting"};

ordered_json NumberOrNull(uint32_t value) {
  return value == api::kNoNumber ? ordered_json() : ordered_json(value);
}
ordered_json LossOrNull(int64_t milli) {
  return milli < 0 ? ordered_json() : ordered_json(static_cast<double>(milli) / 1000.0);
}

ordered_json ProcessesJson(const api::StatusReply& status) {
  ordered_json list = ordered_json::array();
  for (uint32_t i = 0; i < status.processes.size(); ++i) {
    const api::ProcessStatus& process = status.processes[i];
    onshore::WallSet walls;
    for (int w = 0; w < onshore::kWallCount; ++w) {
      if ((process.walls >> w & 1) != 0) walls.Add(static_cast<onshore::Wall>(w));
    }
    list.push_back({{"name", onshore::SourceName(i)},
                    {"state", process.state < 4 ? kStates[process.state] : "unknown"},
                    {"pid", process.pid},
                    {"generation", process.generation},
                    {"starts", process.starts},
                    {"walls", walls.ToString()}});
  }
  return list;
}

ordered_json StatusJson(const api::ServerInfo& server, const api::StatusReply& status) {
  ordered_json json = {{"site", server.site},
                       {"version", server.program},
                       {"since", FormatUtc(status.started_unix_millis)},
                       {"connected", status.connected != 0}};
  json["holds"] = ordered_json::array();
  for (uint32_t hold = 0; hold < onshore::kHolds; ++hold) {
    if ((status.holds >> hold & 1) != 0) json["holds"].push_back(onshore::HoldName(hold));
  }
  json["processes"] = ProcessesJson(status);
  json["job"] = nullptr;
  if (status.job != decltype(status.job){}) {
    json["job"] = {{"id", ToHex(status.job)},
                   {"name", api::TextOf(status.job_name)},
                   {"rounds", status.job_rounds},
                   {"ended", status.job_ended != 0}};
  }
  json["round"] = NumberOrNull(status.round);
  json["adapter_version"] = NumberOrNull(status.adapter_version);
  json["train_loss"] = LossOrNull(status.train_loss_milli);
  json["heldout_loss"] = LossOrNull(status.heldout_loss_milli);
  json["spool_bytes"] = status.spool_bytes;
  json["open_exports"] = status.open_exports;
  json["held_round"] = NumberOrNull(status.held_round);
  json["local_jobs"] = ordered_json::array();
  for (const api::LocalStatus& local : status.locals) {
    if (local.job == 0) continue;
    json["local_jobs"].push_back({{"job", local.job},
                                  {"verb", onshore::LocalVerbName(local.verb)},
                                  {"pid", local.pid},
                                  {"uid", local.uid}});
  }
  json["epoch"] = status.epoch;
  json["last_event"] = status.last_event;
  return json;
}

std::string StatusText(const ordered_json& s) {
  std::string out = fmt::format("site         {} since {}\ncoordinator  {}\n",
                                s["site"].get<std::string>(), s["since"].get<std::string>(),
                                s["connected"].get<bool>() ? "connected" : "not connected");
  for (const auto& hold : s["holds"]) {
    out += fmt::format("HELD         training does not run: {}\n", hold.get<std::string>());
  }
  if (s["job"].is_object()) {
    out += fmt::format("job          {} ({} rounds){}\n", s["job"]["name"].get<std::string>(),
                       s["job"]["rounds"].get<uint32_t>(),
                       s["job"]["ended"].get<bool>() ? ", ended" : "");
  }
  const std::pair<const char*, const char*> numbers[] = {{"round", "round        "},
                                                         {"adapter_version", "adapter      "},
                                                         {"train_loss", "loss         "},
                                                         {"heldout_loss", "held out     "},
                                                         {"held_round", "HELD EXPORT  round "}};
  for (const auto& [key, label] : numbers) {
    if (!s[key].is_null()) out += label + s[key].dump() + "\n";
  }
  out += fmt::format("spool        {} bytes, {} exports without a receipt\n",
                     s["spool_bytes"].get<uint64_t>(), s["open_exports"].get<uint32_t>());
  out += "\nPROCESS   STATE     PID       STARTS  WALLS\n";
  for (const auto& p : s["processes"]) {
    out += fmt::format("{:<9} {:<9} {:<9} {:<7} {}\n", p["name"].get<std::string>(),
                       p["state"].get<std::string>(), p["pid"].get<uint32_t>(),
                       p["starts"].get<uint32_t>(), p["walls"].get<std::string>());
  }
  for (const auto& local : s["local_jobs"]) {
    out += fmt::format("local {} {} pid {} of uid {}\n", local["job"].get<uint32_t>(),
                       local["verb"].get<std::string>(), local["pid"].get<uint32_t>(),
                       local["uid"].get<uint32_t>());
  }
  return out;
}

Status ShowStatus(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(api::ApiClient client, Connect(options));
  TG_ASSIGN_OR_RETURN(const api::StatusReply status, client.Status());
  return Print(invocation, StatusJson(client.server(), status), StatusText);
}

Status PrintEvent(const Invocation& invocation, const api::EventMessage& event, uint64_t epoch) {
  const std::string text = onshore::EventText(event.code, event.arguments);
  std::string line;
  if (invocation.format == Format::kJson) {
    const ordered_json json = {{"epoch", epoch},
                               {"sequence", event.sequence},
                               {"lost", event.lost},
                               {"time", FormatUtc(event.unix_millis)},
                               {"source", onshore::SourceName(event.source)},
                               {"code", event.code},
                               {"arguments", event.arguments},
                               {"text", text}};
    line = json.dump();
  } else {
    if (event.lost != 0) line = fmt::format("… {} events are lost\n", event.lost);
    line += fmt::format("{} {} {}: {}", event.sequence, FormatUtc(event.unix_millis),
                        onshore::SourceName(event.source), text);
  }
  line += '\n';
  if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size() || std::fflush(stdout) != 0) {
    return Unavailable("cannot write to standard output; check where it is redirected to");
  }
  return OkStatus();
}

Status Watch(const Invocation& invocation, const Options& options) {
  constexpr int64_t kWaitMillis = 3'600'000;
  TG_ASSIGN_OR_RETURN(api::ApiClient client, Connect(options));
  TG_ASSIGN_OR_RETURN(const api::WatchReply from,
                      client.Watch({options.epoch, options.new_only ? UINT64_MAX : options.after}));
  for (uint64_t seen = 0; options.count == 0 || seen < options.count;) {
    const auto told = client.Next(kWaitMillis);
    if (!told && told.error().code() == Code::kDeadlineExceeded) continue;
    if (!told) return told.error();
    const auto* event = std::get_if<api::EventMessage>(&*told);
    if (event == nullptr) continue;
    TG_RETURN_IF_ERROR(PrintEvent(invocation, *event, from.epoch));
    ++seen;
  }
  return OkStatus();
}

using Ask = Status (api::ApiClient::*)();

Status Tell(const Invocation& invocation, const Options& options, Ask ask,
            const std::string& done) {
  TG_ASSIGN_OR_RETURN(api::ApiClient client, Connect(options));
  TG_RETURN_IF_ERROR((client.*ask)());
  return Print(invocation, {{"site", client.server().site}, {"done", done}},
               [](const ordered_json& r) { return r["done"].get<std::string>() + "\n"; });
}

Result<Fd> OpenGiven(const char* option, const fs::path& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid()) {
    return Unexpected(ErrnoStatus("open", path.native(), errno).WithContext(option));
  }
  return fd;
}

Status ListDatasets(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(api::ApiClient client, Connect(options));
  TG_ASSIGN_OR_RETURN(const api::DatasetsReply reply, client.Datasets());
  ordered_json list = ordered_json::array();
  for (uint32_t i = 0; i < reply.datasets.size(); ++i) {
    const api::DatasetStatus& dataset = reply.datasets[i];
    const std::string path = api::TextOf(dataset.path);
    const bool given = dataset.source == static_cast<uint32_t>(onshore::DatasetSource::kDescriptor);
    list.push_back({{"dataset", onshore::DatasetName(i)},
                    {"source", onshore::DatasetSourceName(dataset.source)},
                    {"path", path.empty() ? ordered_json() : ordered_json(path)},
                    {"bytes", given ? ordered_json(dataset.bytes) : ordered_json()}});
  }
  return Print(invocation, list, [](const ordered_json& datasets) {
    std::string out = "DATASET  SOURCE      FILE\n";
    for (const auto& d : datasets) {
      out += fmt::format("{:<8} {:<11} {}\n", d["dataset"].get<std::string>(),
                         d["source"].get<std::string>(),
                         d["path"].is_string() ? d["path"].get<std::string>() : "-");
    }
    return out;
  });
}

onshore::DatasetKind KindOf(const std::string& which) {
  return which == "records" ? onshore::DatasetKind::kRecords : onshore::DatasetKind::kHeldout;
}

Status SetDataset(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(api::ApiClient client, Connect(options));
  if (options.by_descriptor) {
    TG_ASSIGN_OR_RETURN(const Fd fd, OpenGiven("FILE", options.path));
    TG_RETURN_IF_ERROR(client.SetDataset(KindOf(options.which), fd.get()));
  } else {
    std::error_code error;
    const fs::path path = fs::canonical(options.path, error);
    if (error) return ErrnoStatus("use", options.path.native(), error.value());
    TG_RETURN_IF_ERROR(client.SetDataset(KindOf(options.which), path));
  }
  return Print(invocation, {{"dataset", options.which}, {"set", options.path.native()}},
               [](const ordered_json& r) {
                 return r["dataset"].get<std::string>() + " set; training goes on with it\n";
               });
}

Status ResetDataset(const Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(api::ApiClient client, Connect(options));
  TG_RETURN_IF_ERROR(client.ResetDataset(KindOf(options.which)));
  return Print(invocation, {{"dataset", options.which}}, [](const ordered_json& r) {
    return r["dataset"].get<std::string>() + " are those of site.toml again\n";
  });
}

struct Pipe {
  Fd read, write;
};
Result<Pipe> MakePipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return Unexpected(ErrnoStatus("make", "a pipe", errno));
  return Pipe{Fd(fds[0]), Fd(fds[1])};
}

// Until the job has closed both.
Status CopyOutput(Fd out, Fd err) {
  char buffer[16384];
  while (out.valid() || err.valid()) {
    pollfd fds[] = {{out.get(), POLLIN, 0}, {err.get(), POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) return ErrnoStatus("poll", "the job", errno);
    for (Fd* fd : {&out, &err}) {
      if (fds[fd == &err ? 1 : 0].revents == 0) continue;
      const ssize_t n = ::read(fd->get(), buffer, sizeof(buffer));
      if (n <= 0) {
        fd->reset();
        continue;
      }
      TG_RETURN_IF_ERROR(WriteAll(fd == &err ? STDERR_FILENO : STDOUT_FILENO,
                                  AsBytes({buffer, static_cast<size_t>(n)}), "the output"));
    }
  }
  return OkStatus();
}

// The job's own words and exit code are ours.
Status RunLocal(Invocation& invocation, const Options& options) {
  TG_ASSIGN_OR_RETURN(api::ApiClient client, Connect(options));
  TG_ASSIGN_OR_RETURN(const Fd flags, OpenGiven("--flags", options.flags));
  TG_ASSIGN_OR_RETURN(Pipe out, MakePipe());
  TG_ASSIGN_OR_RETURN(Pipe err, MakePipe());
  Fd data, eval_data;
  if (!options.data.empty()) {
    TG_ASSIGN_OR_RETURN(data, OpenGiven("--data", options.data));
  }
  if (!options.eval_data.empty()) {
    TG_ASSIGN_OR_RETURN(eval_data, OpenGiven("--eval_data", options.eval_data));
  }
  api::LocalJob job;
  job.verb = options.verb == "finetune"     ? onshore::LocalVerb::kFinetune
             : options.verb == "eval"       ? onshore::LocalVerb::kEval
             : options.verb == "data-check" ? onshore::LocalVerb::kDataCheck
                                            : onshore::LocalVerb::kGenerate;
  job.json = invocation.format == Format::kJson;
  job.flags = flags.get();
  job.output = out.write.get();
  job.errors = err.write.get();
  job.data = data.get();
  job.eval_data = eval_data.get();
  TG_ASSIGN_OR_RETURN(const api::RunLocalReply started, client.RunLocal(job));
  out.write.reset();
  err.write.reset();
  TG_RETURN_IF_ERROR(CopyOutput(std::move(out.read), std::move(err.read)));
  for (;;) {
    TG_ASSIGN_OR_RETURN(const api::ApiClient::Told told, client.Next(60'000));
    const auto* ended = std::get_if<api::LocalEnded>(&told);
    if (ended == nullptr || ended->job != started.job) continue;
    invocation.exit_code = ended->signal != 0 ? 128 + ended->signal : ended->exit_status;
    return OkStatus();
  }
}

}  // namespace

void RegisterSiteDaemonVerbs(CLI::App& app, Invocation& invocation) {
  CLI::App* site = AddGroup(app, "site", "");
  auto options = std::make_shared<Options>();
  const auto add = [&](CLI::App* group, const char* name, const char* help, auto run) {
    CLI::App* verb = AddVerb(*group, name, help, invocation,
                             [&invocation, options, run] { return run(invocation, *options); });
    CLI::App* where = verb->add_option_group("Site", "One of");
    where->add_option("--dir", options->dir, "The site's folder");
    where->add_option("--socket", options->socket, "Its socket, where that is not DIR/api.sock");
    where->require_option(1);
    return verb;
  };
  const auto tell = [&](const char* name, const char* help, Ask ask, const char* done) {
    add(site, name, help,
        [ask, done](const Invocation& i, const Options& o) { return Tell(i, o, ask, done); });
  };
  add(site, "status", "Onshore: what a running site does", ShowStatus);
  CLI::App* watch = add(site, "watch", "Onshore: a running site's events as they come", Watch);
  watch->add_option("--after", options->after, "The last sequence that is known");
  watch->add_option("--epoch", options->epoch, "The run of the site that --after belongs to");
  watch->add_option("--count", options->count, "End after so many events");
  watch->add_flag("--new", options->new_only, "Only those to come");
  tell("pause", "Onshore: end the trainer after its step until `resume`", &api::ApiClient::Pause,
       "paused");
  tell("resume", "Onshore: let training go on", &api::ApiClient::Resume, "resumed");
  tell("stop", "Onshore: train no more for the job of now", &api::ApiClient::StopJob,
       "stopped for this job");
  tell("shutdown", "Onshore: end tidegate-onshore in good order", &api::ApiClient::Shutdown,
       "stopping");
  CLI::App* dataset = AddGroup(*site, "dataset", "Onshore: what a site trains on");
  const auto which = [&](CLI::App* verb) {
    verb->add_option("WHICH", options->which, "records or heldout")
        ->required()
        ->check(CLI::IsMember({"records", "heldout"}));
  };
  add(dataset, "list", "Which files they are", ListDatasets);
  CLI::App* set = add(dataset, "set", "Another file from here on", SetDataset);
  which(set);
  set->add_option("FILE", options->path, "Records, JSONL")->required();
  set->add_flag("--fd", options->by_descriptor,
                "Hand the open file over: it needs no name at the site, and lasts until the site "
                "is started again");
  which(add(dataset, "reset", "Those of site.toml again", ResetDataset));
  CLI::App* run =
      add(site, "run", "Onshore: finetune, eval, generate or data-check behind the site's walls",
          [&invocation](const Invocation&, const Options& o) { return RunLocal(invocation, o); });
  run->add_option("VERB", options->verb, "finetune, eval, generate or data-check")
      ->required()
      ->check(CLI::IsMember({"finetune", "eval", "generate", "data-check"}));
  run->add_option("--flags", options->flags, "TOML file of the verb's flags")->required();
  run->add_option("--data", options->data, "Records, handed over as an open file");
  run->add_option("--eval_data", options->eval_data, "Held-out records, the same way");
}

}  // namespace tidegate::cli
