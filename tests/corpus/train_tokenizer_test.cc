#include "corpus/train_tokenizer.h"

#include "corpus_fixture.h"
#include "model/tokenizer.h"

namespace tidegate::corpus {
namespace {

using nlohmann::json;

// As tests/golden/make_bpe_tokenizer.py.
TrainTokenizerOptions Options(SplitStyle style, const std::filesystem::path& input) {
  TrainTokenizerOptions options;
  options.inputs = {input};
  options.bpe.vocab_size = 1400;
  options.bpe.special_tokens = {"<|endoftext|>", "<|user|>"};
  options.tokenizer.style = style;
  return options;
}

class TrainTokenizerTest : public CorpusTest {
 protected:
  json Train(const TrainTokenizerOptions& options, const std::string& name) {
    const auto made = TrainTokenizer(options, folder_ / name, {});
    EXPECT_TRUE(made.has_value()) << (made ? "" : made.error().ToString());
    return json::parse(Content(name));
  }
  std::string Content(const std::string& name) {
    return ReadTextFile(folder_ / name / "tokenizer.json", 64 << 20).value_or("nothing");
  }
  static void ExpectTrained(const json& tokenizer, const json& golden) {
    EXPECT_EQ(tokenizer["model"]["merges"], golden["merges"]);
    const json& vocab = tokenizer["model"]["vocab"];
    ASSERT_EQ(vocab.size(), golden["tokens"].size());
    for (size_t id = 0; id < golden["tokens"].size(); ++id) {
      EXPECT_EQ(vocab.value(golden["tokens"][id].get<std::string>(), size_t{999'999}), id);
    }
  }
};

TEST_F(TrainTokenizerTest, MergesAreThoseOfTheTokenizersLibraryTiesAndAll) {
  const json golden = Golden("bpe/trained.json");
  const auto input = PutLines("texts.jsonl", Texts());
  ExpectTrained(Train(Options(SplitStyle::kLlama3, input), "llama3"), golden["llama3"]);
  ExpectTrained(Train(Options(SplitStyle::kGpt2, input), "gpt2"), golden["gpt2"]);
}

// A token that two pairs spell brings its later pairs up a second time.
TEST_F(TrainTokenizerTest, ATokenThatIsSpelledInTwoWaysMergesAsInTheLibrary) {
  std::vector<std::string> texts;
  for (int i = 0; i < 3; ++i) {
    texts.insert(texts.end(), {"abcd abcd ab ab ab c", "xabc xabc bc bc bc bcbc abcabc",
                               "aabc aabc dabc dabcd zabcd"});
  }
  auto options = Options(SplitStyle::kGpt2, PutLines("texts.jsonl", texts));
  options.bpe.vocab_size = 300;
  options.bpe.min_frequency = 1;
  ExpectTrained(Train(options, "two"), Golden("bpe/trained.json")["two_ways"]);
}

TEST_F(TrainTokenizerTest, TheNumberOfThreadsChangesNoByte) {
  auto options = Options(SplitStyle::kLlama3, PutLines("texts.jsonl", Texts()));
  Train(options, "one");
  options.threads = 3;
  Train(options, "three");
  EXPECT_EQ(Content("one"), Content("three"));
}

TEST_F(TrainTokenizerTest, TheIdsOfItsTextAreThoseThatTheLibraryGivesAndDecodeToTheText) {
  Train(Options(SplitStyle::kLlama3, PutLines("texts.jsonl", Texts())), "ours");
  const auto tokenizer = model::Tokenizer::Load(folder_ / "ours" / "tokenizer.json");
  ASSERT_TRUE(tokenizer.has_value());
  const json ids = Golden("bpe/ids.json")["ids"];
  const std::vector<std::string> texts = Texts();
  ASSERT_EQ(ids.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto encoding = tokenizer->Encode(texts[i]);
    ASSERT_TRUE(encoding.has_value());
    EXPECT_EQ(encoding->ids, ids[i].get<std::vector<int32_t>>()) << texts[i];
    EXPECT_EQ(tokenizer->Decode(encoding->ids).value(), texts[i]);
  }
  EXPECT_TRUE(tokenizer->IsSpecial(0));
  EXPECT_EQ(tokenizer->TokenId("<|user|>"), 1);
}

TEST_F(TrainTokenizerTest, TextNeverMergesIntoASpecialToken) {
  const std::vector<std::string> texts(50, "ababab ababab");
  auto options = Options(SplitStyle::kGpt2, PutLines("texts.jsonl", texts));
  options.bpe.special_tokens = {"<|endoftext|>", "abab"};
  const json tokenizer = Train(options, "t");
  EXPECT_EQ(tokenizer["model"]["vocab"]["abab"], 1);
  for (const json& merge : tokenizer["model"]["merges"]) EXPECT_NE(merge, "ab ab");
}

TEST_F(TrainTokenizerTest, BeyondItsMemoryItDropsRareWordsTheSameForAnyThreads) {
  std::vector<std::string> texts;
  for (int i = 0; i < 30'000; ++i) texts.push_back("common word" + std::to_string(i * 7919));
  auto options = Options(SplitStyle::kGpt2, PutLines("texts.jsonl", texts));
  options.most_word_bytes = 1 << 20;
  const auto one = TrainTokenizer(options, folder_ / "one", {});
  options.threads = 4;
  const auto four = TrainTokenizer(options, folder_ / "four", {});
  ASSERT_TRUE(one.has_value() && four.has_value());
  EXPECT_GT(one->words_dropped, 0u);
  EXPECT_EQ(one->words_dropped, four->words_dropped);
  EXPECT_EQ(Content("one"), Content("four"));
  EXPECT_NE(Content("one").find("\"common\""), std::string::npos);
}

TEST_F(TrainTokenizerTest, WhatCannotBeTrainedIsRefusedByName) {
  const auto input = PutLines("texts.jsonl", {"a b c"});
  const auto refused = [&](auto change) {
    auto options = Options(SplitStyle::kGpt2, input);
    change(options);
    const auto made = TrainTokenizer(options, folder_ / "t", {});
    EXPECT_FALSE(std::filesystem::exists(folder_ / "t"));
    return made ? "" : made.error().message();
  };
  EXPECT_NE(refused([](auto& o) { o.bpe.vocab_size = 257; }).find("258"), std::string::npos);
  EXPECT_NE(refused([](auto& o) {
              o.bpe.special_tokens = {"<|endoftext|>", "<|endoftext|>"};
            }).find("twice"),
            std::string::npos);
  EXPECT_NE(refused([](auto& o) {
              o.bpe.special_tokens = {"<|endoftext|>", "a"};
            }).find("name of a byte"),
            std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.tokenizer.end_of_text = "</s>"; }).find("</s>"),
            std::string::npos);
  EXPECT_NE(refused([&](auto& o) { o.inputs = {folder_ / "none.txt"}; }).find("none.txt"),
            std::string::npos);
  auto options = Options(SplitStyle::kGpt2, input);
  const auto stopped =
      TrainTokenizer(options, folder_ / "t", [](const Progress&) { return false; });
  EXPECT_TRUE(stopped.has_value()) << "told once a second at most";
  EXPECT_EQ(TrainTokenizer(options, folder_ / "t", {}).error().code(), Code::kAlreadyExists);
}

TEST(ProgressMeterTest, TellsOnceASecondWithRateAndTimeLeft) {
  ManualClock clock(0);
  std::vector<Progress> told;
  ProgressMeter meter(
      "encode", "bytes", 1000,
      [&](const Progress& now) {
        told.push_back(now);
        return told.size() < 2;
      },
      clock);
  meter.Skip(100);
  EXPECT_TRUE(meter.Reach(150));
  clock.Advance(2000);
  EXPECT_TRUE(meter.Reach(300));
  clock.Advance(500);
  EXPECT_TRUE(meter.Reach(400));
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].per_second, 100);
  EXPECT_EQ(told[0].seconds_left, 7);
  clock.Advance(1000);
  EXPECT_FALSE(meter.Reach(500));
}

}  // namespace
}  // namespace tidegate::corpus
