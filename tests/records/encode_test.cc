#include "records/encode.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "records/jsonl.h"

namespace tidegate::records {
namespace {

const std::filesystem::path kTiny = TIDEGATE_SOURCE_DIR "/tests/golden/tiny_llama";
// Of the tiny model's template.
const std::string kHead =
    "<|im_start|>system\nYou are a tiny test model.<|im_end|>\n<|im_start|>user\n";
const std::string kAssistant = "<|im_start|>assistant\n";

class Encode : public ::testing::Test {
 protected:
  void SetUp() override {
    auto tokenizer = model::Tokenizer::Load(kTiny / "tokenizer.json");
    ASSERT_TRUE(tokenizer) << tokenizer.error().ToString();
    tokenizer_.emplace(std::move(*tokenizer));
    auto chat = model::LoadChatTemplate(kTiny, render_);
    ASSERT_TRUE(chat) << chat.error().ToString();
    ASSERT_TRUE(*chat);
    chat_.emplace(std::move(**chat));
  }

  static Onshore<Record> Chat(std::vector<model::ChatMessage> messages) {
    Record record;
    record.kind = RecordKind::kMessages;
    record.messages = std::move(messages);
    record.line = 3;
    return Onshore<Record>(std::move(record));
  }
  static Onshore<Record> Text(std::string text) {
    Record record;
    record.text = std::move(text);
    return Onshore<Record>(std::move(record));
  }
  static Onshore<Record> Pair(std::string prompt, std::string completion) {
    Record record;
    record.kind = RecordKind::kPromptCompletion;
    record.prompt = std::move(prompt);
    record.completion = std::move(completion);
    return Onshore<Record>(std::move(record));
  }
  Encoded Run(const Onshore<Record>& record, EncoderOptions options = {}) {
    auto encoded = Encoder(*tokenizer_, &*chat_, render_).Encode(record, options);
    EXPECT_TRUE(encoded) << encoded.error().ToString();
    return encoded ? std::move(encoded->reveal_mutable()) : Encoded();
  }
  // The bytes of the tokens of which `trained` says which.
  std::string Bytes(const Encoded& encoded, bool only_trained) {
    EXPECT_EQ(encoded.tokens.ids.size(), encoded.tokens.loss_mask.size());
    std::string out;
    for (size_t i = 0; i < encoded.tokens.ids.size(); ++i) {
      if (only_trained && encoded.tokens.loss_mask[i] == 0) continue;
      out += tokenizer_->TokenBytes(encoded.tokens.ids[i]).value();
    }
    return out;
  }
  std::string Trained(const Encoded& encoded) { return Bytes(encoded, true); }

  // A tokenizer of single letters and one merge of two, which may put <s> before a text.
  static model::Tokenizer Merging(const std::string& pair, bool adds_bos = false) {
    nlohmann::json root = {{"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
                           {"decoder", {{"type", "ByteLevel"}}}};
    nlohmann::json vocab = {{"<s>", 0}, {pair, 1}};
    for (char letter = 'a'; letter <= 'z'; ++letter) vocab[std::string(1, letter)] = vocab.size();
    root["model"] = {
        {"type", "BPE"}, {"vocab", vocab}, {"merges", {pair.substr(0, 1) + " " + pair.substr(1)}}};
    root["added_tokens"] = {{{"id", 0}, {"content", "<s>"}, {"special", true}}};
    if (adds_bos) {
      root["post_processor"] = {
          {"type", "TemplateProcessing"},
          {"single", {{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
          {"special_tokens", {{"<s>", {{"ids", {0}}}}}}};
    }
    auto tokenizer = model::Tokenizer::FromJson(root.dump(), "merging");
    EXPECT_TRUE(tokenizer) << tokenizer.error().ToString();
    return std::move(*tokenizer);
  }

  std::optional<model::Tokenizer> tokenizer_;
  std::optional<model::ChatTemplate> chat_;
  model::RenderOptions render_;
};

TEST_F(Encode, TrainsExactlyTheAnswerAndItsEndOfTurn) {
  for (const std::string& answer : std::vector<std::string>{"Yes.",
                                                            "",
                                                            " ",
                                                            "ends in a space ",
                                                            "  begins with two",
                                                            "\nbegins with a line",
                                                            "ends with lines\n\n",
                                                            "\t\r\n",
                                                            "a\n\nb",
                                                            "日本語 🙂",
                                                            "e\xcc\x81",
                                                            "12 345",
                                                            "<|im_end|",
                                                            "|im_start|>",
                                                            "<|im_end|>",
                                                            "a<|im_end|>\n<|im_start|>user\nb",
                                                            "{{ '<|im_end|>' }}",
                                                            "{% for %}",
                                                            std::string("\0x", 2),
                                                            "user",
                                                            "q"}) {
    const Encoded encoded = Run(Chat({{"user", "q"}, {"assistant", answer}}));
    EXPECT_EQ(Bytes(encoded, false),
              kHead + "q<|im_end|>\n" + kAssistant + answer + "<|im_end|>\n");
    EXPECT_EQ(Trained(encoded), answer + "<|im_end|>") << answer;
    EXPECT_TRUE(encoded.has_target);
    EXPECT_FALSE(encoded.truncated);
  }
}

TEST_F(Encode, TrainsEveryAnswerOfAChatAndNothingOfTheOthers) {
  const Onshore<Record> chat = Chat({{"system", "same"},
                                     {"user", "same"},
                                     {"assistant", "same"},
                                     {"user", "same"},
                                     {"assistant", "last"}});
  EXPECT_EQ(Trained(Run(chat)), "same<|im_end|>last<|im_end|>");
  const Encoded all = Run(chat, {.assistant_only_loss = false});
  EXPECT_EQ(Trained(all), Bytes(all, false));
  const Encoded none = Run(Chat({{"user", "q"}}));
  EXPECT_FALSE(none.has_target);
  EXPECT_EQ(Trained(none), "");
}

TEST_F(Encode, TextIsTrainedWholeAndEndsOnce) {
  EXPECT_EQ(Trained(Run(Text(" a\n"))), " a\n<|im_end|>");
  EXPECT_EQ(Trained(Run(Text("a<|im_end|>"))), "a<|im_end|>");
  EXPECT_EQ(Trained(Run(Text("a"), {.assistant_only_loss = false})), "a<|im_end|>");
  render_.eos_token.clear();
  EXPECT_EQ(Trained(Run(Text("a"))), "a") << "a base without an end of sequence";
}

TEST_F(Encode, ACompletionIsTrainedFromItsFirstByte) {
  for (const bool assistant_only : {true, false}) {
    const EncoderOptions options{.assistant_only_loss = assistant_only};
    EXPECT_EQ(Trained(Run(Pair("Q: 1 + 1 =", " 2"), options)), " 2<|im_end|>");
    EXPECT_EQ(Trained(Run(Pair("", "2"), options)), "2<|im_end|>");
  }
  EXPECT_EQ(Trained(Run(Pair("only asks", ""))), "<|im_end|>");
  EXPECT_FALSE(Run(Pair("only asks<|im_end|>", "")).has_target) << "that end is the prompt's";
  EXPECT_EQ(Bytes(Run(Pair("a", "b")), false), "ab<|im_end|>") << "one text, nothing between";
}

TEST_F(Encode, ACompletionOfMessagesIsTrainedWithoutItsPromptsAnswers) {
  Record record;
  record.kind = RecordKind::kMessages;
  record.messages = {{"user", "q"}, {"assistant", "shown"}, {"user", "r"}, {"assistant", "learnt"}};
  record.prompt_messages = 3;
  const Onshore<Record> onshore(std::move(record));
  for (const bool assistant_only : {true, false}) {
    EXPECT_EQ(Trained(Run(onshore, {.assistant_only_loss = assistant_only})), "learnt<|im_end|>");
  }
}

// "\n" and what follows it can be one token: it belongs to the header too, so it is not trained.
TEST_F(Encode, ATokenThatReachesOutOfTheAnswerIsNotTrained) {
  const Encoded encoded = Run(Pair("12", "34"));
  EXPECT_EQ(Trained(encoded), "34<|im_end|>");
  auto joined = Merging("ab");
  const Encoder encoder(joined, nullptr, {});
  const auto reaching = encoder.Encode(Pair("xa", "b"), {});
  ASSERT_TRUE(reaching) << reaching.error().ToString();
  EXPECT_EQ(reaching->reveal().tokens.ids.size(), 2u);
  EXPECT_FALSE(reaching->reveal().has_target);
}

TEST_F(Encode, TextGetsTheBeginningThatTheTokenizerPutsAndAChatDoesNot) {
  const model::Tokenizer tokenizer = Merging("ab", true);
  const Encoder encoder(tokenizer, &*chat_, {});
  const auto first = [&](const Onshore<Record>& record) {
    auto encoded = encoder.Encode(record, {});
    EXPECT_TRUE(encoded) << encoded.error().ToString();
    return encoded ? encoded->reveal().tokens.ids.at(0) : -1;
  };
  const int32_t bos = tokenizer.TokenId("<s>").value();
  EXPECT_EQ(first(Text("ab")), bos);
  EXPECT_EQ(first(Pair("ab", "ab")), bos);
  EXPECT_EQ(encoder.Question(Pair("ab", "ab"))->reveal().prompt.at(0), bos);
  EXPECT_EQ(encoder.Encode(Text("ab"), {})->reveal().tokens.loss_mask.at(0), 0);
  model::RenderOptions render;
  render.eos_token = "<|im_end|>";
  const auto chat =
      Encoder(tokenizer, &*chat_, render).Encode(Chat({{"user", "ab"}, {"assistant", "ab"}}), {});
  ASSERT_TRUE(chat) << chat.error().ToString();
  EXPECT_NE(chat->reveal().tokens.ids.at(0), bos);
}

TEST_F(Encode, CutsTheEndAndSaysWhetherATargetIsLeft) {
  const Onshore<Record> chat = Chat({{"user", "q"}, {"assistant", "abc"}});
  const Encoded whole = Run(chat);
  const auto size = static_cast<int64_t>(whole.tokens.ids.size());
  int64_t first = 0;
  while (whole.tokens.loss_mask[static_cast<size_t>(first)] == 0) ++first;
  for (int64_t length = 1; length <= size + 1; ++length) {
    const Encoded cut = Run(chat, {.max_length = length});
    const auto kept = static_cast<size_t>(std::min(length, size));
    ASSERT_EQ(cut.tokens.ids.size(), kept);
    EXPECT_TRUE(std::equal(cut.tokens.ids.begin(), cut.tokens.ids.end(), whole.tokens.ids.begin()));
    EXPECT_TRUE(std::equal(cut.tokens.loss_mask.begin(), cut.tokens.loss_mask.end(),
                           whole.tokens.loss_mask.begin()));
    EXPECT_EQ(cut.truncated, length < size);
    EXPECT_EQ(cut.has_target, length > first) << length;
  }
  EXPECT_FALSE(Run(Text("a"), {.max_length = 1}).has_target)
      << "the first token has nothing before it that predicts it";
}

TEST_F(Encode, ABaseWithoutATemplateRefusesChatsByLine) {
  const Encoder encoder(*tokenizer_, nullptr, render_);
  const auto refused = encoder.Encode(Chat({{"user", "q"}, {"assistant", "a"}}), {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(refused.error().message().find("line 3"), std::string::npos);
  EXPECT_TRUE(encoder.Encode(Text("a"), {}));
}

TEST_F(Encode, AQuestionEndsWhereTheAnswerBegins) {
  const Encoder encoder(*tokenizer_, &*chat_, render_);
  const auto decode = [&](const Result<Onshore<Asked>>& asked) {
    EXPECT_TRUE(asked) << asked.error().ToString();
    return asked ? tokenizer_->Decode(asked->reveal().prompt).value() : std::string();
  };
  const auto chat = encoder.Question(Chat({{"user", "q"}, {"assistant", " a"}}));
  EXPECT_EQ(decode(chat), kHead + "q<|im_end|>\n" + kAssistant);
  EXPECT_EQ(chat->reveal().answer, " a");
  const auto pair = encoder.Question(Pair("p", "c"));
  EXPECT_EQ(decode(pair), "p");
  EXPECT_EQ(pair->reveal().answer, "c");
  EXPECT_EQ(encoder.Question(Text("a")).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(encoder.Question(Chat({{"user", "q"}})).error().code(), Code::kInvalidArgument);
}

// Any content must give a mask of whole answers: ends of turns written by users change nothing.
TEST_F(Encode, HostileContentsNeverTrainWhatAUserWrote) {
  const std::vector<std::string> parts = {
      "<|im_start|>", "<|im_end|>", "assistant", "\n", " ", "user", "a", "\xf0\x9f\x99\x82", "12"};
  uint64_t state = 1;
  const auto draw = [&] {
    std::string out;
    for (int i = 0; i < 6; ++i) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      out += parts[(state >> 33) % parts.size()];
    }
    return out;
  };
  for (int i = 0; i < 300; ++i) {
    const std::string first = draw(), second = draw();
    const Encoded encoded = Run(
        Chat({{"user", draw()}, {"assistant", first}, {"user", draw()}, {"assistant", second}}));
    ASSERT_EQ(Trained(encoded), first + "<|im_end|>" + second + "<|im_end|>");
  }
}

}  // namespace
}  // namespace tidegate::records
