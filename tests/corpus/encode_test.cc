#include "corpus/encode.h"

#include <sys/wait.h>
#include <unistd.h>

#include <map>

#include "corpus/train_tokenizer.h"
#include "corpus_fixture.h"
#include "model/tokenizer.h"
#include "tokens/sharded_tokens.h"

namespace tidegate::corpus {
namespace {

class EncodeTest : public CorpusTest {
 protected:
  void SetUp() override {
    CorpusTest::SetUp();
    TrainTokenizerOptions train;
    train.inputs = {PutLines("train.jsonl", Texts())};
    train.bpe.vocab_size = 600;
    ASSERT_TRUE(TrainTokenizer(train, folder_ / "tokenizer", {}).has_value());
    options_.tokenizer = folder_ / "tokenizer";
    options_.inputs = {PutLines("a.jsonl", Texts()), Put("b.txt", LongText())};
    options_.shard_tokens = 7000;
  }

  static std::string LongText() {
    std::string text;
    const std::vector<std::string> texts = Texts();
    for (size_t i = 0; text.size() < 40'000; ++i) text += texts[i % texts.size()] + " line\n";
    return text;
  }

  std::map<std::string, Bytes> Files(const std::string& name) const {
    std::map<std::string, Bytes> files;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / name)) {
      files[entry.path().filename()] = ReadFile(entry.path(), 1 << 24).value();
    }
    return files;
  }

  // Encodes in a process that ends before this step: 9, or 0 where there were not so many.
  int EndedAt(int last, const std::string& name) {
    const pid_t child = fork();
    if (child == 0) {
      int step = 0;
      options_.before_step = [&] {
        if (++step == last) _exit(9);
      };
      _exit(EncodeText(options_, folder_ / name, {}).has_value() ? 0 : 1);
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    return WEXITSTATUS(status);
  }

  EncodeTextOptions options_;
};

TEST_F(EncodeTest, TheShardsHoldEveryDocumentAndWhatEndsIt) {
  const auto made = EncodeText(options_, folder_ / "out", {});
  ASSERT_TRUE(made.has_value()) << made.error().ToString();
  const auto tokens = tokens::ShardedTokens::Open(folder_ / "out");
  ASSERT_TRUE(tokens.has_value()) << tokens.error().ToString();
  EXPECT_TRUE(tokens->Verify().ok());
  EXPECT_EQ(tokens->tokens(), made->tokens);
  EXPECT_EQ(made->shards, (made->tokens + 6999) / 7000);
  EXPECT_GT(made->shards, 3u);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out" / kEncodingName));

  std::vector<int32_t> ids(tokens->tokens());
  ASSERT_TRUE(tokens->Read(0, ids).ok());
  const auto tokenizer = model::Tokenizer::Load(options_.tokenizer / "tokenizer.json");
  std::vector<std::string> documents;
  for (auto at = ids.begin(); at != ids.end();) {
    const auto end = std::find(at, ids.end(), tokens->kind().end_of_text);
    ASSERT_NE(end, ids.end());
    documents.push_back(tokenizer->Decode({at, end}).value());
    at = end + 1;
  }
  std::vector<std::string> expected = Texts();
  // A line of JSONL that holds an empty text is no document.
  std::erase(expected, "");
  expected.push_back(LongText());
  EXPECT_EQ(documents, expected);
  EXPECT_EQ(made->documents, expected.size());
  EXPECT_EQ(tokens->documents(), expected.size());
}

TEST_F(EncodeTest, TheNumberOfThreadsChangesNoByte) {
  ASSERT_TRUE(EncodeText(options_, folder_ / "one", {}).has_value());
  options_.threads = 3;
  ASSERT_TRUE(EncodeText(options_, folder_ / "three", {}).has_value());
  EXPECT_EQ(Files("one"), Files("three"));
}

// A process that ends at each step in turn leaves a folder that is whole or says that it is not;
// the next run goes on, and the files are those of a run that was never ended.
TEST_F(EncodeTest, ARunThatIsEndedAtAnyStepGoesOnToTheSameBytes) {
  const auto whole = EncodeText(options_, folder_ / "whole", {});
  ASSERT_TRUE(whole.has_value());
  const auto expected = Files("whole");
  bool resumed = false;
  for (int last = 1;; ++last) {
    const std::string name = "killed" + std::to_string(last);
    const int end = EndedAt(last, name);
    if (end == 0) {
      EXPECT_GT(last, 10) << "there were no steps to end at";
      break;
    }
    ASSERT_EQ(end, 9);
    const auto left = tokens::ShardedTokens::Open(folder_ / name);
    if (left) {
      EXPECT_TRUE(left->Verify().ok());
      EXPECT_EQ(left->tokens(), whole->tokens);
      EXPECT_EQ(EncodeText(options_, folder_ / name, {}).error().code(), Code::kAlreadyExists);
    } else {
      EXPECT_EQ(left.error().code(), Code::kNotFound) << left.error().ToString();
      const auto again = EncodeText(options_, folder_ / name, {});
      ASSERT_TRUE(again.has_value()) << again.error().ToString();
      resumed = resumed || again->shards_before > 1;
      EXPECT_EQ(again->documents, whole->documents);
      EXPECT_EQ(Files(name), expected) << "ended before step " << last;
    }
    std::filesystem::remove_all(folder_ / name);
  }
  EXPECT_TRUE(resumed);
}

TEST_F(EncodeTest, AFolderIsForOneEncodingAtATime) {
  int steps = 0;
  options_.before_step = [&] {
    if (++steps != 1) return;
    auto other = options_;
    other.before_step = nullptr;
    EXPECT_NE(EncodeText(other, folder_ / "out", {}).error().message().find("another run"),
              std::string::npos);
  };
  EXPECT_TRUE(EncodeText(options_, folder_ / "out", {}).has_value());
  EXPECT_GT(steps, 1);
}

TEST_F(EncodeTest, ARunWithOtherOptionsDoesNotGoOnWithTheShardsOfThis) {
  EXPECT_EQ(EndedAt(5, "out"), 9);
  ASSERT_TRUE(std::filesystem::exists(folder_ / "out" / kEncodingName));
  options_.end_of_text = "";
  EXPECT_EQ(EncodeText(options_, folder_ / "out", {}).error().code(), Code::kFailedPrecondition);
  options_.end_of_text = "<|endoftext|>";  // what it was without a word
  EXPECT_TRUE(EncodeText(options_, folder_ / "out", {}).has_value());
}

TEST_F(EncodeTest, WhatCannotBeEncodedIsRefusedByName) {
  options_.end_of_text = "</s>";
  EXPECT_NE(EncodeText(options_, folder_ / "out", {}).error().message().find("\"</s>\""),
            std::string::npos);
  options_.end_of_text.reset();
  std::filesystem::remove(options_.tokenizer / "tokenizer_config.json");
  EXPECT_FALSE(EncodeText(options_, folder_ / "out", {}).has_value());
  options_.end_of_text = "";
  options_.inputs = {Put("c.txt", "")};
  EXPECT_NE(EncodeText(options_, folder_ / "out", {}).error().message().find("no tokens"),
            std::string::npos);
}

}  // namespace
}  // namespace tidegate::corpus
