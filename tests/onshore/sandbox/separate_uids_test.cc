// A whole site started as root with an own uid for trainer, gate and link: a real job runs to its
// end, and file modes alone keep the three apart.
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "base/subprocess.h"

namespace tidegate::onshore {
namespace {

namespace fs = std::filesystem;

constexpr uid_t kTrainer = 61001, kGate = 61002, kLink = 61003;

class SeparateUidsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) {
      GTEST_SKIP() << "a site with separate_uids: needs a start as root, errno 1";
    }
    std::string name = (fs::temp_directory_path() / "tidegate-uids-XXXXXX").native();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    fs::permissions(root_, fs::perms(0711));
    // What the trainer's uid must be able to read: the base, which is nobody's secret, and records
    // that are its own.
    fs::create_directory(root_ / "base");
    const fs::path tiny = fs::path(TIDEGATE_SOURCE_DIR) / "tests/golden/tiny_llama";
    for (const char* file :
         {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}) {
      fs::copy_file(tiny / file, root_ / "base" / file);
      fs::permissions(root_ / "base" / file, fs::perms(0644));
    }
    std::string records;
    for (int i = 0; i < 8; ++i) {
      records += fmt::format("{{\"prompt\": \"code {} is in \", \"completion\": \"{}\"}}\n", i, i);
    }
    ASSERT_TRUE(WriteFileDurably(root_ / "records.jsonl", AsBytes(records), 0600).ok());
    ASSERT_EQ(::chown((root_ / "records.jsonl").c_str(), kTrainer, kTrainer), 0);
    ASSERT_TRUE(WriteFileDurably(root_ / "job.toml",
                                 AsBytes("rounds = 1\ndeadline_seconds = 600\n[lora]\nr = 2\n"
                                         "[train]\nlocal_steps = 1\nbatch_size = 2\n"
                                         "max_length = 64\n"))
                    .ok());
  }
  void TearDown() override {
    std::error_code ignored;
    if (!root_.empty()) fs::remove_all(root_, ignored);
  }

  Result<CommandResult> RunSite() const {
    const std::string records = (root_ / "records.jsonl").native();
    return RunCommand(
        {(fs::path(TIDEGATE_BIN_DIR) / "tidegate").native(), "poc", "--dir",
         (root_ / "federation").native(), "--base", (root_ / "base").native(), "--site",
         "north=" + records + ":" + records, "--job", (root_ / "job.toml").native(), "--dtype",
         "f32", "--separate-uids", fmt::format("[{}, {}, {}]", kTrainer, kGate, kLink), "--walls",
         "seccomp,landlock_fs,pinned_address,separate_uids", "--timeout", "60"},
        100'000);
  }

  // errno of reading the file, or of listing the folder, under that uid alone.
  static int Reads(uid_t uid, const fs::path& path) {
    const pid_t child = ::fork();
    if (child == 0) {
      if (::setgroups(0, nullptr) != 0 || ::setresgid(uid, uid, uid) != 0 ||
          ::setresuid(uid, uid, uid) != 0) {
        ::_exit(255);
      }
      ::_exit(::open(path.c_str(), O_RDONLY | O_CLOEXEC) < 0 ? errno : 0);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  static int Count(const std::string& text, const std::string& part) {
    int count = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
      ++count;
    return count;
  }

  fs::path root_;
};

TEST_F(SeparateUidsTest, AJobRunsToItsEndAndNoProcessReadsWhatIsAnothers) {
  const auto run = RunSite();
  ASSERT_TRUE(run) << run.error().message();
  if (run->errors.find("the policy demands walls that") != std::string::npos) {
    GTEST_SKIP() << "a site does not start on this machine: " << run->errors;
  }
  ASSERT_EQ(run->exit_code, 0) << run->errors;
  EXPECT_NE(run->output.find("ledger verified"), std::string::npos) << run->output;

  const fs::path site = root_ / "federation" / "north";
  // The ledger has each one's statement: walls and tries.
  const auto ledger = ReadTextFile(site / "gate" / "ledger", 1u << 30);
  ASSERT_TRUE(ledger) << ledger.error().message();
  EXPECT_EQ(Count(*ledger, "\nwall separate_uids up 0 -\n"), 3);
  for (const char* refused : {"\ntry read_records 0 ", "\ntry read_gate_key 0 "}) {
    EXPECT_EQ(Count(*ledger, refused), 2) << refused;
  }
  EXPECT_EQ(Count(*ledger, " OPEN\n"), 0);
  const struct {
    fs::path path;
    uid_t reader;  // 0: none of the three
  } rows[] = {{root_ / "records.jsonl", kTrainer},
              {site / "trainer", kTrainer},
              {site / "gate", kGate},
              {site / "gate" / "ledger", kGate},
              {site / "keys" / "gate.key", 0},
              {site / "keys" / "link.key", 0},
              {site / "policy.toml", 0}};
  for (const auto& row : rows) {
    ASSERT_TRUE(fs::exists(row.path)) << row.path;
    for (const uid_t uid : {kTrainer, kGate, kLink}) {
      EXPECT_EQ(Reads(uid, row.path), uid == row.reader ? 0 : EACCES) << row.path << " by " << uid;
    }
  }
}

}  // namespace
}  // namespace tidegate::onshore
