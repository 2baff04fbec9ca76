#include "web/status_server.h"

#include <pthread.h>

#include <chrono>
#include <csignal>
#include <mutex>
#include <thread>

#include "base/file.h"
#include "web/http_server.h"
#include "web/metrics.h"
#include "web/page.h"

namespace tidegate::web {
namespace {

constexpr size_t kMaxRequestBytes = 4096;
constexpr uint64_t kMaxChartBytes = 4u << 20;
constexpr const char* kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' "
    "data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

class StatusServerImpl final : public StatusServer {
 public:
  ~StatusServerImpl() override {
    server_.stop();
    if (thread_.joinable()) thread_.join();
  }

  Status Open(const StatusServerOptions& options) {
    if (const auto chart = ReadTextFile(options.chart_js, kMaxChartBytes)) chart_ = *chart;
    host_ = options.host;
    // Its default lets two processes share a port: then each sees some of the requests.
    server_.set_socket_options([](socket_t socket) {
      const int on = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    });
    server_.set_payload_max_length(kMaxRequestBytes);
    server_.set_default_headers({{"Content-Security-Policy", kPolicy},
                                 {"X-Content-Type-Options", "nosniff"},
                                 {"Referrer-Policy", "no-referrer"},
                                 {"Cache-Control", "no-store"}});
    SetRoutes();
    const bool bound = options.port == 0
                           ? (port_ = server_.bind_to_any_port(options.host.c_str())) > 0
                           : server_.bind_to_port(options.host.c_str(), options.port);
    if (!bound) {
      return Unavailable("the status page's address {}:{} can't be bound; is it taken?",
                         options.host, options.port);
    }
    if (options.port != 0) port_ = options.port;
    StartThread();
    return OkStatus();
  }

  void Publish(const nlohmann::ordered_json& status) override {
    auto text = std::make_shared<const Texts>(Texts{status.dump(), MetricsText(status)});
    const std::lock_guard lock(mutex_);
    texts_ = std::move(text);
  }
  int port() const override { return port_; }

 private:
  struct Texts {
    std::string json, metrics;
  };

  void StartThread() {
    // Threads inherit the mask: signals are the owner's.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    // stop() before it listens would be lost.
    while (!server_.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  void SetRoutes() {
    server_.SetAdmission([this](const httplib::Request& in, httplib::Response& out) {
      if (in.method != "GET" && in.method != "HEAD") {
        out.status = 405;
        return false;
      }
      if (HostFits(in.get_header_value("Host"))) return true;
      out.status = 403;
      out.set_content("this server answers to its own address only\n", "text/plain");
      return false;
    });
    const auto constant = [this](const char* path, std::string_view text, const char* type) {
      server_.Get(path, [text, type](const httplib::Request&, httplib::Response& out) {
        out.set_content(text.data(), text.size(), type);
      });
    };
    constant("/", kPageHtml, "text/html; charset=utf-8");
    constant("/style.css", kPageCss, "text/css");
    constant("/page.js", kPageJs, "text/javascript");
    constant("/chart.js", chart_, "text/javascript");
    server_.Get("/api/status", [this](const httplib::Request&, httplib::Response& out) {
      Give(&Texts::json, "application/json", out);
    });
    server_.Get("/metrics", [this](const httplib::Request&, httplib::Response& out) {
      Give(&Texts::metrics, "text/plain; version=0.0.4", out);
    });
  }

  bool HostFits(const std::string& host) const {
    const std::string port = ":" + std::to_string(port_);
    return host == host_ + port || host == "localhost" + port;
  }

  void Give(std::string Texts::*text, const char* type, httplib::Response& out) {
    std::shared_ptr<const Texts> texts;
    {
      const std::lock_guard lock(mutex_);
      texts = texts_;
    }
    if (!texts) {
      out.status = 503;
      return;
    }
    out.set_content((*texts).*text, type);
  }

  HttpServer server_{HttpLimits{}};
  std::string host_, chart_;
  int port_ = 0;
  std::mutex mutex_;
  std::shared_ptr<const Texts> texts_;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<StatusServer>> StatusServer::Start(const StatusServerOptions& options) {
  auto server = std::make_unique<StatusServerImpl>();
  TG_RETURN_IF_ERROR(server->Open(options));
  return server;
}

}  // namespace tidegate::web
