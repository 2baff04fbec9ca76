// `tidegate tokenizer train` and `encode`, as a user runs them.
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "run_program.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class VerbTokenizer : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tg_verb_tokenizer_XXXXXX").native();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    std::string text;
    for (int i = 0; i < 200; ++i) text += "the tide comes in, the tide goes out\n";
    std::ofstream(root_ / "text.txt") << text;
    std::ofstream(root_ / "bad.jsonl") << "{\"text\": \"tide\"}\nno json\n";
  }
  void TearDown() override { fs::remove_all(root_); }

  RunResult Tokenizer(std::vector<std::string> words) {
    words.insert(words.begin(), {Program("tidegate").native(), "tokenizer"});
    return RunProgram(words);
  }
  std::string At(const char* name) const { return (root_ / name).native(); }

  fs::path root_;
};

TEST_F(VerbTokenizer, TrainsAndEncodesAndSaysWhatItMade) {
  const RunResult train =
      Tokenizer({"train", At("text.txt"), At("bad.jsonl"), "--skip-bad-lines", "--out", At("tok"),
                 "--vocab-size", "300", "--format", "json"});
  ASSERT_EQ(train.exit_code, 0) << train.err;
  const json trained = json::parse(train.out);
  EXPECT_EQ(trained["bad_lines"], 1);
  EXPECT_EQ(trained["vocab_size"].get<int>(), 257 + trained["merges"].get<int>());

  const RunResult encode = Tokenizer({"encode", At("text.txt"), "--tokenizer", At("tok"), "--out",
                                      At("tokens"), "--shard-tokens", "500", "--format", "json"});
  ASSERT_EQ(encode.exit_code, 0) << encode.err;
  const json encoded = json::parse(encode.out);
  EXPECT_EQ(encoded["documents"], 1);
  EXPECT_EQ(encoded["shards"].get<int>(), (encoded["tokens"].get<int>() + 499) / 500);
  EXPECT_TRUE(fs::exists(root_ / "tokens" / "index.json"));

  const RunResult none = Tokenizer({"encode", At("text.txt"), "--tokenizer", At("tok"), "--out",
                                    At("bare"), "--end-of-text", "", "--format", "json"});
  ASSERT_EQ(none.exit_code, 0) << none.err;
  EXPECT_EQ(json::parse(none.out)["tokens"].get<int>(), encoded["tokens"].get<int>() - 1);
}

TEST_F(VerbTokenizer, ErrorsNameTheFileAndTheLine) {
  const RunResult train = Tokenizer({"train", At("bad.jsonl"), "--out", At("tok")});
  EXPECT_EQ(train.exit_code, static_cast<int>(Code::kInvalidArgument));
  EXPECT_NE(train.err.find("bad.jsonl: the line at byte 17"), std::string::npos) << train.err;
  EXPECT_NE(train.err.find("--skip-bad-lines"), std::string::npos) << train.err;
  const RunResult encode =
      Tokenizer({"encode", At("text.txt"), "--tokenizer", At("none"), "--out", At("tokens")});
  EXPECT_EQ(encode.exit_code, static_cast<int>(Code::kNotFound)) << encode.err;
}

}  // namespace
}  // namespace tidegate::cli
