#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "base/subprocess.h"
#include "cli/poc.h"

namespace tidegate {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const fs::path kUnits = fs::path(TIDEGATE_SOURCE_DIR) / "packaging/systemd";
const fs::path kBin = TIDEGATE_BIN_DIR;

bool HasSystemd() {
  const auto version = RunCommand({"systemd-analyze", "--version"}, 10'000);
  return version && version->exit_code == 0;
}
#define TIDEGATE_NEEDS_SYSTEMD() \
  if (!HasSystemd()) GTEST_SKIP() << "systemd-analyze is missing (Debian's package systemd)"

class Units : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string folder = (fs::temp_directory_path() / "tidegate-units-XXXXXX").native();
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    dir_ = folder;
  }
  void TearDown() override { fs::remove_all(dir_); }

  // The unit as it is for the programs of this build; without `dropped` in its filter's line.
  fs::path Unit(const std::string& name, const std::string& file, const std::string& dropped = "") {
    std::string text = *ReadTextFile(kUnits / file, 1 << 20);
    const auto replace = [&text](const std::string& from, const std::string& to) {
      const size_t at = text.find(from);
      ASSERT_NE(at, std::string::npos) << from;
      text.replace(at, from.size(), to);
    };
    replace("/usr/local/bin", kBin.native());
    if (!dropped.empty()) replace(dropped, "");
    EXPECT_TRUE(WriteFileDurably(dir_ / name, AsBytes(text)).ok());
    return dir_ / name;
  }

  // A program of this name in a folder of its own, which runs ours under the unit.
  void Wrap(const fs::path& programs, const std::string& program, const fs::path& unit) {
    const fs::path script = programs / program;
    std::ofstream(script) << "#!/bin/sh\nexec " << (kBin / "packaging_as_unit").native() << " "
                          << unit.native() << " " << (kBin / program).native() << " \"$@\"\n";
    ASSERT_EQ(::chmod(script.c_str(), 0755), 0);
  }

  // A job of one round by one site, site and coordinator each under its unit: by a user who is not
  // root, as the units have it.
  Status RunUnder(const fs::path& onshore, const fs::path& coordinator) {
    const fs::path programs = dir_ / "programs";
    fs::create_directories(programs);
    fs::create_symlink(kBin / "tidegate", programs / "tidegate");
    Wrap(programs, "tidegate-onshore", onshore);
    Wrap(programs, "tidegate-coordinator", coordinator);
    std::ofstream(dir_ / "records.jsonl") << R"({"prompt": "code 1 is in ", "completion": "a"})"
                                          << "\n";
    fs::copy(fs::path(TIDEGATE_SOURCE_DIR) / "tests/golden/tiny_llama", dir_ / "base");
    for (const auto& entry : fs::directory_iterator(dir_ / "base"))
      ::chmod(entry.path().c_str(), 0644);
    const pid_t child = ::fork();
    if (child == 0) {
      const Status status = AsNobody() ? RunJob(programs) : Internal("cannot become another user");
      std::ofstream(dir_ / "status") << status.message();
      ::_exit(static_cast<int>(status.code()));
    }
    int ended = 0;
    if (child < 0 || ::waitpid(child, &ended, 0) != child || !WIFEXITED(ended)) {
      return Internal("the federation's process did not end by itself");
    }
    const auto code = static_cast<Code>(WEXITSTATUS(ended));
    if (code == Code::kOk) return OkStatus();
    return MakeError(code, "{}", ReadTextFile(dir_ / "status", 1 << 20).value_or("(no message)"));
  }

  // Nothing to do where we are not root.
  bool AsNobody() const {
    if (::geteuid() != 0) return true;
    constexpr uid_t kNobody = 65534;
    for (const fs::path& path : {dir_, dir_ / "programs", dir_ / "base"}) {
      if (::chown(path.c_str(), kNobody, kNobody) != 0) return false;
    }
    return ::setgroups(0, nullptr) == 0 && ::setresgid(kNobody, kNobody, kNobody) == 0 &&
           ::setresuid(kNobody, kNobody, kNobody) == 0;
  }

  Status RunJob(const fs::path& programs) const {
    cli::PocOptions options;
    options.dir = dir_ / "federation";
    options.base = dir_ / "base";
    options.programs = programs;
    cli::PocSite site;
    site.name = "north";
    site.records = dir_ / "records.jsonl";
    options.sites = {site};
    options.job_toml =
        "rounds = 1\n[lora]\nr = 2\n[train]\nlocal_steps = 1\nbatch_size = 1\nmax_length = 32\n";
    options.dtype = "f32";
    options.walls = "netns,seccomp,landlock_fs,chroot,pinned_address";
    options.timeout_seconds = 60;
    const auto result = cli::Poc(options).Run();
    if (!result) return result.error();
    return result->rounds == 1 && result->sites.at(0).ledger_verified
               ? OkStatus()
               : Internal("the job is not one round, or its ledger does not verify");
  }

  fs::path dir_;
};

TEST_F(Units, SystemdFindsNoFault) {
  TIDEGATE_NEEDS_SYSTEMD();
  const fs::path onshore = Unit("tidegate-onshore@north.service", "tidegate-onshore@.service");
  const fs::path coordinator = Unit("tidegate-coordinator.service", "tidegate-coordinator.service");
  const auto verified = RunCommand(
      {"systemd-analyze", "verify", "--man=no", onshore.native(), coordinator.native()}, 60'000);
  ASSERT_TRUE(verified.has_value()) << verified.error().ToString();
  EXPECT_EQ(verified->exit_code, 0);
  // Keys and groups of system calls that it does not know are warnings, and are ignored.
  EXPECT_THAT(verified->errors, ::testing::Not(HasSubstr("tidegate")));
}

TEST_F(Units, AreExposedNoMoreThanTheyMustBe) {
  TIDEGATE_NEEDS_SYSTEMD();
  const struct {
    const char* name;
    const char* file;
    int most;  // tenths, of 100
  } units[] = {{"tidegate-onshore@north.service", "tidegate-onshore@.service", 21},
               {"tidegate-coordinator.service", "tidegate-coordinator.service", 15}};
  for (const auto& unit : units) {
    const fs::path path = Unit(unit.name, unit.file);
    const auto judged = RunCommand({"systemd-analyze", "security", "--no-pager", "--offline=yes",
                                    fmt::format("--threshold={}", unit.most), path.native()},
                                   60'000);
    ASSERT_TRUE(judged.has_value()) << judged.error().ToString();
    EXPECT_EQ(judged->exit_code, 0) << judged->output << judged->errors;
  }
}

TEST_F(Units, AJobRunsUnderTheirFiltersWithTheSitesWallsUp) {
  TIDEGATE_NEEDS_SYSTEMD();
  const Status status =
      RunUnder(Unit("tidegate-onshore@north.service", "tidegate-onshore@.service"),
               Unit("tidegate-coordinator.service", "tidegate-coordinator.service"));
  if (status.message().find("could not be used") != std::string::npos ||
      status.message().find("the policy demands walls") != std::string::npos) {
    GTEST_SKIP() << "this machine cannot raise the walls of a site: " << status.ToString();
  }
  EXPECT_TRUE(status.ok()) << status.ToString();
}

// The control: a filter that is the one of systemd 252 without our additions does bind.
TEST_F(Units, WithoutTheirAdditionsASiteDoesNotStart) {
  TIDEGATE_NEEDS_SYSTEMD();
  const Status status =
      RunUnder(Unit("tidegate-onshore@north.service", "tidegate-onshore@.service",
                    " seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self"),
               Unit("tidegate-coordinator.service", "tidegate-coordinator.service"));
  EXPECT_EQ(status.code(), Code::kPermissionDenied) << status.ToString();
  EXPECT_THAT(status.message(), ::testing::AnyOf(HasSubstr("landlock"), HasSubstr("seccomp")));
}

}  // namespace
}  // namespace tidegate
