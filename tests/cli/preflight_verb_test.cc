// preflight on folders as the verbs make them, and on what is wrong with them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/subprocess.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string kTidegate = TIDEGATE_BIN_DIR "/tidegate";
const std::string kTinyBase = TIDEGATE_SOURCE_DIR "/tests/golden/tiny_llama";

class Preflight : public testing::Test {
 protected:
  Preflight() {
    std::string name = (fs::temp_directory_path() / "tg_preflight_XXXXXX").native();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
    Must({"coordinator", "init", "--dir", coordinator(), "--name", "test", "--address",
          "tcp://127.0.0.1:59997"});
    EXPECT_TRUE(WriteFileDurably(dir_ / "records.jsonl", AsBytes("{\"text\":\"a\"}\n")).ok());
    const json request = Must({"site", "request", "--name", "north", "--dir", site()});
    const json approval =
        Must({"site", "approve", request["request"].get<std::string>(), "--dir", coordinator()});
    Must({"site", "accept", approval["approval"].get<std::string>(), "--dir", site(), "--base",
          kTinyBase, "--records", (dir_ / "records.jsonl").native(), "--allow_job", "any",
          "--waiver", "made-up records"});
  }
  ~Preflight() override { fs::remove_all(dir_); }

  std::string site() const { return (dir_ / "north").native(); }
  std::string coordinator() const { return (dir_ / "coordinator").native(); }
  json Must(std::vector<std::string> words) {
    words.insert(words.begin(), kTidegate);
    words.insert(words.end(), {"--format", "json"});
    const auto result = RunCommand(words, 60'000);
    EXPECT_TRUE(result && result->exit_code == 0) << (result ? result->errors : "");
    return json::parse(result ? result->output : "{}", nullptr, false);
  }
  // The state of each check, by its name.
  std::map<std::string, std::string> Look(const std::string& dir, bool ready) {
    const auto result =
        RunCommand({kTidegate, "preflight", "--dir", dir, "--format", "json"}, 60'000);
    EXPECT_TRUE(result.has_value());
    EXPECT_EQ(result->exit_code, ready ? 0 : static_cast<int>(Code::kFailedPrecondition))
        << result->output << result->errors;
    std::map<std::string, std::string> states;
    const json report = json::parse(result->output, nullptr, false);
    EXPECT_TRUE(report.is_object()) << result->output;
    if (!report.is_object()) return states;
    EXPECT_EQ(report["ready"], ready);
    for (const json& check : report["checks"]) {
      states[check["check"]] = check["state"];
      EXPECT_EQ(check.contains("remedy"), check["state"] == "failed") << check.dump();
    }
    return states;
  }
  fs::path dir_;
};

TEST_F(Preflight, ACoordinatorsFolderAsItIsMadeIsReady) {
  const auto states = Look(coordinator(), true);
  for (const char* name : {"coordinator.toml", "key sign.key", "key link.key", "listen", "disk"}) {
    EXPECT_EQ(states.at(name), "ok") << name;
  }
  fs::remove(fs::path(coordinator()) / "keys" / "sign.key");
  EXPECT_EQ(Look(coordinator(), false).at("key sign.key"), "failed");
}

// Nobody listens at the coordinator's address: that alone is missing.
TEST_F(Preflight, ASitesFolderIsJudgedCheckByCheck) {
  auto states = Look(site(), false);
  EXPECT_EQ(states.at("coordinator"), "failed");
  for (const char* name :
       {"site.toml", "key gate.key", "key link.key", "policy", "base", "records"}) {
    EXPECT_EQ(states.at(name), "ok") << name;
  }
  EXPECT_EQ(states.count("walls of trainer"), 1u);
  const fs::path policy = fs::path(site()) / "policy.toml";
  std::string text = *ReadTextFile(policy, 1 << 20);
  const size_t at = text.find("base_hashes = [\"") + 16;
  text[at] = text[at] == '0' ? '1' : '0';
  ASSERT_TRUE(WriteFileDurably(policy, AsBytes(text)).ok());
  fs::remove(dir_ / "records.jsonl");
  states = Look(site(), false);
  EXPECT_EQ(states.at("base"), "failed") << "policy names another";
  EXPECT_EQ(states.at("records"), "failed");
  EXPECT_EQ(states.at("policy"), "ok");
}

TEST_F(Preflight, AFolderThatIsNeitherIsNamed) {
  const auto result = RunCommand({kTidegate, "preflight", "--dir", dir_.native()}, 60'000);
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->exit_code, static_cast<int>(Code::kNotFound));
  EXPECT_NE(result->errors.find("neither site.toml nor coordinator.toml"), std::string::npos);
}

}  // namespace
}  // namespace tidegate::cli
