// approver init, hold, review, release and refuse, as the site's people run them.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/file.h"
#include "crypto/document.h"
#include "gate/approval.h"
#include "gate/policy.h"
#include "run_program.h"
#include "tests/gate/gate_samples.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class ApprovalVerbs : public testing::Test {
 protected:
  ApprovalVerbs() {
    fs::remove_all(dir_);
    fs::create_directories(dir_ / "gate" / "held");
    fs::create_directories(dir_ / "gate" / "approvals");
  }
  ~ApprovalVerbs() override { fs::remove_all(dir_); }
  static RunResult Run(std::vector<std::string> words) {
    words.insert(words.begin(), Program("tidegate").native());
    return RunProgram(words);
  }
  // As the gate writes it.
  json Held() const {
    return {{"federation", ToHex(gate::Federation())},
            {"job", ToHex(key_.job)},
            {"job_name", "triage"},
            {"round", 3},
            {"phase", 0},
            {"site", "north"},
            {"plaintext_sha256", ToHex(plaintext_)},
            {"held_since", "2026-11-26T10:00:00Z"},
            {"approvals_needed", 1},
            {"approvers", {"alice", "bob"}},
            {"sealed_bytes", 65552},
            {"values", 600},
            {"capacity_bits", 4876.5},
            {"l2_norm", 1.5},
            {"norm_clip", 10.0},
            {"weight", 1},
            {"train_loss", 2.345},
            {"heldout_loss", 0.0},
            {"histogram",
             {{"zero", 100}, {"sizes", {{{"from", 0.25}, {"below", 0.5}, {"values", 500}}}}}},
            {"tensors",
             {{{"name", "layer.0.lora_A"},
               {"rows", 4},
               {"cols", 100},
               {"l2_norm", 1.5},
               {"largest", 0.3}}}}};
  }
  void WriteHeld(const json& held) const {
    ASSERT_TRUE(WriteFileDurably(dir_ / "gate/held/x-3-0.json", AsBytes(held.dump())).ok());
  }

  const fs::path dir_ = fs::temp_directory_path() / fmt::format("tidegate_approval_{}", ::getpid());
  const protocols::UpdateKey key_{gate::IdOf(gate::SampleJob()), 3, 0, "north"};
  const protocols::Hash32 plaintext_ = crypto::Sha256::Of(Bytes{1, 2, 3});
};

TEST_F(ApprovalVerbs, AReleaseIsWhatTheGateCounts) {
  const std::string key = (dir_ / "alice.key").native();
  const RunResult made = Run({"approver", "init", "--out", key, "--format", "json"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const std::string text = json::parse(made.out)["key"];
  const auto policy = gate::ParsePolicy(
      gate::SamplePolicyText() +
          fmt::format("[approval]\nhold = \"always\"\napprovers = {{ alice = \"{}\" }}\n", text),
      "policy.toml");
  ASSERT_TRUE(policy.has_value()) << policy.error().ToString();
  WriteHeld(Held());

  const RunResult listed = Run({"hold", "--dir", dir_.native()});
  EXPECT_NE(listed.out.find("x-3-0  triage round 3  65552 bytes"), std::string::npos) << listed.out;
  const RunResult review = Run({"review", "x-3-0", "--dir", dir_.native()});
  for (const char* shown : {"L2 norm    1.5 (policy allows 10)", "capacity   4876 bits at most",
                            "0.25 to 0.5        500 #################################",
                            "4 x 100  L2 1.5  largest 0.3  layer.0.lora_A"}) {
    EXPECT_NE(review.out.find(shown), std::string::npos) << review.out;
  }
  const RunResult released = Run({"release", "x-3-0", "--dir", dir_.native(), "--key", key,
                                  "--approver", "alice", "--reason", "looked at"});
  ASSERT_EQ(released.exit_code, 0) << released.err;
  const auto document = crypto::DecodeArmored(
      "EXPORT APPROVAL", *ReadTextFile(dir_ / "gate/approvals/x-3-0-alice.approval", 1 << 16),
      "the approval");
  ASSERT_TRUE(document.has_value());
  const std::vector<protocols::Signed> documents = {*document};
  const auto standing =
      gate::StandingOf(*policy, key_, plaintext_, documents, {}, SystemClock().UnixMillis());
  EXPECT_EQ(standing.releases.size(), 1u);

  const RunResult refused = Run({"refuse", "x-3-0", "--dir", dir_.native(), "--key", key,
                                 "--approver", "alice", "--reason", "too large"});
  EXPECT_EQ(refused.exit_code, 0) << refused.err;
}

TEST_F(ApprovalVerbs, MistakesAreNamed) {
  WriteHeld(Held());
  const std::string key = (dir_ / "alice.key").native();
  ASSERT_EQ(Run({"approver", "init", "--out", key}).exit_code, 0);
  const auto release = [&](const std::string& name, const std::string& approver,
                           const std::string& file) {
    return Run({"release", name, "--dir", dir_.native(), "--key", file, "--approver", approver});
  };
  const struct {
    RunResult run;
    int code;
    const char* why;
  } cases[] = {
      {release("y-1-0", "alice", key), 2, "tidegate hold"},
      {release("../held/x-3-0", "alice", key), 1, "no name of a held update"},
      {release("x-3-0", "carol", key), 2, "names no approver carol"},
      {release("x-3-0", "alice", key + "x"), 2, "alice.keyx"},
      {Run({"approver", "init", "--out", key}), 3, "alice.key"},
      {Run({"hold", "--dir", (dir_ / "nothing").native()}), 2, "a site's folder"},
      {Run({"refuse", "x-3-0", "--dir", dir_.native(), "--key", key, "--approver", "alice"}), 64,
       "--reason"}};
  for (const auto& c : cases) {
    EXPECT_EQ(c.run.exit_code, c.code) << c.run.err;
    EXPECT_NE(c.run.err.find(c.why), std::string::npos) << c.run.err;
  }
  json changed = Held();
  changed["round"] = "three";
  WriteHeld(changed);
  const RunResult bad = Run({"review", "x-3-0", "--dir", dir_.native()});
  EXPECT_EQ(bad.exit_code, static_cast<int>(Code::kDataLoss)) << bad.err;
  EXPECT_NE(bad.err.find("not as a gate writes it"), std::string::npos) << bad.err;
}

}  // namespace
}  // namespace tidegate::cli
