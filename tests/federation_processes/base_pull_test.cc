// A base on its way from the coordinator to a site, with real processes over a line: cuts, kills of
// everybody in between, a patch, a revocation.
#include <gtest/gtest.h>
#include <poll.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "../bases/llama_base.h"
#include "../transport/link_emulator.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "crypto/base_hash.h"
#include "federation.h"

namespace tidegate::federation_processes {
namespace {

namespace fs = std::filesystem;

constexpr int kToolMillis = 120'000 * kSlow;

// Replaces the first `before` of a file.
Status ReplaceIn(const fs::path& file, const std::string& before, const std::string& after) {
  TG_ASSIGN_OR_RETURN(std::string text, ReadTextFile(file, 1 << 20));
  const size_t at = text.find(before);
  if (at == std::string::npos) return Internal("no {} in {}", before, text);
  text.replace(at, before.size(), after);
  return WriteFileDurably(file, AsBytes(text), 0600);
}

class BasePull : public testing::Test {
 protected:
  cli::Poc& poc() { return federation_.poc(); }
  fs::path base(const std::string& name) const { return federation_.dir() / name; }

  CommandResult Tool(std::vector<std::string> words) {
    words.insert(words.begin(), (fs::path(TIDEGATE_BIN_DIR) / "tidegate").native());
    words.insert(words.end(), {"--format", "json"});
    const auto result = RunCommand(words, kToolMillis);
    EXPECT_TRUE(result.has_value()) << result.error().ToString();
    return result.value_or(CommandResult{-1, "", ""});
  }
  void Publish(const std::string& name) {
    const auto result =
        Tool({"base", "publish", base(name).native(), "--dir", poc().coordinator_dir().native(),
              "--name", "tiny", "--licence", "Apache-2.0"});
    ASSERT_EQ(result.exit_code, 0) << result.errors;
  }
  std::vector<std::string> PullWords(const std::string& what) {
    return {(fs::path(TIDEGATE_BIN_DIR) / "tidegate").native(),
            "base",
            "pull",
            what,
            "--dir",
            poc().site_dir(0).native(),
            "--format",
            "json"};
  }
  // Two bases, pinned by the site's policy, and the site's line of 24 Mbit/s. Nothing runs.
  Status SetUpFederation() {
    TG_RETURN_IF_ERROR(federation_.Provision());
    TG_RETURN_IF_ERROR(bases::WriteLlamaBase(base("first"), {}));
    TG_RETURN_IF_ERROR(bases::WriteLlamaBase(base("second"), {.moved = 60}));
    TG_RETURN_IF_ERROR(bases::WriteLlamaBase(base("stranger"), {.layers = 1, .seed = 5}));
    TG_ASSIGN_OR_RETURN(const Digest first, crypto::BaseHash(base("first")));
    TG_ASSIGN_OR_RETURN(const Digest second, crypto::BaseHash(base("second")));
    const fs::path site = poc().site_dir(0);
    TG_RETURN_IF_ERROR(
        ReplaceIn(site / "policy.toml", "base_hashes = [",
                  fmt::format("base_hashes = [\"{}\", \"{}\", ", ToHex(first), ToHex(second))));
    TG_ASSIGN_OR_RETURN(const std::string config, ReadTextFile(site / "site.toml", 1 << 20));
    const std::string local = "tcp://127.0.0.1:";
    const size_t at = config.find(local);
    if (at == std::string::npos) return Internal("no address in {}", config);
    const int port = std::stoi(config.substr(at + local.size()));
    TG_ASSIGN_OR_RETURN(
        line_, transport::LinkEmulator::Start(port, {.bits_per_second = 24e6, .delay_millis = 5}));
    return ReplaceIn(site / "site.toml", local + std::to_string(port),
                     local + std::to_string(line_->port()));
  }
  // Runs a pull; `disturb` is called after each so many bytes that came down.
  int Pull(const std::string& what, uint64_t each, const std::function<void(int)>& disturb) {
    auto pull = ChildProcess::Start(PullWords(what), log_);
    EXPECT_TRUE(pull.has_value());
    const int64_t deadline = SystemClock().MonotonicMillis() + kToolMillis;
    int times = 0;
    uint64_t next = line_->counts().down_bytes + each;
    for (;;) {
      if (const auto code = pull->Wait(5)) return *code;
      EXPECT_TRUE(poc().RestartDead().ok());
      if (SystemClock().MonotonicMillis() > deadline) return -1;
      if (line_->counts().down_bytes < next) continue;
      disturb(times++);
      next = line_->counts().down_bytes + each;
    }
  }
  std::string PullLog() const { return ReadTextFile(log_, 1 << 20).value_or(""); }
  void ExpectInstalled(const std::string& what, const std::string& original) {
    const fs::path folder = poc().site_dir(0) / "bases" / what;
    for (const char* name : {"config.json", "model.safetensors"}) {
      const auto made = ReadFile(folder / name, 1u << 30),
                 wanted = ReadFile(base(original) / name, 1u << 30);
      ASSERT_TRUE(made.has_value()) << made.error().ToString();
      EXPECT_TRUE(*made == *wanted) << name;
    }
  }
  // Until the gate has heard of it.
  Status WaitForRevoked(const std::string& what) {
    const fs::path notice = poc().site_dir(0) / "gate" / "bases" / (what + ".revoked");
    const int64_t deadline = SystemClock().MonotonicMillis() + kToolMillis;
    std::error_code error;
    while (!fs::exists(notice, error)) {
      TG_RETURN_IF_ERROR(poc().RestartDead());
      if (SystemClock().MonotonicMillis() > deadline) return DeadlineExceeded("no revocation");
      ::poll(nullptr, 0, 20);
    }
    return OkStatus();
  }

  Federation federation_{{{.name = "north"}}, {.keys = "rounds = 1\n"}};
  std::unique_ptr<transport::LinkEmulator> line_;
  const fs::path log_ = federation_.dir() / "pull.log";
};

TEST_F(BasePull, ComesWholeThroughCutsAndKillsThenByAPatchAndNoMoreOnceRevoked) {
  TIDEGATE_RUNS(federation_, SetUpFederation());
  TIDEGATE_RUNS(federation_, poc().Start());
  Publish("first");
  // 7.6 MB; after each megabyte somebody goes, the gate once: it loses what is not yet on the disk,
  // 2 MiB at most.
  int disturbed = 0;
  const int code = Pull("tiny", 1'000'000, [&](int n) {
    ++disturbed;
    if (n == 0 || n == 4) line_->Cut();
    if (n == 1) ::kill(poc().child_pid(0, "link"), SIGKILL);
    if (n == 2) ::kill(poc().coordinator_pid(), SIGKILL);
    if (n == 3) ::kill(poc().child_pid(0, "gate"), SIGKILL);
  });
  ASSERT_EQ(code, 0) << PullLog() << federation_.Logs();
  EXPECT_GE(disturbed, 5);
  ExpectInstalled("tiny@1", "first");
  EXPECT_NE(PullLog().find("\"fetched\": \"whole\""), std::string::npos) << PullLog();
  EXPECT_LT(line_->counts().down_bytes, 14'000'000u) << "what was there is not fetched again";

  // What was fetched stays fetched, and the next version comes as a patch.
  ASSERT_EQ(Pull("tiny@1", 1u << 30, [](int) {}), 0);
  Publish("second");
  const uint64_t before = line_->counts().down_bytes;
  ASSERT_EQ(Pull("tiny@2", 700'000,
                 [&](int n) {
                   if (n == 0) line_->Cut();
                   if (n == 1) ::kill(poc().child_pid(0, "gate"), SIGKILL);
                 }),
            0)
      << PullLog() << federation_.Logs();
  ExpectInstalled("tiny@2", "second");
  ExpectInstalled("tiny@1", "first");
  EXPECT_NE(PullLog().find("\"fetched\": \"patch\""), std::string::npos) << PullLog();
  EXPECT_LT(line_->counts().down_bytes - before, 5'000'000u) << "of 7.6 MB";

  // What policy does not pin is not fetched, what was taken back neither.
  Publish("stranger");
  EXPECT_EQ(Pull("tiny@3", 1u << 30, [](int) {}), static_cast<int>(Code::kPermissionDenied));
  const auto revoked = Tool({"base", "revoke", "tiny@2", "--dir", poc().coordinator_dir().native(),
                             "--reason", "a test"});
  ASSERT_EQ(revoked.exit_code, 0) << revoked.errors;
  TIDEGATE_RUNS(federation_, WaitForRevoked("tiny@2"));
  EXPECT_EQ(Pull("tiny@2", 1u << 30, [](int) {}), static_cast<int>(Code::kFailedPrecondition));
  const auto list = Tool({"base", "list", "--dir", poc().site_dir(0).native()});
  ASSERT_EQ(list.exit_code, 0) << list.errors;
  const auto bases = nlohmann::json::parse(list.output);
  ASSERT_EQ(bases.size(), 3u);
  EXPECT_TRUE(bases[0]["installed"] == true && bases[0]["pinned"] == true);
  EXPECT_TRUE(bases[1]["revoked"] == true);
  EXPECT_TRUE(bases[2]["pinned"] == false);

  // The same from a copy of the coordinator's folder that was carried, with what it says of
  // revocations.
  ASSERT_TRUE(federation_.Stop().ok());
  fs::copy(poc().coordinator_dir() / "bases", base("carried"), fs::copy_options::recursive);
  fs::remove_all(poc().site_dir(0) / "bases");
  const auto carried = [&](const std::string& what) {
    return Tool({"base", "pull", what, "--dir", poc().site_dir(0).native(), "--from_folder",
                 base("carried").native()});
  };
  EXPECT_EQ(carried("tiny@2").exit_code, static_cast<int>(Code::kFailedPrecondition));
  const auto taken = carried("tiny@1");
  ASSERT_EQ(taken.exit_code, 0) << taken.errors;
  ExpectInstalled("tiny@1", "first");
}

}  // namespace
}  // namespace tidegate::federation_processes
