#include "offshore/serve.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <optional>

#include "base/json.h"
#include "base/log.h"
#include "offshore/admin_socket.h"
#include "offshore/coordinator.h"
#include "offshore/exchange.h"
#include "offshore/open_store.h"
#include "transport/server.h"
#include "web/status_server.h"

namespace tidegate::offshore {
namespace {

using transport::Server;

Result<Fd> SignalFd() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  if (::pthread_sigmask(SIG_BLOCK, &set, nullptr) != 0) return Internal("cannot block signals");
  ::signal(SIGPIPE, SIG_IGN);
  Fd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return Unexpected(ErrnoStatus("make", "a signalfd", errno));
  return fd;
}

// The page shows a turn's outcome after this long at most; not more often.
constexpr int64_t kPublishMillis = 250;

class Loop {
 public:
  // `web` may be null.
  Loop(Coordinator& coordinator, Server& server, AdminSocket& admin, const Fd& signals,
       web::StatusServer* web)
      : coordinator_(coordinator), server_(server), admin_(admin), signals_(signals), web_(web) {}

  Status Run() {
    TG_RETURN_IF_ERROR(Turn([this] { return coordinator_.Resume(); }));
    std::vector<Server::Event> events;
    std::vector<pollfd> fds;
    while (true) {
      events.clear();
      fds.assign(1, {signals_.get(), POLLIN, 0});
      admin_.AddPollFds(&fds);
      const int64_t wait =
          std::min({coordinator_.MillisToDeadline(), PublishIfDue(), MillisToTurn()});
      TG_RETURN_IF_ERROR(server_.Poll(static_cast<int>(wait), fds, &events));
      if (fds[0].revents != 0) return OkStatus();
      if (!events.empty() || coordinator_.MillisToDeadline() == 0 || MillisToTurn() == 0) {
        TG_RETURN_IF_ERROR(Turn([&] { return Handle(events); }));
      }
      admin_.Serve([this](std::string_view request) { return Answer(request); });
      TG_RETURN_IF_ERROR(fatal_);
    }
  }

 private:
  // Everything in one transaction; what it says goes out after the commit.
  template <typename F>
  Status Turn(F&& what) {
    TG_ASSIGN_OR_RETURN(const std::vector<Outgoing> out, Commit(what));
    for (const Outgoing& message : out) Deliver(message);
    return OkStatus();
  }

  // The turn without its last step.
  template <typename F>
  Result<std::vector<Outgoing>> Commit(F&& what) {
    changed_ = true;
    last_turn_ = SystemClock().MonotonicMillis();
    TG_RETURN_IF_ERROR(coordinator_.BeginTurn());
    TG_RETURN_IF_ERROR(what());
    TG_ASSIGN_OR_RETURN(std::vector<Outgoing> out, coordinator_.EndTurn());
    for (const AccessChange& change : coordinator_.TakeAccessChanges()) {
      if (change.allowed) {
        server_.Allow(change.site, change.curve_key);
      } else {
        server_.Revoke(change.site);
      }
    }
    return out;
  }

  void Deliver(const Outgoing& message) {
    const Status sent =
        message.type == protocols::MessageType::kChunk
            ? server_.SendChunk(message.site, message.chunk)
            : server_.Send(message.site, message.channel, message.type, message.body);
    // Away: it gets all that it lacks when it comes back.
    if (!sent.ok() && sent.code() != Code::kUnavailable && IsSaid(++not_sent_)) {
      LogWarning("not_sent site={} times={} reason={}", message.site, not_sent_, sent.ToString());
    }
  }

  // Turn by turn; the network waits meanwhile.
  std::string AnswerExchange(const std::filesystem::path& folder) {
    Status fatal;
    const auto answer = Exchange(
        coordinator_, folder, [this](const std::function<Status()>& what) { return Commit(what); },
        [this](const Outgoing& message) { Deliver(message); }, &fatal);
    if (!fatal.ok()) fatal_ = fatal;
    return AnswerText(answer);
  }

  int64_t MillisToTurn() const {
    const int64_t since = SystemClock().MonotonicMillis() - last_turn_;
    return std::max<int64_t>(coordinator_.turn_millis() - since, 0);
  }

  // Milliseconds until it has something to do.
  int64_t PublishIfDue() {
    if (web_ == nullptr || !changed_) return INT32_MAX;
    const int64_t now = SystemClock().MonotonicMillis();
    if (now < publish_at_) return publish_at_ - now;
    publish_at_ = now + kPublishMillis;
    changed_ = false;
    auto status = coordinator_.StatusJson();
    status["refused_peers"] = server_.refused();
    web_->Publish(status);
    return INT32_MAX;
  }

  Status Handle(const std::vector<Server::Event>& events) {
    // An end that is told in the same breath as a new beginning was before it.
    for (const Server::Event& event : events) {
      if (event.kind == Server::Event::Kind::kDisconnected) coordinator_.OnDisconnected(event.site);
    }
    for (const Server::Event& event : events) {
      if (event.kind == Server::Event::Kind::kConnected) {
        LogInfo("site_connected site={}", event.site);
        coordinator_.OnConnected(event.site);
      } else if (event.kind == Server::Event::Kind::kMessage) {
        TG_RETURN_IF_ERROR(coordinator_.OnMessage(event.site, event.type, event.body));
      }
    }
    for (const Server::Event& event : events) {
      const bool up = server_.Connected(event.site, protocols::Channel::kControl) &&
                      server_.Connected(event.site, protocols::Channel::kBulk);
      if (!up) coordinator_.OnDisconnected(event.site);
    }
    return coordinator_.OnTime();
  }

  std::string Answer(std::string_view request) {
    JsonLimits limits;
    limits.max_bytes = kMaxRequestBytes;
    const auto json = ParseStrictJson(request, limits, "the request");
    if (!json) return AnswerText(Unexpected(json.error()));
    const auto folder = ExchangeFolderOf(*json);
    if (!folder) return AnswerText(Unexpected(folder.error()));
    if (*folder) return AnswerExchange(**folder);
    Result<nlohmann::ordered_json> answer;
    const Status status = Turn([&] {
      Status fatal;
      answer = coordinator_.OnRequest(*json, &fatal);
      return fatal;
    });
    if (!status.ok()) {
      fatal_ = status;
      return AnswerText(Unexpected(status));
    }
    return AnswerText(answer);
  }

  Coordinator& coordinator_;
  Server& server_;
  AdminSocket& admin_;
  const Fd& signals_;
  web::StatusServer* web_;
  bool changed_ = true;
  int64_t publish_at_ = 0, last_turn_ = 0;
  uint64_t not_sent_ = 0;
  Status fatal_;
};

}  // namespace

namespace {

// A status page that can't be is no reason to hold no rounds.
std::unique_ptr<web::StatusServer> StartWeb(const FederationConfig& config) {
  if (config.web_host.empty()) return nullptr;
  web::StatusServerOptions options;
  options.host = config.web_host;
  options.port = config.web_port;
  auto server = web::StatusServer::Start(options);
  if (!server) {
    LogWarning("no_status_page reason=\"{}\"", server.error().message());
    return nullptr;
  }
  LogInfo("status_page url=http://{}:{}/", options.host, options.port);
  return std::move(*server);
}

}  // namespace

// Until the store is this process' alone; nothing when a signal came first.
Result<std::optional<federation::OpenedStore>> WaitForStore(const std::filesystem::path& dir,
                                                            const FederationConfig& config,
                                                            AdminSocket& admin, const Fd& signals) {
  TG_ASSIGN_OR_RETURN(const auto shared, ConnectStore(dir, config));
  const auto answer = [&shared](std::string_view) {
    return AnswerText(Unavailable("this coordinator stands by; {} has the federation: ask there",
                                  shared->holder()));
  };
  const int pause = static_cast<int>(std::clamp<uint32_t>(config.takeover_millis / 20, 20, 500));
  std::vector<pollfd> fds;
  std::string told;
  while (true) {
    TG_ASSIGN_OR_RETURN(std::optional<federation::OpenedStore> opened, shared->Take());
    if (opened) {
      LogInfo("lease_taken generation={} before=\"{}\"", opened->generation, shared->holder());
      return opened;
    }
    if (told != shared->holder()) LogInfo("standing_by holder=\"{}\"", shared->holder());
    told = shared->holder();
    fds.assign(1, {signals.get(), POLLIN, 0});
    admin.AddPollFds(&fds);
    ::poll(fds.data(), fds.size(), pause);
    if (fds[0].revents != 0) return std::optional<federation::OpenedStore>();
    admin.Serve(answer);
  }
}

Status Serve(const std::filesystem::path& dir) {
  // First, so that every thread that a library starts has these signals blocked.
  TG_ASSIGN_OR_RETURN(const Fd signals, SignalFd());
  // Before the lock: they refuse another user than the folder's, who would leave one that the
  // folder's user can not open.
  TG_ASSIGN_OR_RETURN(FederationKeys keys, LoadFederationKeys(dir));
  TG_ASSIGN_OR_RETURN(const DirLock lock, DirLock::Take(dir));
  TG_ASSIGN_OR_RETURN(FederationConfig config, LoadFederationConfig(dir));
  std::optional<AdminSocket> admin;
  const auto listen = [&]() -> Status {
    TG_ASSIGN_OR_RETURN(admin, AdminSocket::Listen(dir, SystemClock()));
    return OkStatus();
  };
  std::optional<federation::OpenedStore> opened;
  if (config.store.empty()) {
    TG_ASSIGN_OR_RETURN(opened, OpenStore(dir, config));
  } else {
    TG_RETURN_IF_ERROR(listen());
    TG_ASSIGN_OR_RETURN(opened, WaitForStore(dir, config, *admin, signals));
    if (!opened) return OkStatus();
  }
  TG_ASSIGN_OR_RETURN(auto coordinator, Coordinator::Open(std::move(*opened), std::move(config),
                                                          std::move(keys), SystemClock()));
  transport::ServerOptions options;
  options.address = coordinator->config().listen;
  options.federation = coordinator->config().federation;
  options.lease_millis = coordinator->config().lease_millis;
  for (const AccessChange& change : coordinator->TakeAccessChanges()) {
    options.sites[change.site] = change.curve_key;
  }
  // Two each, and as many that are on their way out or in.
  options.max_connections = std::max(options.max_connections, 4 * options.sites.size());
  TG_ASSIGN_OR_RETURN(const std::unique_ptr<Server> server,
                      Server::Bind(options, coordinator->keys().curve));
  if (!admin) TG_RETURN_IF_ERROR(listen());
  LogInfo("serving federation={} address={} sites={}", coordinator->config().name,
          server->address(), options.sites.size());
  const std::unique_ptr<web::StatusServer> web = StartWeb(coordinator->config());
  const Status status = Loop(*coordinator, *server, *admin, signals, web.get()).Run();
  if (!status.ok()) return coordinator->WhyEnded(status);
  LogInfo("stopped");
  return status;
}

}  // namespace tidegate::offshore
