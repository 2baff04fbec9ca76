// `tidegate finetune --config FILE`: a run described by a file, and files that are refused.
#include <cmath>
#include <csignal>

#include "verb_fixture.h"

namespace tidegate::cli {
namespace {

using nlohmann::json;

class ConfigFile : public VerbFixture {
 protected:
  static RunResult Finetune(const std::string& file, const std::vector<std::string>& more = {}) {
    return Tidegate(With({"finetune", "--config", file}, more));
  }
  json StartLine(const std::string& out) const {
    const std::string text = Read(root_ / out / "metrics.jsonl");
    return Parsed(text.substr(0, text.find('\n')));
  }
};

TEST_F(ConfigFile, DescribesARunAndTheCommandLineWins) {
  Records("job/train.jsonl", 8);
  std::filesystem::create_directory_symlink(kTinyBase, root_ / "job/base");
  const std::string file = Write("job/job.toml",
                                 "base = 'base'            # of this folder\n"
                                 "data = 'train.jsonl'\n"
                                 "output_dir = 'out'\n"
                                 "dtype = 'f32'\n"
                                 "threads = 1\n"
                                 "lora_r = 4\n"
                                 "lora_alpha = 12.5\n"
                                 "lora_target_modules = ['q_proj', 'down_proj']\n"
                                 "max-length = 64\n"
                                 "packing = false\n"
                                 "learning_rate = 5e-3\n"
                                 "weight_decay = 1\n"
                                 "max_steps = 3\n"
                                 "seed = 7\n"
                                 "load_best_model_at_end = true\n"
                                 "eval_split = 0.25\n"
                                 "eval_steps = 1\n");
  const RunResult run = Finetune(file, {"--max_steps", "2", "--lora-r", "2",
                                        "--load-best-model-at-end", "false", "--packing"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_FALSE(std::filesystem::exists("out")) << "paths are of the file's folder";
  const json start = StartLine("job/out")["run"];
  EXPECT_EQ(start["lora_r"], "2");
  EXPECT_EQ(start["total steps"], "2");
  EXPECT_EQ(start["lora_alpha"], "12.5");
  EXPECT_EQ(start["lora_target_modules"], "q_proj,down_proj");
  EXPECT_EQ(start["max_length"], "64");
  EXPECT_EQ(start["packing"], "true") << "a switch by itself is on";
  EXPECT_EQ(start["learning_rate"], "0.005");
  EXPECT_EQ(start["weight_decay"], "1");
  EXPECT_EQ(start["seed"], "7");

  const RunResult again = Finetune(file, {"--max_steps", "2", "--resume"});
  EXPECT_EQ(again.exit_code, 4);
  EXPECT_NE(again.err.find("lora_r was 2 and is 4; packing was true and is false"),
            std::string::npos)
      << again.err;
}

// A whole run from a file alone: it ends early, is stopped in between by Ctrl-C, goes on, and
// leaves event files.
TEST_F(ConfigFile, DescribesARunThatEndsEarlyAndReportsToTensorBoard) {
  Records("train.jsonl", 40);
  const std::string settings = "base = '" + kTinyBase.native() +
                               "'\n"
                               "data = 'train.jsonl'\n"
                               "eval_split = 0.25\n"
                               "eval_steps = 2\n"
                               "early_stopping_patience = 2\n"
                               "early_stopping_threshold = 0.02\n"
                               "load_best_model_at_end = true\n"
                               "report_to = 'tensorboard'\n"
                               "layers_to_transform = [0, 2]\n"
                               "use_rslora = true\n"
                               "rank_pattern = { 'v_proj' = 2, '.*_proj' = 4 }\n"
                               "dtype = 'f32'\n"
                               "threads = 1\n"
                               "lora_r = 4\n"
                               "max_length = 64\n"
                               "max_steps = 400\n"
                               "logging_steps = 1\n"
                               "learning_rate = 3e-2\n";
  const std::string whole = Write("whole.toml", settings + "output_dir = 'whole'\n");
  const RunResult run = Finetune(whole, {"--format", "json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const json report = Parsed(run.out);
  EXPECT_EQ(report["ended_early"], true);
  EXPECT_LT(report["steps"], 400);
  EXPECT_NEAR(report["eval_perplexity"].get<double>(), std::exp(report["eval_nll"].get<double>()),
              1e-9);
  EXPECT_NE(run.err.find("stopped early at step "), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("perplexity"), std::string::npos) << run.err;
  EXPECT_TRUE(std::filesystem::exists(root_ / "whole/runs/events.out.tfevents.00000000.tidegate"));
  const json adapter = JsonOf({"adapter", "inspect", At("whole"), "--base", kTinyBase.native()});
  EXPECT_EQ(adapter["layers_to_transform"], (json{0, 2}));
  EXPECT_EQ(adapter["tensors"], 28);
  EXPECT_EQ(adapter["scale"], 16);  // 32 / sqrt(4)
  EXPECT_EQ(adapter["rank_pattern"], (json{{"v_proj", 2}, {".*_proj", 4}}));

  const std::string cut = Write("cut.toml", settings + "output_dir = 'cut'\n");
  RunOptions stop;
  stop.signal_when = [](const std::string& err) {
    return err.find("step 3/400") != std::string::npos ? SIGINT : 0;
  };
  ASSERT_EQ(Tidegate({"finetune", "--config", cut}, stop).exit_code, 11);
  const RunResult resumed = Finetune(cut, {"--resume", "--format", "json"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(Parsed(resumed.out)["steps"], report["steps"]);
  EXPECT_EQ(Parsed(resumed.out)["eval_nll"], report["eval_nll"]);
  EXPECT_TRUE(Read(root_ / "cut/adapter_model.safetensors") ==
              Read(root_ / "whole/adapter_model.safetensors"));
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(root_ / "cut/runs")) {
    files += entry.path().filename().native().starts_with("events.out.tfevents.");
  }
  EXPECT_EQ(files, 2u) << "one a start";
}

TEST_F(ConfigFile, WhatIsWrongIsNamedByLineBeforeAnythingIsOpened) {
  const std::string whole = "base = '" + kTinyBase.native() + "'\ndata = 'd.jsonl'\n";
  Records("d.jsonl", 2);
  const struct {
    std::string text;
    int exit_code;
    const char* told;
  } rows[] = {
      {whole + "output_dir = 'out'\nlerning_rate = 1\n", 1,
       "job.toml line 4: lerning_rate is no flag of finetune"},
      {"max_steps = 'ten'\n", 1, "job.toml line 1: max_steps must be a whole number"},
      {"max_steps = 10.0\n", 1, "line 1: max_steps must be a whole number"},
      {"seed = -1\n", 1, "line 1: seed must be a whole number, 0 or more"},
      {"threads = 3000000000\n", 1,
       "line 1: threads must be a whole number that the flag can hold"},
      {"learning_rate = true\n", 1, "line 1: learning_rate must be a number"},
      {"\npacking = 1\n", 1, "line 2: packing must be true or false"},
      {"data = ['a', 'b']\n", 1, "line 1: data must be a text"},
      {"lora_target_modules = [['q_proj']]\n", 1, "must be a text or a list"},
      {"[lora]\nr = 4\n", 1, "line 1: lora is no flag"},
      {"lora_r = 4\nlora-r = 8\n", 1, "line 2: lora-r is the flag of line 1 again"},
      {"lora_r = 4\nlora_r = 8\n", 1, "line 2: "},
      {"lora_r = \n", 1, "job.toml line 1: "},
      {"walls = 'none'\n", 1, "line 1: walls can be given on the command line alone"},
      {"config = 'other.toml'\n", 1, "line 1: config can be given on the command line alone"},
      {"rank_pattern = { 'q_proj' = '8' }\n", 1,
       "line 1: rank_pattern must be a table of numbers, its patterns in quotes"},
      {"rank_pattern.layers.0 = 8\n", 1, "line 1: rank_pattern must be a table of numbers"},
      {whole + "output_dir = 'out'\n[rank_pattern]\n'q_proj' = 0\n", 1,
       "rank_pattern has rank 0 for \"q_proj\": choose 1 to 4096"},
      {whole + "output_dir = 'out'\nalpha_pattern = { '(q' = 8 }\n", 1,
       "--alpha_pattern: the module pattern \"(q\" is no regular expression"},
      {"help = true\n", 1, "line 1: help is no flag"},
      {whole, 64, "--output_dir is required"},
      {whole + "output_dir = 'out'\nlora_r = 0\n", 1, "--lora_r 0 must be between 1 and"},
      {whole + "output_dir = 'out'\neval_data = 'none'\n", 2, "none does not exist"},
      {std::string((1 << 20) + 1, '#'), 5, "job.toml"},
  };
  for (const auto& row : rows) {
    const RunResult run = Finetune(Write("job.toml", row.text));
    EXPECT_EQ(run.exit_code, row.exit_code) << row.told << ": " << run.err;
    EXPECT_NE((run.err + run.out).find(row.told), std::string::npos) << row.told << ": " << run.err;
  }
  EXPECT_EQ(Finetune(At("none.toml")).exit_code, 2);
  EXPECT_FALSE(std::filesystem::exists(root_ / "out/metrics.jsonl"));

  const RunResult told = Finetune(Write("job.toml", "walls = 'none'\n"), {"--format", "json"});
  EXPECT_EQ(Parsed(told.err)["error"]["code"], "INVALID_ARGUMENT") << told.err;
  EXPECT_EQ(Finetune(At("job.toml"), {"--help"}).exit_code, 0);
}

}  // namespace
}  // namespace tidegate::cli
