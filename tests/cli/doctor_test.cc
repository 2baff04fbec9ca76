// doctor: the machine, and each wall of each process as a site would have it here.
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "run_program.h"

namespace tidegate::cli {
namespace {

using nlohmann::json;

const std::string kTiny = TIDEGATE_SOURCE_DIR "/tests/golden/tiny_llama";

json ReportOf(const RunResult& run) {
  EXPECT_EQ(run.exit_code, 0) << run.err;
  json report = json::parse(run.out, nullptr, false);
  return report.is_object() ? report : json{{"walls", json::array()}, {"problems", json::array()}};
}

RunResult RunDoctor(std::vector<std::string> words = {}) {
  words.insert(words.end(),
               {Program("tidegate").native(), "doctor", "--base", kTiny, "--format", "json"});
  return RunProgram(words);
}

void ExpectMachine(const json& report) {
  EXPECT_GE(report["cpu"]["usable_cpus"].get<int>(), 1);
  EXPECT_NE(report["cpu"]["f32_kernels"], "none");
  // A GPU's kernels, or why there are none.
  EXPECT_EQ(report["gpu"]["kernels"] == "none", report["gpu"].contains("reason")) << report["gpu"];
  EXPECT_GT(report["available_mib"].get<double>(), 0);
  EXPECT_GE(report["idle_percent"].get<double>(), 0);
  EXPECT_LE(report["idle_percent"].get<double>(), 100);
  const json& base = report["base"];
  EXPECT_EQ(base["parameters"], 243648);
  EXPECT_EQ(base["tokens"], 1024);
  ASSERT_EQ(base["ways"].size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    const json& way = base["ways"][i];
    double sum = 0;
    for (const char* part :
         {"weights_mib", "adapter_mib", "activations_mib", "scratch_mib", "program_mib"}) {
      sum += way[part].get<double>();
    }
    EXPECT_GE(way["total_mib"].get<double>(), sum);
    // Each takes less than the one before it.
    if (i > 0) {
      EXPECT_LT(way["total_mib"], base["ways"][i - 1]["total_mib"]);
    }
  }
}

// One run for both: doctor watches the machine for a second.
TEST(Doctor, SaysWhatTheMachineHasAndTriesTheWallsOfEachRole) {
  const std::set<std::string> common = {"netns",        "seccomp",        "landlock_fs",
                                        "landlock_net", "landlock_scope", "separate_uids"};
  const std::map<std::string, std::set<std::string>> more = {
      {"trainer", {}},
      {"gate", {"chroot", "mdwe"}},
      {"link", {"chroot", "mdwe", "pinned_address"}},
      {"carrier", {"chroot", "mdwe"}}};
  const json report = ReportOf(RunDoctor());
  ExpectMachine(report);
  ASSERT_EQ(report["walls"].size(), 4u);
  for (const json& role : report["walls"]) {
    const std::string name = role["role"];
    SCOPED_TRACE(name);
    EXPECT_FALSE(role.contains("error")) << role["error"];
    ASSERT_TRUE(more.contains(name));
    std::set<std::string> expected = common, walls;
    expected.insert(more.at(name).begin(), more.at(name).end());
    for (const json& wall : role["walls"]) {
      walls.insert(wall["name"]);
      // One that does not stand comes with its reason and what would help.
      EXPECT_EQ(wall["state"] == "up", !wall.contains("reason")) << wall;
      EXPECT_EQ(wall["state"] == "up", !wall.contains("remedy")) << wall;
    }
    EXPECT_EQ(walls, expected);
    EXPECT_GE(role["tries"]["refused"].get<int>(), 80);
    EXPECT_EQ(role["tries"]["open"], json::array());
    EXPECT_TRUE(role["statement"].get<std::string>().starts_with(
        "tidegate isolation statement 1\nrole " + name + "\n"));
  }
}

TEST(Doctor, TheTextHasALineAWall) {
  const RunResult run = RunProgram({Program("tidegate").native(), "doctor"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  for (const char* line :
       {"wall       netns ", "wall       pinned_address link\n",
        "wall       seccomp        trainer, gate, link, carrier\n", "tries      gate "}) {
    EXPECT_NE(run.out.find(line), std::string::npos) << line << "\n" << run.out;
  }
}

// A machine without user namespaces and without privileges.
TEST(Doctor, NamesEachMissingWallWithItsRemedy) {
  const RunResult run = RunDoctor({"/usr/bin/unshare", "--map-root-user", "--", "sh", "-c",
                                   "echo 0 > /proc/sys/user/max_user_namespaces && "
                                   "exec setpriv --bounding-set=-all --inh-caps=-all -- \"$@\"",
                                   "sh"});
  if (run.exit_code != 0 && run.out.empty()) {
    GTEST_SKIP() << "wall netns cannot be taken away here: " << run.err;
  }
  const json report = ReportOf(run);
  std::string problems;
  for (const json& problem : report["problems"]) problems += problem.get<std::string>() + "\n";
  for (const char* part : {"the wall netns is missing for trainer, gate, link, carrier: unshare: ",
                           "raise the sysctl user.max_user_namespaces"}) {
    EXPECT_NE(problems.find(part), std::string::npos) << part << "\n" << problems;
  }
  for (const json& role : report["walls"]) {
    for (const json& wall : role["walls"]) {
      if (wall["name"] == "netns" || wall["name"] == "chroot") {
        EXPECT_EQ(wall["state"], "missing") << wall;
        EXPECT_NE(wall["remedy"].get<std::string>().find("user"), std::string::npos) << wall;
      }
      if (wall["name"] == "seccomp" || wall["name"] == "pinned_address") {
        EXPECT_EQ(wall["state"], "up") << wall;
      }
    }
  }
}

}  // namespace
}  // namespace tidegate::cli
