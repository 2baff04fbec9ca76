#include "postgres_server.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "federation/server/shared_store.h"

namespace tidegate::federation {
namespace {

namespace fs = std::filesystem;

constexpr int kStartMillis = 60'000;

// Debian keeps the server's programs by version; the newest there is.
fs::path Programs() {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it("/usr/lib/postgresql", error), end; !error && it != end;
       it.increment(error)) {
    if (fs::exists(it->path() / "bin/initdb")) found.push_back(it->path() / "bin");
  }
  return found.empty() ? fs::path() : *std::max_element(found.begin(), found.end());
}

// initdb and the server refuse root. Killed with us, whatever ends us.
std::vector<std::string> AsUser(std::vector<std::string> words) {
  std::vector<std::string> as = {"setpriv", "--pdeathsig", "KILL"};
  if (::geteuid() == 0) {
    as.insert(as.end(), {"--reuid=nobody", "--regid=nogroup", "--clear-groups"});
  }
  as.push_back("--");
  words.insert(words.begin(), as.begin(), as.end());
  return words;
}

}  // namespace

Result<PostgresServer*> PostgresServer::Get() {
  static std::unique_ptr<PostgresServer> server;
  static Status started = [] {
    server.reset(new PostgresServer());
    return server->Start();
  }();
  if (!started.ok()) return Unexpected(started);
  return server.get();
}

Status PostgresServer::Start() {
  // Says at once whether this build can.
  const auto built =
      SharedStore::Connect({"postgresql://nobody@/none?host=/nonexistent", {}, "", 1000});
  if (!built && built.error().code() == Code::kUnsupported) return built.error();
  programs_ = Programs();
  if (programs_.empty()) return Unsupported("Debian's postgresql is not installed");
  std::string folder = (fs::temp_directory_path() / "tidegate-postgres-XXXXXX").native();
  if (::mkdtemp(folder.data()) == nullptr) return ErrnoStatus("make", folder, errno);
  dir_ = folder;
  if (::geteuid() == 0) {
    const passwd* user = ::getpwnam("nobody");
    if (user == nullptr || ::chown(dir_.c_str(), user->pw_uid, user->pw_gid) != 0) {
      return ErrnoStatus("give away", dir_.native(), errno);
    }
  }
  const std::string data = (dir_ / "data").native();
  const auto made =
      RunCommandOk(AsUser({(programs_ / "initdb").native(), "-D", data, "-U", "tidegate", "-A",
                           "trust", "-E", "UTF8", "--no-locale", "--no-sync"}),
                   kStartMillis);
  if (!made) return made.error();
  TG_ASSIGN_OR_RETURN(
      server_, ChildProcess::Start(
                   AsUser({(programs_ / "postgres").native(), "-D", data, "-k", dir_.native(), "-c",
                           "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB"}),
                   dir_ / "log"));
  const int64_t end = SystemClock().MonotonicMillis() + kStartMillis;
  while (true) {
    const auto ready =
        RunCommand({(programs_ / "pg_isready").native(), "-q", "-h", dir_.native()}, kStartMillis);
    if (ready && ready->exit_code == 0) return OkStatus();
    if (server_.Wait(20) || SystemClock().MonotonicMillis() > end) {
      return Unavailable("PostgreSQL does not start; see {}", (dir_ / "log").native());
    }
  }
}

PostgresServer::~PostgresServer() {
  // At once, and its processes with it.
  server_.Signal(SIGQUIT);
  server_.Wait(5000);
  std::error_code ignored;
  if (!dir_.empty()) fs::remove_all(dir_, ignored);
}

Result<std::string> PostgresServer::NewDatabase() {
  const std::string name = fmt::format("test{}", ++databases_);
  const auto made =
      RunCommandOk({(programs_ / "createdb").native(), "-h", dir_.native(), "-U", "tidegate", name},
                   kStartMillis);
  if (!made) return Unexpected(made.error());
  return fmt::format("postgresql://tidegate@/{}?host={}", name, dir_.native());
}

Result<std::string> PostgresServer::Ask(const std::string& url, const std::string& sql) {
  return RunCommandOk({(programs_ / "psql").native(), "-X", "-A", "-t", "-q", "-c", sql, url},
                      kStartMillis);
}

}  // namespace tidegate::federation
