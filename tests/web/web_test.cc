#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>

#include "base/file.h"
#include "base/subprocess.h"
#include "web/metrics.h"
#include "web/status_server.h"

namespace tidegate::web {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

// As `tidegate status --format json` has it; a site may call itself anything in a test.
ordered_json Sample(const std::string& site = "north") {
  return {
      {"time", "2026-11-26T10:00:00Z"},
      {"federation", {{"id", "00"}, {"name", "demo"}, {"address", ""}, {"key", ""}}},
      {"sites",
       {{{"name", site},
         {"key", "ed25519:AA"},
         {"fingerprint", "0123456789abcdef0123"},
         {"connected", true},
         {"bytes_in", 1048576},
         {"refused", 2},
         {"seen", "2026-11-26T09:59:59Z"}}}},
      {"jobs",
       {{{"id", "aabb"},
         {"name", "triage"},
         {"state", "collecting"},
         {"ended", false},
         {"version", 2},
         {"rounds", 6},
         {"bytes_in", 4096},
         {"open_round", {{"round", 3}, {"deadline", "2026-11-26T10:10:00Z"}, {"accepted", {site}}}},
         {"sites", {site, "south"}},
         {"losses", {{site, {{"round", 2}, {"train", 1.25}, {"heldout", 0.0}}}}},
         {"history",
          {{{"round", 1},
            {"opened", "2026-11-26T09:00:00Z"},
            {"seconds", 12.5},
            {"updates", 2},
            {"bytes", 2048},
            {"train_loss", 2.5},
            {"heldout_loss", 3.0}},
           {{"round", 2},
            {"opened", "2026-11-26T09:30:00Z"},
            {"seconds", 11.0},
            {"updates", 2},
            {"bytes", 2048},
            {"train_loss", 1.25},
            {"heldout_loss", nullptr}}}}}}},
      {"block_bytes", 7},
      {"equivocations", 0},
      {"refused_peers", 3}};
}

// One request, the whole answer.
std::string Ask(int port, const std::string& request) {
  const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)), 0);
  EXPECT_EQ(::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[65536];
  for (ssize_t n; (n = ::recv(fd.get(), buffer, sizeof(buffer), 0)) > 0;) {
    answer.append(buffer, static_cast<size_t>(n));
  }
  return answer;
}

class StatusServerTest : public testing::Test {
 protected:
  StatusServerTest() {
    auto server = StatusServer::Start({});
    EXPECT_TRUE(server.has_value());
    server_ = std::move(*server);
  }
  std::string Get(const std::string& path, const std::string& host = "", const char* verb = "GET") {
    const std::string own = "127.0.0.1:" + std::to_string(server_->port());
    return Ask(server_->port(),
               fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", verb, path,
                           host.empty() ? own : host));
  }
  std::unique_ptr<StatusServer> server_;
};

TEST(Metrics, AreTheStatusInPrometheusText) {
  const std::string text = MetricsText(Sample());
  for (const char* line :
       {"# TYPE tidegate_site_connected gauge\ntidegate_site_connected{site=\"north\"} 1\n",
        "tidegate_site_received_bytes_total{site=\"north\"} 1048576\n",
        "tidegate_job_version{job=\"triage\",id=\"aabb\"} 2\n",
        "tidegate_round_updates{job=\"triage\",id=\"aabb\"} 1\n",
        "tidegate_train_loss{job=\"triage\",id=\"aabb\",site=\"north\"} 1.25\n",
        "tidegate_block_store_bytes 7\n", "tidegate_refused_peers_total 3\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
  }
  EXPECT_EQ(text.find("tidegate_heldout_loss{"), std::string::npos) << "0 is not told";
}

TEST(Metrics, ALabelCanNotEndItself) {
  const std::string text = MetricsText(Sample("a\"} 1\nevil{x=\"\\"));
  EXPECT_NE(text.find("site=\"a\\\"} 1 evil{x=\\\"\\\\\""), std::string::npos) << text;
}

TEST_F(StatusServerTest, ServesThePageTheStatusAndTheMetrics) {
  EXPECT_NE(Get("/api/status").find(" 503 "), std::string::npos) << "nothing was published yet";
  server_->Publish(Sample());
  const std::string page = Get("/");
  EXPECT_NE(page.find(" 200 "), std::string::npos);
  EXPECT_NE(page.find("Content-Security-Policy: default-src 'none'"), std::string::npos);
  EXPECT_NE(page.find("<title>Tidegate coordinator</title>"), std::string::npos);
  EXPECT_NE(Get("/api/status").find("\"name\":\"triage\""), std::string::npos);
  EXPECT_NE(Get("/metrics").find("tidegate_job_rounds{"), std::string::npos);
  EXPECT_NE(Get("/page.js").find("text/javascript"), std::string::npos);
  EXPECT_NE(Get("/nothing").find(" 404 "), std::string::npos);
  EXPECT_NE(Get("/../etc/passwd").find(" 404 "), std::string::npos);
}

TEST_F(StatusServerTest, AnswersToItsOwnAddressAndChangesNothing) {
  server_->Publish(Sample());
  EXPECT_NE(Get("/api/status", "evil.example").find(" 403 "), std::string::npos);
  EXPECT_NE(Get("/api/status", "localhost:" + std::to_string(server_->port())).find(" 200 "),
            std::string::npos);
  for (const char* verb : {"POST", "PUT", "DELETE", "OPTIONS"}) {
    EXPECT_NE(Get("/api/status", "", verb).find(" 405 "), std::string::npos) << verb;
  }
}

TEST_F(StatusServerTest, AnAddressThatIsTakenIsAnError) {
  StatusServerOptions options;
  options.port = server_->port();
  const auto second = StatusServer::Start(options);
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code(), Code::kUnavailable);
  EXPECT_NE(second.error().message().find(std::to_string(options.port)), std::string::npos);
}

// A browser runs the page; a name with markup in it stays a name.
TEST_F(StatusServerTest, ABrowserShowsIt) {
  const fs::path browser = "/usr/bin/chromium";
  if (!fs::exists(browser)) GTEST_SKIP() << "chromium is not installed";
  const fs::path home = fs::temp_directory_path() / fmt::format("tidegate_web_{}", ::getpid());
  const auto shown = [&](const std::string& url) {
    auto out = RunCommandOk(
        {browser.native(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--user-data-dir=" + home.native(), "--virtual-time-budget=4000", "--dump-dom", url},
        45'000);
    fs::remove_all(home);
    return out;
  };
  // The control: a machine on which it shows nothing at all.
  if (const auto blank = shown("about:blank"); !blank) {
    GTEST_SKIP() << "chromium does not run here: " << blank.error().message();
  }
  server_->Publish(Sample("<b>north</b>"));
  const auto out = shown(fmt::format("http://127.0.0.1:{}/", server_->port()));
  ASSERT_TRUE(out.has_value()) << out.error().ToString();
  for (const char* text :
       {"data-ready=\"yes\"", "<td>triage</td>", "<td>2 of 6</td>", "<td>1 of 2</td>",
        "&lt;b&gt;north&lt;/b&gt;", "as of 2026-11-26T10:00:00Z", "<td>2.5</td>"}) {
    EXPECT_NE(out->find(text), std::string::npos) << text << "\n" << *out;
  }
  EXPECT_EQ(out->find("<b>north"), std::string::npos);
}

}  // namespace
}  // namespace tidegate::web
