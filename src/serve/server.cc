#include "serve/server.h"

#include <pthread.h>
#include <sys/random.h>

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "base/clock.h"
#include "base/log.h"
#include "onshore/answers/worker.h"
#include "serve/openai.h"
#include "web/http_server.h"

namespace tidegate::serve {
namespace {

using onshore::AnswerEvent;
using onshore::AnswerWorker;

// Of a request beside its body, and in the coding that it may come in.
constexpr size_t kBesideBody = 256u << 10;

web::HttpLimits LimitsOf(const ServerOptions& options) {
  web::HttpLimits limits;
  limits.request_bytes = kMaxBodyBytes + kBesideBody;
  limits.request_within = limits.write_within = std::chrono::seconds(60);
  limits.idle_within = std::chrono::seconds(30);
  limits.requests = 1000;
  limits.threads = limits.waiting = options.connections;
  return limits;
}

uint64_t RandomSeed() {
  uint64_t seed = 0;
  if (::getrandom(&seed, sizeof(seed), 0) != sizeof(seed)) seed = 0;
  return seed;
}

// The events of one answer, from the worker's thread to the connection's.
class Inbox {
 public:
  void Put(const AnswerEvent& event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(event);
    changed_.notify_one();
  }
  Result<AnswerEvent> Take(std::chrono::seconds within) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, within, [this] { return !events_.empty(); })) {
      return DeadlineExceeded("the model said nothing for {} s", within.count());
    }
    AnswerEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<AnswerEvent> events_;  // bounded by the answer's tokens
};

// An answer on its way; taken back when nobody wants it any more.
struct Answer {
  std::shared_ptr<AnswerWorker> worker;
  std::shared_ptr<Inbox> inbox = std::make_shared<Inbox>();
  AnswerHead head;
  uint64_t id = 0;
  bool include_usage = false, begun = false, over = false;
  ~Answer() {
    if (id != 0 && !over) worker->Cancel(id);
  }
};

Status StatusOf(const AnswerEvent& event) { return Status(event.code, event.text); }

// Equal in time that does not depend on where they differ.
bool SameText(const std::string& a, const std::string& b) {
  unsigned char difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i] ^ (b.empty() ? '\0' : b[i % b.size()]));
  }
  return difference == 0;
}

class ServerImpl final : public Server {
 public:
  explicit ServerImpl(const ServerOptions& options)
      : options_(options), server_(LimitsOf(options)) {}
  ~ServerImpl() override {
    server_.stop();
    if (thread_.joinable()) thread_.join();
  }

  Status Open() {
    const ServerOptions& options = options_;
    const bool loopback =
        options.host == "127.0.0.1" || options.host == "localhost" || options.host == "::1";
    if (!loopback && options.api_key.empty()) {
      return PermissionDenied(
          "{} is not loopback: whoever reaches it could ask; give --api_key_file, or serve on "
          "127.0.0.1",
          options.host);
    }
    TG_RETURN_IF_ERROR(StartWorker());
    Configure();
    const bool bound = options.port == 0
                           ? (port_ = server_.bind_to_any_port(options.host.c_str())) > 0
                           : server_.bind_to_port(options.host.c_str(), options.port);
    if (!bound) {
      return Unavailable("{}:{} can't be bound; is it taken?", options.host, options.port);
    }
    if (options.port != 0) port_ = options.port;
    StartThread();
    return OkStatus();
  }

  int port() const override { return port_; }
  std::vector<std::string> models() const override { return WorkerNow()->models(); }
  std::string walls() const override { return WorkerNow()->walls(); }

  Status KeepAlive() override {
    if (WorkerNow()->alive()) return OkStatus();
    if (restarts_ == kMostRestarts) {
      return Unavailable("the process that holds the model ended {} times without an answer",
                         kMostRestarts + 1);
    }
    ++restarts_;
    LogWarning("worker_lost starting_again={} of={}", restarts_.load(), kMostRestarts);
    return StartWorker();
  }

 private:
  Status StartWorker() {
    TG_ASSIGN_OR_RETURN(
        std::shared_ptr<AnswerWorker> worker,
        AnswerWorker::Start(options_.worker, options_.ready_within, {.cancel = options_.cancel}));
    const std::lock_guard lock(mutex_);
    worker_ = std::move(worker);
    return OkStatus();
  }

  std::shared_ptr<AnswerWorker> WorkerNow() const {
    const std::lock_guard lock(mutex_);
    return worker_;
  }

  void StartThread() {
    // Threads inherit the mask: signals are the owner's.
    sigset_t all, before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    // stop() before it listens would be lost.
    while (!server_.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  void Configure() {
    // Its default lets two processes share a port: then each sees some of the requests.
    server_.set_socket_options([](socket_t socket) {
      const int on = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    });
    server_.set_tcp_nodelay(true);
    server_.set_payload_max_length(kMaxBodyBytes);
    server_.set_default_headers(
        {{"X-Content-Type-Options", "nosniff"}, {"Cache-Control", "no-store"}});
    server_.SetAdmission([this](const httplib::Request& in, httplib::Response& out) {
      const Status status = Admit(in);
      if (!status.ok()) Fail(status, out);
      return status.ok();
    });
    server_.set_error_handler([](const httplib::Request& in, httplib::Response& out) {
      if (!out.body.empty()) return;
      const bool large = out.status == 413;
      const Status status =
          large ? Status(InvalidArgument("the request has more than {} bytes", kMaxBodyBytes))
                : Status(NotFound("there is no {} {}", in.method, in.path));
      out.set_content(ErrorBody(status).dump(), "application/json");
    });
    SetRoutes();
  }

  Status Admit(const httplib::Request& in) const {
    const std::string port = ":" + std::to_string(port_);
    const std::string host = in.get_header_value("Host");
    const bool fits =
        host == options_.host + port || host == "localhost" + port || host == "127.0.0.1" + port;
    if (!fits && options_.api_key.empty()) {
      return PermissionDenied("this server answers to its own address only");
    }
    // A browser sends a plain POST of any page anywhere, without asking first.
    const std::string origin = in.get_header_value("Origin");
    if (!origin.empty() && origin != "http://" + host && options_.api_key.empty()) {
      return PermissionDenied("this server answers to no page of another address");
    }
    if (options_.api_key.empty() || in.path == "/health") return OkStatus();
    if (SameText(in.get_header_value("Authorization"), "Bearer " + options_.api_key)) {
      return OkStatus();
    }
    return Unauthenticated("the key is missing or wrong: send it as Authorization: Bearer KEY");
  }

  void SetRoutes() {
    server_.Get("/health", [this](const httplib::Request&, httplib::Response& out) {
      const bool alive = WorkerNow()->alive();
      out.status = alive ? 200 : 503;
      out.set_content(alive ? "{\"status\":\"ok\"}" : "{\"status\":\"starting\"}",
                      "application/json");
    });
    server_.Get("/v1/models", [this](const httplib::Request&, httplib::Response& out) {
      out.set_content(ModelsList(models(), started_).dump(), "application/json");
    });
    server_.Get(R"(/v1/models/(.+))", [this](const httplib::Request& in, httplib::Response& out) {
      const std::string name = in.matches[1];
      const auto list = ModelsList(models(), started_);
      for (const auto& model : list.at("data")) {
        if (model.at("id") == name) return out.set_content(model.dump(), "application/json");
      }
      Fail(NotFound("there is no model {}", name), out);
    });
    const auto answer = [this](Api api) {
      return [this, api](const httplib::Request& in, httplib::Response& out) {
        const Status status = Respond(api, in, out);
        if (!status.ok()) Fail(status, out);
      };
    };
    server_.Post("/v1/chat/completions", answer(Api::kChat));
    server_.Post("/v1/completions", answer(Api::kCompletion));
  }

  static void Fail(const Status& status, httplib::Response& out) {
    out.status = HttpStatus(status.code());
    if (out.status == 429) out.set_header("Retry-After", "1");
    out.set_content(
        ErrorBody(status).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
        "application/json");
  }

  Status Respond(Api api, const httplib::Request& in, httplib::Response& out) {
    TG_ASSIGN_OR_RETURN(const Question question, ParseQuestion(api, in.body, RandomSeed()));
    auto answer = std::make_shared<Answer>();
    answer->worker = WorkerNow();
    answer->include_usage = question.include_usage;
    const uint64_t number = ++answers_;
    answer->head = {
        api, fmt::format("{}-{:x}-{}", api == Api::kChat ? "chatcmpl" : "cmpl", started_, number),
        SystemClock().UnixMillis() / 1000, question.ask.model};
    const auto inbox = answer->inbox;
    TG_ASSIGN_OR_RETURN(
        answer->id, answer->worker->Submit(
                        question.ask, [inbox](const AnswerEvent& event) { inbox->Put(event); }));
    // What is wrong with a question comes first of all, and has a status of its own.
    TG_ASSIGN_OR_RETURN(AnswerEvent first, Next(*answer));
    if (first.kind == AnswerEvent::Kind::kError) {
      answer->over = true;
      return StatusOf(first);
    }
    if (question.stream) {
      Stream(std::move(answer), std::move(first), out);
      return OkStatus();
    }
    return RespondWhole(*answer, std::move(first), out);
  }

  // An answer that nobody waits for any more is taken back, and its thread is free for others.
  Result<AnswerEvent> Next(Answer& answer) const {
    constexpr std::chrono::seconds kLook{1};
    for (std::chrono::seconds waited{0};; waited += kLook) {
      if (!web::HttpServer::PeerIsThere()) return Cancelled("who asked is gone");
      auto event = answer.inbox->Take(std::min(kLook, options_.answer_within));
      const bool late = !event && event.error().code() == Code::kDeadlineExceeded;
      if (!late) return event;
      if (waited + kLook >= options_.answer_within) {
        return DeadlineExceeded("the model said nothing for {} s", options_.answer_within.count());
      }
    }
  }

  Status RespondWhole(Answer& answer, AnswerEvent event, httplib::Response& out) {
    std::string text;
    while (event.kind == AnswerEvent::Kind::kText) {
      text += event.text;
      TG_ASSIGN_OR_RETURN(event, Next(answer));
    }
    answer.over = true;
    if (event.kind == AnswerEvent::Kind::kError) return StatusOf(event);
    restarts_ = 0;
    out.set_content(WholeAnswer(answer.head, text, event)
                        .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                    "application/json");
    return OkStatus();
  }

  void Stream(std::shared_ptr<Answer> answer, AnswerEvent first, httplib::Response& out) {
    auto pending = std::make_shared<std::optional<AnswerEvent>>(std::move(first));
    out.set_chunked_content_provider(
        "text/event-stream", [this, answer, pending](size_t, httplib::DataSink& sink) {
          const auto write = [&sink](const std::string& text) {
            return text.empty() || sink.write(text.data(), text.size());
          };
          if (!answer->begun && !write(FirstChunk(answer->head))) return false;
          answer->begun = true;
          Result<AnswerEvent> event = *pending ? Result<AnswerEvent>(std::move(**pending))
                                               : answer->inbox->Take(options_.answer_within);
          pending->reset();
          if (event && event->kind == AnswerEvent::Kind::kText) {
            return write(TextChunk(answer->head, event->text));
          }
          std::string last;
          if (event && event->kind == AnswerEvent::Kind::kEnd) {
            restarts_ = 0;
            last = LastChunks(answer->head, *event, answer->include_usage);
          } else {
            last = ErrorChunk(event ? StatusOf(*event) : event.error());
          }
          answer->over = event.has_value();
          const bool written = write(last);
          if (written) sink.done();
          return written;
        });
  }

  const ServerOptions options_;
  web::HttpServer server_;
  std::thread thread_;
  int port_ = 0;
  const int64_t started_ = SystemClock().UnixMillis() / 1000;
  std::atomic<uint64_t> answers_{0};
  std::atomic<int> restarts_{0};
  mutable std::mutex mutex_;
  std::shared_ptr<AnswerWorker> worker_;
};

}  // namespace

Result<std::unique_ptr<Server>> Server::Start(const ServerOptions& options) {
  auto server = std::make_unique<ServerImpl>(options);
  TG_RETURN_IF_ERROR(server->Open());
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace tidegate::serve
