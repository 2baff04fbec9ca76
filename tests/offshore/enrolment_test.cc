// Enrolment and the operator's verbs as people run them: the programs, files and exit codes.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/file.h"
#include "base/subprocess.h"
#include "nlohmann/json.hpp"

namespace tidegate::offshore {
namespace {

namespace fs = std::filesystem;

class EnrolmentTest : public ::testing::Test {
 protected:
  EnrolmentTest() {
    root_ =
        fs::path(::testing::TempDir()) /
        ("enrol_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  ~EnrolmentTest() override { fs::remove_all(root_); }

  CommandResult Run(std::vector<std::string> words) {
    words.insert(words.begin(), (fs::path(TIDEGATE_BIN_DIR) / "tidegate").native());
    auto result = RunCommand(words, 30'000);
    EXPECT_TRUE(result.has_value()) << result.error().ToString();
    return result.value_or(CommandResult{});
  }
  nlohmann::json Json(std::vector<std::string> words) {
    words.insert(words.end(), {"--format", "json"});
    const CommandResult result = Run(words);
    EXPECT_EQ(result.exit_code, 0) << result.errors;
    return nlohmann::json::parse(result.output, nullptr, false);
  }
  std::string Path(const char* name) const { return (root_ / name).native(); }
  nlohmann::json Init() {
    return Json({"coordinator", "init", "--dir", Path("coord"), "--name", "demo", "--address",
                 "tcp://127.0.0.1:7443"});
  }
  fs::path root_;
};

TEST_F(EnrolmentTest, ASiteIsEnrolledByTwoFilesAndTheFingerprintsAgree) {
  const nlohmann::json federation = Init();
  const nlohmann::json request =
      Json({"site", "request", "--name", "north", "--dir", Path("north")});
  struct stat st {};
  ASSERT_EQ(::stat((root_ / "north/keys/gate.key").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  const nlohmann::json approved =
      Json({"site", "approve", request["request"], "--dir", Path("coord")});
  EXPECT_EQ(approved["fingerprint"], request["fingerprint"]);
  const fs::path base = fs::path(TIDEGATE_SOURCE_DIR) / "tests/golden/tiny_llama";
  const nlohmann::json accepted =
      Json({"site", "accept", approved["approval"], "--dir", Path("north"), "--base", base.native(),
            "--records", Path("r.jsonl"), "--allow_job", "triage", "--waiver", "a \"test\""});
  EXPECT_EQ(accepted["fingerprint"], federation["fingerprint"]);
  EXPECT_EQ(accepted["written"].size(), 2u);
  const std::string site = ReadTextFile(root_ / "north/site.toml", 1 << 20).value();
  EXPECT_NE(site.find("coordinator = \"tcp://127.0.0.1:7443\"\n"), std::string::npos);
  EXPECT_NE(site.find("# heldout"), std::string::npos);
  const std::string policy = ReadTextFile(root_ / "north/policy.toml", 1 << 20).value();
  EXPECT_NE(policy.find(federation["key"].get<std::string>()), std::string::npos);
  EXPECT_NE(policy.find("waiver = \"a \\\"test\\\"\""), std::string::npos);
  // Again, from the start: the same keys, the same enrolment, no file replaced.
  EXPECT_EQ(Json({"site", "request", "--name", "north", "--dir", Path("north")})["fingerprint"],
            request["fingerprint"]);
  Json({"site", "approve", request["request"], "--dir", Path("coord")});
  EXPECT_TRUE(
      Json({"site", "accept", approved["approval"], "--dir", Path("north")})["written"].empty());
  EXPECT_EQ(Json({"site", "list", "--dir", Path("coord")}).size(), 1u);
  Json({"site", "revoke", "north", "--dir", Path("coord")});
  EXPECT_TRUE(Json({"site", "list", "--dir", Path("coord")}).empty());
}

TEST_F(EnrolmentTest, WhatIsNotMeantForThisSiteIsRefused) {
  Init();
  const nlohmann::json north = Json({"site", "request", "--name", "north", "--dir", Path("north")});
  Json({"site", "request", "--name", "south", "--dir", Path("south")});
  const nlohmann::json approved =
      Json({"site", "approve", north["request"], "--dir", Path("coord")});
  EXPECT_EQ(Run({"site", "accept", approved["approval"], "--dir", Path("south")}).exit_code, 4)
      << "another site's keys";
  EXPECT_FALSE(fs::exists(root_ / "south/approval"));
  EXPECT_EQ(Run({"site", "accept", north["request"], "--dir", Path("north")}).exit_code, 1)
      << "a request is no approval";
  std::string text = ReadTextFile(approved["approval"].get<std::string>(), 1 << 20).value();
  const size_t middle = text.size() / 2;
  text[middle] = text[middle] == 'A' ? 'B' : 'A';
  ASSERT_TRUE(WriteFileDurably(root_ / "forged", AsBytes(text)).ok());
  EXPECT_NE(Run({"site", "accept", Path("forged"), "--dir", Path("north")}).exit_code, 0);
  EXPECT_EQ(Run({"site", "request", "--name", "No/rth", "--dir", Path("x")}).exit_code, 1);
  EXPECT_EQ(Run({"site", "list", "--dir", Path("north")}).exit_code, 2) << "no coordinator there";
  EXPECT_EQ(Run({"coordinator", "init", "--dir", Path("coord"), "--name", "demo", "--address",
                 "tcp://127.0.0.1:7443"})
                .exit_code,
            3);
}

TEST_F(EnrolmentTest, JobsAreSubmittedShownStoppedAndExportedWhileNoCoordinatorRuns) {
  Init();
  const nlohmann::json north = Json({"site", "request", "--name", "north", "--dir", Path("north")});
  const fs::path base = fs::path(TIDEGATE_SOURCE_DIR) / "tests/golden/tiny_llama";
  const std::string job = fmt::format("base = \"{}\"\nrounds = 2\n[lora]\nr = 2\n", base.native());
  ASSERT_TRUE(WriteFileDurably(root_ / "triage.toml", AsBytes(job)).ok());
  const std::vector<std::string> submit = {"job", "submit", Path("triage.toml"), "--dir",
                                           Path("coord")};
  const CommandResult early = Run(submit);
  EXPECT_EQ(early.exit_code, 4) << early.output;
  EXPECT_NE(early.errors.find("no site is enrolled"), std::string::npos);
  Json({"site", "approve", north["request"], "--dir", Path("coord")});
  const nlohmann::json submitted = Json(submit);
  EXPECT_EQ(submitted["name"], "triage");
  EXPECT_EQ(submitted["state"], "collecting");
  EXPECT_EQ(Json({"status", "--dir", Path("coord")})["jobs"][0]["id"], submitted["id"]);
  EXPECT_EQ(
      Json({"job", "export", "triage", "--dir", Path("coord"), "--out", Path("peft")})["version"],
      0);
  EXPECT_TRUE(fs::exists(root_ / "peft/adapter_model.safetensors"));
  EXPECT_EQ(Json({"job", "stop", "triage", "--dir", Path("coord")})["state"], "stopped");
  EXPECT_EQ(Json({"job", "list", "--dir", Path("coord")}).size(), 1u);
  EXPECT_EQ(Run({"job", "show", "nothing", "--dir", Path("coord")}).exit_code, 2);
}

}  // namespace
}  // namespace tidegate::offshore
