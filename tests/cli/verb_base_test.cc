// `tidegate base import` and the hash of `tidegate base inspect`, as a user runs them.
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "run_program.h"
#include "tests/model/gguf_builder.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class VerbBase : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tg_verb_base_XXXXXX").native();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    ASSERT_TRUE(WriteFileDurably(root_ / "model.gguf", model::SmallLlama().Build()).ok());
  }
  void TearDown() override { fs::remove_all(root_); }

  RunResult Base(std::vector<std::string> words) {
    words.insert(words.begin(), {Program("tidegate").native(), "base"});
    return RunProgram(words);
  }
  std::string At(const char* name) const { return (root_ / name).native(); }

  fs::path root_;
};

TEST_F(VerbBase, AnImportedFolderIsOneThatInspectReads) {
  const RunResult import = Base({"import", At("model.gguf"), At("out"), "--format", "json"});
  ASSERT_EQ(import.exit_code, 0) << import.err;
  const json imported = json::parse(import.out);
  EXPECT_EQ(imported["tensors"], 11);
  EXPECT_EQ(imported["dtype"], "bf16");
  const RunResult inspect = Base({"inspect", At("out"), "--format", "json"});
  ASSERT_EQ(inspect.exit_code, 0) << inspect.err;
  const json inspected = json::parse(inspect.out);
  EXPECT_EQ(inspected["base_hash"], imported["base_hash"]);
  EXPECT_EQ(inspected["tensors"]["dtypes"], (json{{"BF16", 11}}));
  EXPECT_NE(Base({"inspect", At("out")}).out.find(imported["base_hash"].get<std::string>()),
            std::string::npos);
}

TEST_F(VerbBase, TheSameFileGivesTheSameHashAndAnotherTypeAnother) {
  const auto hash = [&](const char* dir, const char* dtype) {
    const RunResult run =
        Base({"import", At("model.gguf"), At(dir), "--dtype", dtype, "--format", "json"});
    return run.exit_code == 0 ? json::parse(run.out)["base_hash"].get<std::string>() : run.err;
  };
  const std::string first = hash("a", "f32");
  EXPECT_EQ(first.size(), 64u) << first;
  EXPECT_EQ(hash("b", "f32"), first);
  EXPECT_NE(hash("c", "f16"), first);
}

TEST_F(VerbBase, RefusalsHaveTheirExitCodes) {
  EXPECT_EQ(Base({"import", At("none.gguf"), At("out")}).exit_code, 2);
  EXPECT_EQ(Base({"import", At("model.gguf"), At("out"), "--dtype", "q4"}).exit_code, 64);
  EXPECT_EQ(Base({"import", At("model.gguf")}).exit_code, 64);
  EXPECT_EQ(Base({"import", At("model.gguf"), At("model.gguf")}).exit_code, 3);
  ASSERT_TRUE(WriteFileDurably(root_ / "bad.gguf", AsBytes("GGUF, but not really")).ok());
  const RunResult bad = Base({"import", At("bad.gguf"), At("out")});
  EXPECT_NE(bad.exit_code, 0);
  EXPECT_NE(bad.err.find("bad.gguf"), std::string::npos) << bad.err;
  EXPECT_FALSE(fs::exists(root_ / "out"));
}

}  // namespace
}  // namespace tidegate::cli
