// The verbs of `tidegate site` that talk to a running site.
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/onshore/supervisor/api_fixture.h"

namespace tidegate::onshore {
namespace {

using nlohmann::json;

class SiteVerbs : public ApiTest {
 protected:
  CommandResult Run(std::vector<std::string> words, bool where = true) const {
    words.insert(words.begin(),
                 {(std::filesystem::path(TIDEGATE_BIN_DIR) / "tidegate").native(), "site"});
    if (where) words.insert(words.end(), {"--dir", site_.native()});
    const auto ran = RunCommand(words, 60'000);
    EXPECT_TRUE(ran) << ran.error().ToString();
    return ran.value_or(CommandResult{});
  }
  json Json(std::vector<std::string> words) const {
    words.insert(words.end(), {"--format", "json"});
    const CommandResult ran = Run(words);
    EXPECT_EQ(ran.exit_code, 0) << ran.errors;
    json parsed = json::parse(ran.output, nullptr, false);
    EXPECT_FALSE(parsed.is_discarded()) << ran.output;
    return parsed;
  }
};

TEST_F(SiteVerbs, WithoutASiteThatRunsTheySayWhatToDo) {
  const CommandResult away = Run({"status"});
  EXPECT_EQ(away.exit_code, static_cast<int>(Code::kUnavailable));
  EXPECT_NE(away.errors.find("is tidegate-onshore running"), std::string::npos) << away.errors;
  EXPECT_EQ(Run({"status"}, false).exit_code, 64);
  EXPECT_EQ(Run({"dataset", "set", "labels", "x"}).exit_code, 64);
}

TEST_F(SiteVerbs, ShowWatchAndSteerASite) {
  StartReady();
  StartTraining();
  json status = Json({"status"});
  EXPECT_EQ(status["site"], "lab-1");
  EXPECT_EQ(status["job"]["name"], "summer");
  EXPECT_EQ(status["round"], nullptr);
  EXPECT_EQ(status["processes"][2]["state"], "running");
  EXPECT_EQ(status["processes"][0]["walls"], "netns landlock_fs");
  EXPECT_EQ(status["holds"], json::array());
  EXPECT_NE(Run({"status"}).output.find("job          summer (9 rounds)"), std::string::npos);

  const CommandResult watched = Run({"watch", "--count", "2"});
  EXPECT_EQ(watched.exit_code, 0) << watched.errors;
  EXPECT_NE(watched.output.find(" supervisor: process_started name=gate"), std::string::npos)
      << watched.output;
  const json event = Json({"watch", "--count", "1", "--after", "1", "--epoch",
                           std::to_string(status["epoch"].get<uint64_t>())});
  EXPECT_EQ(event["sequence"], 2);

  EXPECT_EQ(Run({"pause"}).output, "paused\n");
  ASSERT_TRUE(TraceGets("trainer", "stop")) << Log();
  EXPECT_EQ(Json({"status"})["holds"], json::array({"paused"}));
  EXPECT_NE(Run({"status"}).output.find("training does not run: paused"), std::string::npos);
  Json({"resume"});
  ASSERT_TRUE(TraceGets("trainer", "go", 2)) << Log();
  Json({"stop"});
  ASSERT_TRUE(TraceGets("trainer", "stop", 2)) << Log();
  Json({"resume"});
  ASSERT_TRUE(TraceGets("trainer", "go", 3)) << Log();

  Write("other.jsonl", "{\"text\": \"a\"}\n");
  Json({"dataset", "set", "records", (site_ / "other.jsonl").native()});
  Json({"dataset", "set", "heldout", (site_ / "other.jsonl").native(), "--fd"});
  const json list = Json({"dataset", "list"});
  EXPECT_EQ(list[0]["source"], "path");
  EXPECT_EQ(list[0]["path"], (site_ / "other.jsonl").native());
  EXPECT_EQ(list[1]["source"], "descriptor");
  EXPECT_EQ(list[1]["bytes"], 14);
  Json({"dataset", "reset", "heldout"});
  EXPECT_EQ(Json({"dataset", "list"})[1]["source"], "site");
  EXPECT_EQ(Run({"dataset", "set", "records", "/nonexistent"}).exit_code,
            static_cast<int>(Code::kNotFound));
}

TEST_F(SiteVerbs, RunALocalJobWithItsOutputAndExitCodeAndEndTheSite) {
  StartReady();
  Write("mode-trainer", "local exit 5");
  Write("flags.toml", "base = \"b\"\n");
  Write("data.jsonl", "a record\n");
  const CommandResult ran = Run({"run", "eval", "--flags", (site_ / "flags.toml").native(),
                                 "--data", (site_ / "data.jsonl").native()});
  EXPECT_EQ(ran.exit_code, 5);
  EXPECT_EQ(ran.output, "3: base = \"b\"\n\n4: a record\n\n");
  EXPECT_EQ(ran.errors, "words\n");
  EXPECT_EQ(Run({"shutdown"}).exit_code, 0);
  EXPECT_EQ(WaitForEnd(), 0) << Log();
}

}  // namespace
}  // namespace tidegate::onshore
