// Byte-level BPE against the tokenizers library, and what a tokenizer.json may not hold.
#include "model/tokenizer.h"

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/limits.h"

namespace tidegate::model {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

const std::filesystem::path kGolden = TIDEGATE_SOURCE_DIR "/tests/golden/tokenizers";

const json& GoldenIds() {
  static const json& golden =
      *new json(json::parse(ReadTextFile(kGolden / "ids.json", 16u << 20).value()));
  return golden;
}

class Family : public ::testing::TestWithParam<const char*> {
 protected:
  const Tokenizer tokenizer_ =
      Tokenizer::Load(kGolden / (std::string(GetParam()) + ".json")).value();
  const json& ids_ = GoldenIds()["ids"][GetParam()];
};

TEST_P(Family, GivesTheIdsOfTheTokenizersLibrary) {
  const json& texts = GoldenIds()["texts"];
  ASSERT_EQ(texts.size(), ids_.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto encoding = tokenizer_.Encode(texts[i].get<std::string>());
    ASSERT_TRUE(encoding) << texts[i] << encoding.error().ToString();
    EXPECT_EQ(encoding->ids, ids_[i].get<Ids>()) << texts[i];
  }
}

// The loss mask goes by them.
TEST_P(Family, TokensCoverTheTextInOrder) {
  for (const json& item : GoldenIds()["texts"]) {
    const std::string text = item;
    const Encoding encoding = tokenizer_.Encode(text).value();
    uint32_t end = 0;
    for (size_t i = 0; i < encoding.ids.size(); ++i) {
      ASSERT_LE(encoding.begins[i], encoding.ends[i]) << item;
      ASSERT_LE(encoding.begins[i], end) << item << ": a byte without a token";
      ASSERT_GE(encoding.ends[i], end) << item;
      end = encoding.ends[i];
      if (std::string(GetParam()) == "qwen2") continue;  // composed characters share their bytes
      const std::string_view bytes = tokenizer_.TokenBytes(encoding.ids[i]).value();
      EXPECT_NE(text.substr(encoding.begins[i], end - encoding.begins[i]).find(bytes),
                std::string::npos)
          << item;
    }
    ASSERT_EQ(end, text.size()) << item;
  }
}

TEST_P(Family, DecodingGivesTheTextBackWholeOrAsItComes) {
  const std::string name = GetParam();
  for (const json& item : GoldenIds()["texts"]) {
    const std::string text = item;
    const Encoding encoding = tokenizer_.Encode(text).value();
    const std::string decoded = tokenizer_.Decode(encoding.ids).value();
    // NFC and the blanks that added tokens take with them do not come back.
    if (name == "smollm" || name == "llama3") {
      EXPECT_EQ(decoded, text);
    }
    StreamDecoder stream(tokenizer_, false);
    std::string streamed;
    for (const int32_t id : encoding.ids) streamed += stream.Push(id).value();
    EXPECT_EQ(streamed + stream.Flush(), decoded) << item;
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, Family, ::testing::Values("smollm", "llama3", "qwen2", "gpt2"),
                         [](const auto& family) { return std::string(family.param); });

// A word of the vocabulary that no merge makes is found whole, and only with ignore_merges.
TEST(TokenizerModel, IgnoreMergesTakesWholeWordsFirst) {
  json root = json::parse(ReadTextFile(kGolden / "llama3.json", 1 << 20).value());
  const std::string word = " zebraing";
  const auto count = [&] {
    return Tokenizer::FromJson(root.dump(), "t")->Encode(word)->ids.size();
  };
  EXPECT_EQ(count(), 1u);
  root["model"]["ignore_merges"] = false;
  EXPECT_GT(count(), 1u);
}

// "abc" with the merges "b c" before "a b" is a|bc, where merging from the left would give ab|c.
TEST(TokenizerModel, MergesGoByRankNotByPlace) {
  const json root = {{"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
                     {"decoder", {{"type", "ByteLevel"}}},
                     {"model",
                      {{"type", "BPE"},
                       {"vocab", {{"a", 0}, {"b", 1}, {"c", 2}, {"bc", 3}, {"ab", 4}}},
                       {"merges", {"b c", "a b"}}}}};
  const auto tokenizer = Tokenizer::FromJson(root.dump(), "t");
  ASSERT_TRUE(tokenizer) << tokenizer.error().ToString();
  EXPECT_EQ(tokenizer->Encode("abc")->ids, (Ids{0, 3}));
  EXPECT_EQ(tokenizer->Encode("abab")->ids, (Ids{4, 4}));
}

TEST(TokenizerModel, LongTextsWithoutASpaceTakeNoSquaredTime) {
  const auto tokenizer = Tokenizer::Load(kGolden / "smollm.json").value();
  const std::string text(2u << 20, 'e');
  const auto encoding = tokenizer.Encode(text);
  ASSERT_TRUE(encoding) << encoding.error().ToString();
  EXPECT_EQ(encoding->ends.back(), text.size());
}

TEST(TokenizerModel, TextThatIsNotUtf8OrTooLongIsRefused) {
  const auto tokenizer = Tokenizer::Load(kGolden / "smollm.json").value();
  for (const char* bad : {"ab\xff", "ab\xc3", "ab\xed\xa0\x80", "ab\xf4\x90\x80\x80"}) {
    const auto refused = tokenizer.Encode(bad);
    ASSERT_FALSE(refused) << bad;
    EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
    EXPECT_NE(refused.error().message().find("not UTF-8 at byte 2"), std::string::npos);
  }
  const auto too_long = tokenizer.Encode(std::string(kMaxEncodeBytes + 1, 'a'));
  ASSERT_FALSE(too_long);
  EXPECT_EQ(too_long.error().code(), Code::kResourceExhausted);
  EXPECT_FALSE(tokenizer.Decode(Ids{-1}));
  EXPECT_FALSE(tokenizer.Decode(Ids{static_cast<int32_t>(tokenizer.vocab_size())}));
}

struct Refusal {
  const char* what;
  std::function<void(json&)> spoil;
  Code code;
  const char* told;
};

std::vector<Refusal> UnbuiltParts() {
  const auto set = [](const char* pointer, json value) {
    return [=](json& root) { root[json::json_pointer(pointer)] = value; };
  };
  const Code no = Code::kUnsupported;
  return {
      {"Unigram", set("/model/type", "Unigram"), no, "\"Unigram\""},
      {"WordPiece", set("/model/type", "WordPiece"), no, "\"WordPiece\""},
      {"byte fallback", set("/model/byte_fallback", true), no, "byte_fallback"},
      {"dropout", set("/model/dropout", 0.1), no, "dropout"},
      {"prefix", set("/model/continuing_subword_prefix", "##"), no, "continuing_subword_prefix"},
      {"suffix", set("/model/end_of_word_suffix", "</w>"), no, "end_of_word_suffix"},
      {"lower case", set("/normalizer", {{"type", "Lowercase"}}), no, "\"Lowercase\""},
      {"NFKC in a sequence",
       set("/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFKC"}}}}}), no,
       "\"NFKC\""},
      {"no pre-tokenizer", set("/pre_tokenizer", nullptr), no, "ByteLevel"},
      {"Metaspace", set("/pre_tokenizer", {{"type", "Metaspace"}}), no, "Metaspace"},
      {"prefix space", set("/pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", true}}),
       no, "add_prefix_space"},
      {"merged matches",
       set("/pre_tokenizer/pretokenizers/0",
           {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "MergedWithNext"}}),
       no, "\"MergedWithNext\""},
      {"a pattern of another engine",
       set("/pre_tokenizer/pretokenizers/0",
           {{"type", "Split"}, {"pattern", {{"Regex", "(?<a"}}}, {"behavior", "Isolated"}}),
       no, "(?<a"},
      {"Fuse", set("/decoder", {{"type", "Fuse"}}), no, "\"Fuse\""},
      {"RoBERTa's specials", set("/post_processor", {{"type", "RobertaProcessing"}}), no,
       "\"RobertaProcessing\""},
  };
}

std::vector<Refusal> MalformedParts() {
  const auto set = [](const char* pointer, json value) {
    return [=](json& root) { root[json::json_pointer(pointer)] = value; };
  };
  const Code bad = Code::kInvalidArgument;
  return {
      {"no vocabulary", set("/model/vocab", nullptr), bad, "model.vocab"},
      {"an id that is a text", set("/model/vocab/a", "7"), bad, "model.vocab"},
      {"an id of 2^40", set("/model/vocab/a", 1ll << 40), bad, "has id 1099511627776"},
      {"an id below 0", set("/model/vocab/a", -1), bad, "has id -1"},
      {"an id twice", set("/model/vocab/a", 5), bad, "the id 5 is given to two tokens"},
      {"no merges", set("/model/merges", 7), bad, "model.merges"},
      {"a merge of three", set("/model/merges/0", "a b c"), bad, "\"a b c\""},
      {"a merge of strangers", set("/model/merges/0", "a zzzz"), bad, "outside the vocabulary"},
      {"an added token on another's id",
       [](json& root) {
         root["added_tokens"].push_back({{"id", 5}, {"content", "<new>"}});
       },
       bad, "\"<new>\" of id 5 clashes"},
      {"an added token without text",
       [](json& root) {
         root["added_tokens"].push_back({{"id", 999}, {"content", ""}});
       },
       bad, "added_tokens"},
      {"an unknown token of no id", set("/model/unk_token", "<none>"), bad, "\"<none>\""},
      {"specials of no id",
       set("/post_processor",
           {{"type", "TemplateProcessing"},
            {"single", {{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
            {"special_tokens", {{"<s>", {{"ids", {100'000}}}}}}}),
       bad, "unknown token 100000"},
  };
}

TEST(TokenizerFile, WhatIsNotBuiltOrMalformedIsRefusedByName) {
  const json good = json::parse(ReadTextFile(kGolden / "smollm.json", 1 << 20).value());
  std::vector<Refusal> rows = UnbuiltParts();
  for (Refusal& row : MalformedParts()) rows.push_back(std::move(row));
  for (const Refusal& row : rows) {
    json root = good;
    row.spoil(root);
    const auto refused = Tokenizer::FromJson(root.dump(), "dir/tokenizer.json");
    ASSERT_FALSE(refused) << row.what;
    EXPECT_EQ(refused.error().code(), row.code) << row.what << refused.error().ToString();
    const std::string& message = refused.error().message();
    EXPECT_NE(message.find("dir/tokenizer.json"), std::string::npos) << row.what << message;
    EXPECT_NE(message.find(row.told), std::string::npos) << row.what << ": " << message;
  }
}

// A pattern that backtracks for ever ends at its limit.
TEST(TokenizerFile, APatternThatNeverEndsGivesUp) {
  json root = json::parse(ReadTextFile(kGolden / "smollm.json", 1 << 20).value());
  root["pre_tokenizer"]["pretokenizers"][0] = {
      {"type", "Split"}, {"pattern", {{"Regex", "(a+)+$"}}}, {"behavior", "Isolated"}};
  const auto tokenizer = Tokenizer::FromJson(root.dump(), "t");
  ASSERT_TRUE(tokenizer) << tokenizer.error().ToString();
  const auto gave_up = tokenizer->Encode(std::string(60, 'a') + "b");
  ASSERT_FALSE(gave_up);
  EXPECT_EQ(gave_up.error().code(), Code::kResourceExhausted);
  EXPECT_NE(gave_up.error().message().find("gave up at byte 0"), std::string::npos);
}

TEST(TokenizerFile, EveryTruncationIsRefused) {
  const std::string text = ReadTextFile(kGolden / "gpt2.json", 1 << 20).value();
  for (size_t size = 0; size + 1 < text.size(); size += 97) {
    EXPECT_FALSE(Tokenizer::FromJson(text.substr(0, size), "t")) << size;
  }
}

}  // namespace
}  // namespace tidegate::model
