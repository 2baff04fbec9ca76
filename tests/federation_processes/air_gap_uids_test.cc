// A site without a network that is started as root with an own uid for trainer, gate and link: a
// job by trips alone, and nobody but its process has what is its own.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/file.h"
#include "base/subprocess.h"
#include "books.h"
#include "federation.h"

namespace tidegate::federation_processes {
namespace {

namespace fs = std::filesystem;

constexpr uid_t kTrainer = 61001, kGate = 61002, kLink = 61003;
constexpr int kTripMillis = 60'000 * kSlow;

std::string Program(const char* name) { return (fs::path(TIDEGATE_BIN_DIR) / name).native(); }

uid_t OwnerOf(const fs::path& path) {
  struct stat info {};
  EXPECT_EQ(::lstat(path.c_str(), &info), 0) << path;
  return info.st_uid;
}

class AirGapUids : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "separate_uids: needs a start as root, errno 1";
    TIDEGATE_RUNS(federation_, federation_.Provision());
    fs::permissions(federation_.dir(), fs::perms(0711));
    // What the trainer's uid must be able to read.
    fs::copy(TinyBase(), base());
    for (const auto& file : fs::directory_iterator(base())) {
      fs::permissions(file.path(), fs::perms(0644));
    }
    fs::permissions(federation_.records(0), fs::perms(0600));
    ASSERT_EQ(::chown(federation_.records(0).c_str(), kTrainer, kTrainer), 0);
    auto toml = ReadTextFile(site() / "site.toml", 1 << 20);
    ASSERT_TRUE(toml) << toml.error().ToString();
    const size_t at = toml->find("base = ");
    ASSERT_NE(at, std::string::npos);
    toml->replace(at, toml->find('\n', at) - at, "base = \"" + base().native() + "\"");
    *toml += fmt::format("separate_uids = [{}, {}, {}]\n", kTrainer, kGate, kLink);
    ASSERT_TRUE(WriteFileDurably(site() / "site.toml", AsBytes(*toml), 0600).ok());
    fs::create_directory(medium());
    ASSERT_EQ(::chown(medium().c_str(), kLink, kLink), 0);
  }
  fs::path base() const { return federation_.dir() / "base"; }
  fs::path medium() const { return federation_.dir() / "medium"; }
  fs::path site() const { return federation_.poc().site_dir(0); }
  Status Exchange() {
    const auto report =
        RunCommandOk({Program("tidegate"), "coordinator", "exchange", medium().native(), "--dir",
                      federation_.poc().coordinator_dir().native()},
                     kTripMillis);
    if (!report) return report.error();
    // As a medium that is mounted with one uid (docs/formats/air-gap.md): all there is link's.
    for (const auto& entry : fs::recursive_directory_iterator(medium())) {
      if (::lchown(entry.path().c_str(), kLink, kLink) != 0) return Internal("lchown {}", errno);
    }
    return OkStatus();
  }
  void Trip() {
    const auto trip = RunCommand(
        {Program("tidegate-onshore"), "--dir", site().native(), "--folder", medium().native()},
        kTripMillis);
    ASSERT_TRUE(trip) << trip.error().ToString();
    if (trip->errors.find("the policy demands walls") != std::string::npos) {
      GTEST_SKIP() << "this machine cannot raise the walls of a site: " << trip->errors;
    }
    ASSERT_EQ(trip->exit_code, 0) << trip->errors;
  }

  Federation federation_{{{.name = "north", .away = true}},
                         {.keys = "rounds = 1\ndeadline_seconds = 3600\n"}};
};

TEST_F(AirGapUids, AJobByTripsRunsToItsEndUnderThreeUids) {
  TIDEGATE_RUNS(federation_, federation_.Begin());
  const Status begun = Exchange();
  ASSERT_TRUE(begun.ok()) << begun.ToString();
  ASSERT_TRUE(federation_.Stop().ok());
  Trip();
  if (HasFatalFailure() || IsSkipped()) return;
  EXPECT_EQ(OwnerOf(medium() / "up" / "north"), kLink);
  Status exchanged = Exchange();
  ASSERT_TRUE(exchanged.ok()) << exchanged.ToString();
  Trip();
  exchanged = Exchange();
  ASSERT_TRUE(exchanged.ok()) << exchanged.ToString();

  EXPECT_EQ(OwnerOf(site() / "trainer"), kTrainer);
  EXPECT_EQ(OwnerOf(site() / "gate" / "ledger"), kGate);
  EXPECT_EQ(OwnerOf(site() / "keys" / "gate.key"), 0u);
  const auto coordinator = ReadCoordinator(federation_.poc().coordinator_dir());
  const auto books = ReadSite(site());
  ASSERT_TRUE(coordinator && books);
  ExpectExactlyOnce(*coordinator, *books, "north", {1});
  ExpectFinalAdapter(*coordinator, *books, "north");
  const std::string_view ledger = AsText(books->ledger);
  size_t up = 0;
  for (size_t at = ledger.find("wall separate_uids up"); at != ledger.npos;
       at = ledger.find("wall separate_uids up", at + 1)) {
    ++up;
  }
  EXPECT_EQ(up, 3u) << "of trainer, gate and carrier";
}

}  // namespace
}  // namespace tidegate::federation_processes
