// What a round costs beside training: rounds of a tiny adapter, two scripted sites that answer at
// once, the real coordinator process, loopback, a real disk. Prints the median last; exit code 1
// when it is over the limit.
//
//   round_bench --base HF_FOLDER [--rounds 60] [--limit_ms 100] [--dir FOLDER]
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/file.h"
#include "base/subprocess.h"
#include "nlohmann/json.hpp"
#include "offshore/federation_config.h"
#include "tests/offshore/fake_site.h"
#include "tests/offshore/site_driver.h"

namespace tidegate::offshore {
namespace {

namespace fs = std::filesystem;

struct Options {
  fs::path base, dir = fs::temp_directory_path() / "tidegate_round_bench";
  int rounds = 60;
  double limit_ms = 100;
};

Result<int> FreePort() {
  const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return Unexpected(ErrnoStatus("find", "a free port", errno));
  }
  return ntohs(address.sin_port);
}

Result<fs::path> ProgramDir() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  if (error) return Unexpected(ErrnoStatus("read", "/proc/self/exe", error.value()));
  return self.parent_path();
}

Status Tool(const fs::path& programs, std::vector<std::string> words) {
  words.insert(words.begin(), (programs / "tidegate").native());
  const auto output = RunCommandOk(words, 60'000);
  return output ? OkStatus() : output.error();
}

// Milliseconds of each round but the first, as the first site sees them: receipt to receipt.
Result<std::vector<double>> Measure(const Options& options) {
  TG_ASSIGN_OR_RETURN(const fs::path programs, ProgramDir());
  TG_ASSIGN_OR_RETURN(const int port, FreePort());
  const std::string address = fmt::format("tcp://127.0.0.1:{}", port);
  fs::remove_all(options.dir);
  fs::create_directories(options.dir);
  const fs::path coord = options.dir / "coord";
  TG_RETURN_IF_ERROR(Tool(programs, {"coordinator", "init", "--dir", coord.native(), "--name",
                                     "bench", "--address", address}));
  TG_ASSIGN_OR_RETURN(const FederationConfig config, LoadFederationConfig(coord));
  TG_ASSIGN_OR_RETURN(const FederationKeys keys, LoadFederationKeys(coord));
  std::vector<std::unique_ptr<FakeSite>> sites;
  for (const char* name : {"north", "south"}) {
    sites.push_back(std::make_unique<FakeSite>(name, keys.sign.verify_key()));
    const fs::path file = options.dir / (std::string(name) + ".request");
    TG_RETURN_IF_ERROR(WriteFileDurably(file, AsBytes(sites.back()->Request())));
    TG_RETURN_IF_ERROR(Tool(programs, {"site", "approve", file.native(), "--dir", coord.native()}));
  }
  const std::string toml =
      fmt::format("base = \"{}\"\nrounds = {}\n[lora]\nr = 2\n[train]\nlocal_steps = 1\n",
                  fs::absolute(options.base).native(), options.rounds);
  TG_RETURN_IF_ERROR(WriteFileDurably(options.dir / "bench.toml", AsBytes(toml)));
  TG_RETURN_IF_ERROR(Tool(
      programs, {"job", "submit", (options.dir / "bench.toml").native(), "--dir", coord.native()}));
  TG_ASSIGN_OR_RETURN(
      const ChildProcess coordinator,
      ChildProcess::Start({(programs / "tidegate-coordinator").native(), "--dir", coord.native()},
                          options.dir / "log"));
  std::vector<std::unique_ptr<SiteDriver>> drivers;
  for (auto& site : sites) {
    drivers.push_back(
        std::make_unique<SiteDriver>(*site, address, config.federation, keys.curve.public_key()));
  }
  using Clock = std::chrono::steady_clock;
  std::vector<double> millis;
  auto last = Clock::now();
  const auto end = last + std::chrono::seconds(60 + options.rounds);
  size_t seen = 0;
  while (!sites[0]->ended || !sites[1]->ended) {
    if (Clock::now() > end)
      return DeadlineExceeded("the job did not end; see {}", (options.dir / "log").native());
    for (auto& driver : drivers) driver->Step(1);
    if (sites[0]->receipts.size() == seen) continue;
    const auto now = Clock::now();
    if (seen > 0) millis.push_back(std::chrono::duration<double, std::milli>(now - last).count());
    last = now;
    seen = sites[0]->receipts.size();
  }
  coordinator.Signal(SIGTERM);
  return millis;
}

int Main(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i];
    if (key == "--base") options.base = argv[i + 1];
    if (key == "--dir") options.dir = argv[i + 1];
    if (key == "--rounds") options.rounds = std::atoi(argv[i + 1]);
    if (key == "--limit_ms") options.limit_ms = std::atof(argv[i + 1]);
  }
  if (options.base.empty() || options.rounds < 3) {
    std::fprintf(stderr,
                 "usage: round_bench --base DIR [--rounds N] [--limit_ms MS] [--dir DIR]\n");
    return 64;
  }
  auto millis = Measure(options);
  if (!millis) {
    std::fprintf(stderr, "round_bench: %s\n", millis.error().ToString().c_str());
    return static_cast<int>(millis.error().code());
  }
  std::sort(millis->begin(), millis->end());
  const auto at = [&](double share) {
    return (*millis)[static_cast<size_t>(share * static_cast<double>(millis->size() - 1))];
  };
  std::printf("rounds %zu  min %.2f ms  p90 %.2f ms  max %.2f ms\n", millis->size() + 1, at(0),
              at(0.9), at(1));
  std::printf("round overhead, median: %.2f ms (limit %.0f ms)\n", at(0.5), options.limit_ms);
  return at(0.5) <= options.limit_ms ? 0 : 1;
}

}  // namespace
}  // namespace tidegate::offshore

int main(int argc, char** argv) { return tidegate::offshore::Main(argc, argv); }
