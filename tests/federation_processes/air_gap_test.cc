// A job that runs by trips of a folder alone, with the processes that people start, and the same
// job over a network: the same adapter, bit for bit. A carrier and an exchange are killed on the
// way, and an old folder comes back.
#include <gtest/gtest.h>
#include <poll.h>

#include <csignal>
#include <fstream>

#include "base/clock.h"
#include "base/file.h"
#include "books.h"
#include "federation.h"
#include "watch.h"

namespace tidegate::federation_processes {
namespace {

namespace fs = std::filesystem;

constexpr int kTripMillis = 60'000 * kSlow;
const std::string kNames[] = {"north", "south"};
// Of so many parameters that update and adapter are several blocks.
const JobSetup kJob = {.keys = "rounds = 2\ndeadline_seconds = 3600\n", .rank = 64};

class AirGap {
 public:
  AirGap()
      : federation_({{.name = kNames[0], .away = true}, {.name = kNames[1], .away = true}}, kJob) {}

  // The job is open and in the folder. That exchange is made by a coordinator that runs; then it is
  // stopped, and the others open its folder themselves.
  Status Begin() {
    TG_RETURN_IF_ERROR(federation_.Provision());
    std::error_code error;
    fs::create_directory(folder(), error);
    TG_RETURN_IF_ERROR(federation_.Begin());
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const std::string report, Exchange());
    return federation_.Stop();
  }
  Federation& federation() { return federation_; }
  fs::path folder() const { return federation_.dir() / "medium"; }
  fs::path kept() const { return federation_.dir() / "kept"; }
  fs::path site_log(size_t site) const { return federation_.poc().site_log(site); }

  Result<std::string> Exchange() {
    return RunCommandOk({Program("tidegate"), "coordinator", "exchange", folder().native(), "--dir",
                         federation_.poc().coordinator_dir().native(), "--format", "json"},
                        kTripMillis);
  }
  Status Start(size_t site) {
    TG_ASSIGN_OR_RETURN(onshore_, ChildProcess::Start({Program("tidegate-onshore"), "--dir",
                                                       federation_.poc().site_dir(site).native(),
                                                       "--folder", folder().native()},
                                                      site_log(site)));
    return OkStatus();
  }
  Status End() {
    const auto code = onshore_.Wait(kTripMillis);
    if (!code) return DeadlineExceeded("the trip did not end");
    return *code == 0 ? OkStatus() : MakeError(static_cast<Code>(*code), "tidegate-onshore");
  }
  Status Trip(size_t site) {
    TG_RETURN_IF_ERROR(Start(site));
    return End();
  }
  Status Trips() {
    for (size_t site = 0; site < 2; ++site) TG_RETURN_IF_ERROR(Trip(site));
    return OkStatus();
  }

  // Kills link of a trip under way as soon as the first block of its update lies in the folder.
  Status KillCarrier(size_t site) {
    TG_ASSIGN_OR_RETURN(FolderWatch watch, FolderWatch::Create(folder() / "blocks"));
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const auto before, watch.Take());
    TG_RETURN_IF_ERROR(Start(site));
    TG_RETURN_IF_ERROR(Await(watch, [](const std::string&) { return true; }));
    const pid_t link = ChildOf(onshore_.pid(), "tidegate-link");
    if (link > 0) carrier_killed_ = ::kill(link, SIGKILL) == 0;
    return End();
  }
  // Kills an exchange as soon as it has a block of an update on the coordinator's disk.
  Status KillExchange() {
    const fs::path coordinator = federation_.poc().coordinator_dir();
    TG_ASSIGN_OR_RETURN(FolderWatch watch, FolderWatch::Create(coordinator / "blocks"));
    TG_ASSIGN_OR_RETURN([[maybe_unused]] const auto before, watch.Take());
    const std::string request =
        fmt::format("{{\"verb\":\"exchange\",\"folder\":\"{}\"}}", folder().native());
    TG_ASSIGN_OR_RETURN(ChildProcess exchange,
                        ChildProcess::Start({Program("tidegate-coordinator"), "--dir",
                                             coordinator.native(), "--request", request},
                                            federation_.dir() / "exchange.log"));
    TG_RETURN_IF_ERROR(Await(watch, [](const std::string&) { return true; }));
    exchange.Signal(SIGKILL);
    const auto code = exchange.Wait(kTripMillis);
    exchange_killed_ = code == 128 + SIGKILL;
    return OkStatus();
  }
  bool carrier_killed() const { return carrier_killed_; }
  bool exchange_killed() const { return exchange_killed_; }

 private:
  static std::string Program(const char* name) {
    return (fs::path(TIDEGATE_BIN_DIR) / name).native();
  }
  static pid_t ChildOf(pid_t parent, const std::string& wanted) {
    std::ifstream list(fmt::format("/proc/{}/task/{}/children", parent, parent));
    for (pid_t pid = 0; list >> pid;) {
      std::string name;
      std::getline(std::ifstream(fmt::format("/proc/{}/comm", pid)), name);
      if (name == wanted) return pid;
    }
    return -1;
  }
  template <typename Which>
  static Status Await(FolderWatch& watch, Which&& which) {
    const int64_t deadline = SystemClock().MonotonicMillis() + kTripMillis;
    while (SystemClock().MonotonicMillis() < deadline) {
      TG_ASSIGN_OR_RETURN(const auto news, watch.Take());
      for (const std::string& one : news) {
        if (which(one)) return OkStatus();
      }
      pollfd p{watch.fd(), POLLIN, 0};
      ::poll(&p, 1, 100);
    }
    return DeadlineExceeded("nothing came within {} ms", kTripMillis);
  }

  Federation federation_;
  ChildProcess onshore_;
  bool carrier_killed_ = false, exchange_killed_ = false;
};

#define TRIP(expression)                                                                \
  do {                                                                                  \
    const auto trip_status = (expression);                                              \
    ASSERT_TRUE(StatusOf(trip_status).ok()) << StatusOf(trip_status).ToString() << "\n" \
                                            << air.federation().Logs();                 \
  } while (false)
Status StatusOf(const Status& status) { return status; }
template <typename T>
Status StatusOf(const Result<T>& result) {
  return result ? OkStatus() : result.error();
}

TEST(AirGap, AJobByTripsEndsWithTheNetworksAdapterBitForBit) {
  AirGap air;
  TIDEGATE_RUNS(air.federation(), air.Begin());
  const Status first = air.KillCarrier(0);
  if (WallsMissing(first)) GTEST_SKIP() << first.message();
  TRIP(first);
  TRIP(air.Trip(1));
  // A trip more with nothing to do, and the folder as it is now, for later.
  TRIP(air.Trip(1));
  fs::copy(air.folder(), air.kept(), fs::copy_options::recursive);
  TRIP(air.KillExchange());
  TRIP(air.Exchange());
  TRIP(air.Trips());
  // The folder of before comes back to a site that is further: nothing happens there.
  const auto before = ReadSite(air.federation().poc().site_dir(0));
  ASSERT_TRUE(before.has_value()) << before.error().ToString();
  const fs::path newest = air.federation().dir() / "newest";
  fs::rename(air.folder(), newest);
  fs::copy(air.kept(), air.folder(), fs::copy_options::recursive);
  TRIP(air.Trip(0));
  const auto after = ReadSite(air.federation().poc().site_dir(0));
  ASSERT_TRUE(after.has_value()) << after.error().ToString();
  EXPECT_EQ(after->intents.size(), before->intents.size());
  EXPECT_EQ(after->receipts.size(), before->receipts.size());
  EXPECT_EQ(after->adapter, before->adapter);
  fs::remove_all(air.folder());
  fs::rename(newest, air.folder());
  TRIP(air.Exchange());
  TRIP(air.Trips());
  TRIP(air.Exchange());
  for (const std::string& name : kNames) {
    const fs::path up = air.folder() / "up" / name;
    EXPECT_EQ(std::distance(fs::directory_iterator(up), fs::directory_iterator()), 1)
        << "nothing but the lease of " << name;
  }
  std::printf("killed: carrier %s, exchange %s\n", air.carrier_killed() ? "yes" : "no",
              air.exchange_killed() ? "yes" : "no");

  Federation network({{.name = kNames[0]}, {.name = kNames[1]}}, kJob);
  TIDEGATE_RUNS(network, network.Provision());
  TIDEGATE_RUNS(network, network.Begin());
  TIDEGATE_RUNS(network, network.RunToTheEnd(kJobMillis));
  ASSERT_TRUE(network.Stop().ok());
  const auto by_network = ReadCoordinator(network.poc().coordinator_dir());
  const auto by_folder = ReadCoordinator(air.federation().poc().coordinator_dir());
  ASSERT_TRUE(by_network.has_value()) << by_network.error().ToString();
  ASSERT_TRUE(by_folder.has_value()) << by_folder.error().ToString();
  EXPECT_EQ(by_folder->parameters, by_network->parameters);
  EXPECT_EQ(by_folder->equivocations, 0u);
  for (size_t i = 0; i < 2; ++i) {
    const auto books = ReadSite(air.federation().poc().site_dir(i));
    ASSERT_TRUE(books.has_value()) << books.error().ToString();
    EXPECT_EQ(by_folder->Counted(kNames[i]), (std::vector<uint32_t>{1, 2}));
    ExpectExactlyOnce(*by_folder, *books, kNames[i], {1, 2});
    ExpectFinalAdapter(*by_folder, *books, kNames[i]);
  }
}

}  // namespace
}  // namespace tidegate::federation_processes
