// A chat begins with one beginning of sequence, the template's, and a text with the tokenizer's:
// the ids that transformers gives where both know one.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "records/encode.h"

namespace tidegate::records {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

const std::filesystem::path kBos = TIDEGATE_SOURCE_DIR "/tests/golden/chat/bos";

class Bos : public ::testing::Test {
 protected:
  void SetUp() override {
    golden_ = json::parse(ReadTextFile(kBos / "ids.json", 1 << 20).value());
    tokenizer_.emplace(model::Tokenizer::Load(kBos / "tokenizer.json").value());
    chat_.emplace(*model::LoadChatTemplate(kBos, render_).value());
    encoder_.emplace(*tokenizer_, &*chat_, render_);
  }
  static Record ChatOf(const json& golden) {
    Record record;
    record.kind = RecordKind::kMessages;
    for (const json& message : golden["messages"]) {
      record.messages.push_back({message["role"], message["content"]});
    }
    return record;
  }
  Ids Encoded(Record record) {
    auto encoded = encoder_->Encode(Onshore<Record>(std::move(record)), {});
    EXPECT_TRUE(encoded) << encoded.error().ToString();
    return encoded ? encoded->reveal().tokens.ids : Ids();
  }
  Ids Asked(Record record) {
    const auto asked = encoder_->Question(Onshore<Record>(std::move(record)));
    EXPECT_TRUE(asked) << asked.error().ToString();
    return asked ? asked->reveal().prompt : Ids();
  }

  json golden_;
  std::optional<model::Tokenizer> tokenizer_;
  std::optional<model::ChatTemplate> chat_;
  model::RenderOptions render_;
  std::optional<Encoder> encoder_;
};

TEST_F(Bos, AChatHasExactlyOne) {
  const int32_t bos = golden_["bos"];
  ASSERT_EQ(tokenizer_->Encode("a", {.add_special_tokens = true})->ids.at(0), bos);
  for (const json& chat : golden_["chats"]) {
    Record record = ChatOf(chat);
    if (chat["prompt"] == true) record.messages.push_back({"assistant", "any answer"});
    const Ids ids = chat["prompt"] == true ? Asked(record) : Encoded(record);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), bos), 1) << chat["messages"];
    EXPECT_EQ(ids, chat["ids"].get<Ids>()) << chat["messages"];
  }
}

TEST_F(Bos, ATextHasTheTokenizersAndTheEndOfSequence) {
  for (const json& text : golden_["texts"]) {
    Ids expected = text["ids"];
    Record record;
    record.text = text["text"];
    Record pair;
    pair.kind = RecordKind::kPromptCompletion;
    pair.prompt = record.text;
    EXPECT_EQ(Asked(pair), expected) << text["text"];
    expected.push_back(golden_["eos"]);
    EXPECT_EQ(Encoded(record), expected) << text["text"];
    EXPECT_EQ(Encoded(pair), expected) << text["text"];
  }
}

}  // namespace
}  // namespace tidegate::records
