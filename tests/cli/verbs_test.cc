// The verbs that open no record, as a user runs them.
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "run_program.h"

namespace tidegate::cli {
namespace {

using nlohmann::json;

const std::string kTiny = TIDEGATE_SOURCE_DIR "/tests/golden/tiny_llama";
const std::string kUntied = TIDEGATE_SOURCE_DIR "/tests/golden/tiny_llama_untied";

RunResult Tidegate(std::vector<std::string> words) {
  words.insert(words.begin(), Program("tidegate").native());
  return RunProgram(words);
}

TEST(Verbs, HelpIsPrintedAndWrongUseIsSixtyFour) {
  const RunResult help = Tidegate({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* verb : {"finetune", "eval", "generate", "data", "base", "adapter", "doctor"}) {
    EXPECT_NE(help.out.find(verb), std::string::npos) << verb;
  }
  EXPECT_EQ(Tidegate({}).exit_code, 64);
  EXPECT_EQ(Tidegate({"launch"}).exit_code, 64);
  EXPECT_EQ(Tidegate({"base"}).exit_code, 64);
  EXPECT_EQ(Tidegate({"base", "inspect"}).exit_code, 64);
  EXPECT_EQ(Tidegate({"base", "inspect", kTiny, "--format", "xml"}).exit_code, 64);
  EXPECT_EQ(Tidegate({"base", "inspect", "--help"}).exit_code, 0);
}

TEST(Verbs, BaseInspectTellsTheShape) {
  const RunResult run = Tidegate({"base", "inspect", kTiny, "--format", "json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const json report = json::parse(run.out);
  EXPECT_EQ(report["hidden_size"], 96);
  EXPECT_EQ(report["num_key_value_heads"], 1);
  EXPECT_EQ(report["parameters"], report["tensors"]["elements"]);
  EXPECT_EQ(report["tensors"]["dtypes"]["F32"], report["tensors"]["count"]);
  EXPECT_NE(Tidegate({"base", "inspect", kTiny}).out.find("243648 parameters"), std::string::npos);
}

TEST(Verbs, AMissingBaseIsNotFoundByName) {
  const RunResult run = Tidegate({"base", "inspect", "/no/such/folder", "--format", "json"});
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_EQ(run.out, "");
  const json error = json::parse(run.err)["error"];
  EXPECT_EQ(error["code"], "NOT_FOUND");
  EXPECT_NE(error["message"].get<std::string>().find("/no/such/folder"), std::string::npos);
}

TEST(Verbs, AdapterInspectChecksAgainstItsBase) {
  const std::string adapter = kTiny + "/adapter_in";
  const RunResult run =
      Tidegate({"adapter", "inspect", adapter, "--base", kTiny, "--format", "json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const json report = json::parse(run.out);
  EXPECT_EQ(report["r"], 4);
  EXPECT_EQ(report["scale"], 2.0);
  EXPECT_EQ(report["tensors"], 42);
  const RunResult other = Tidegate({"adapter", "inspect", adapter, "--base", kUntied});
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_NE(other.err.find("q_proj.lora_A.weight has shape [4, 96], expected [4, 128]"),
            std::string::npos)
      << other.err;
}

TEST(Verbs, AdapterExportWritesAGgufFileOnce) {
  const std::filesystem::path out =
      std::filesystem::path(testing::TempDir()) / fmt::format("export-{}.gguf", ::getpid());
  const std::vector<std::string> words = {"adapter", "export", kTiny + "/adapter_in", "--base",
                                          kTiny,     "--out",  out.native()};
  const RunResult run = Tidegate(words);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  std::ifstream file(out, std::ios::binary);
  char magic[4] = {};
  file.read(magic, 4);
  EXPECT_EQ(std::string(magic, 4), "GGUF");
  const RunResult again = Tidegate(words);
  EXPECT_EQ(again.exit_code, 3);
  EXPECT_NE(again.err.find("exists"), std::string::npos) << again.err;
  std::filesystem::remove(out);
  const RunResult other = Tidegate({"adapter", "export", kTiny + "/adapter_in", "--base", kTiny,
                                    "--out", out.native() + ".bin"});
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_NE(other.err.find(".gguf"), std::string::npos) << other.err;
}

}  // namespace
}  // namespace tidegate::cli
