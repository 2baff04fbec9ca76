// Many questions at once: each gets the answer that it would get alone.
#include "onshore/trainer/answer_loop.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "finetune/evaluate.h"

namespace tidegate::trainer {
namespace {

using onshore::AnswerEvent;
using onshore::Ask;

const std::filesystem::path kBase =
    std::filesystem::path(TIDEGATE_SOURCE_DIR) / "tests/golden/tiny_llama";

class Answers : public testing::Test {
 protected:
  Answers() : base_(finetune::LoadedBase::Load(kBase, "f32", 1).value()) { Open({}); }
  void Open(const AnswerLimits& limits) {
    loop_ = std::make_unique<AnswerLoop>(base_, limits, [this](const AnswerEvent& event) {
      heard_[event.id].push_back(event);
      return OkStatus();
    });
    ASSERT_TRUE(loop_->AddModel("base", {}).ok());
    ASSERT_TRUE(loop_->AddModel("tuned", kBase / "adapter_in").ok());
  }
  static Ask Question(uint64_t id, const std::string& text, const std::string& model = "base") {
    Ask ask;
    ask.id = id;
    ask.model = model;
    ask.messages = {{"user", text}};
    ask.max_new_tokens = 12;
    ask.temperature = 0;
    return ask;
  }
  void Put(const Ask& ask) { ASSERT_TRUE(loop_->Take({false, ask}).ok()); }
  void RunAll() {
    while (loop_->busy()) ASSERT_TRUE(loop_->Advance().ok());
  }
  std::string TextOf(uint64_t id) const {
    std::string text;
    for (const AnswerEvent& event : heard_.at(id)) {
      if (event.kind == AnswerEvent::Kind::kText) text += event.text;
    }
    return text;
  }
  const AnswerEvent& LastOf(uint64_t id) const { return heard_.at(id).back(); }

  finetune::LoadedBase base_;
  std::map<uint64_t, std::vector<AnswerEvent>> heard_;
  std::unique_ptr<AnswerLoop> loop_;
};

TEST_F(Answers, TogetherAsAlone) {
  std::vector<Ask> asks;
  for (uint64_t id = 1; id <= 6; ++id) {
    Ask ask = Question(id, "question " + std::to_string(id), id % 2 == 0 ? "tuned" : "base");
    ask.temperature = id > 3 ? 1.0 : 0.0;
    ask.seed = id;
    ask.max_new_tokens = 6 + static_cast<int64_t>(id);
    asks.push_back(ask);
    Put(ask);
  }
  RunAll();
  std::map<uint64_t, std::string> together;
  for (const Ask& ask : asks) together[ask.id] = TextOf(ask.id);
  for (Ask ask : asks) {
    const uint64_t id = ask.id;
    ask.id += 100;
    Put(ask);
    RunAll();
    EXPECT_EQ(TextOf(ask.id), together[id]) << id;
    EXPECT_EQ(LastOf(id).kind, AnswerEvent::Kind::kEnd);
    EXPECT_GT(LastOf(id).new_tokens, 0);
  }
  EXPECT_NE(together[1], together[2]);
}

// The tokens of the generator that the verb `generate` uses.
TEST_F(Answers, AreThoseOfGenerate) {
  Ask ask = Question(1, "");
  ask.messages.clear();
  ask.text = "the water";
  Put(ask);
  RunAll();
  const auto engine = finetune::MakeEngine(base_, {}).value();
  model::KvCache cache = engine->NewCache();
  model::GenerateOptions options;
  options.max_new_tokens = 12;
  options.stop_ids = base_.stop_ids;
  options.vocab_limit = base_.tokenizer->vocab_size();
  const auto prompt = base_.tokenizer->Encode("the water", {.add_special_tokens = true}).value();
  const auto generation = model::Generate(*engine, cache, prompt.ids, options, {}).value();
  EXPECT_EQ(TextOf(1), base_.tokenizer->Decode(generation.ids, true).value());
  EXPECT_EQ(LastOf(1).new_tokens, static_cast<int64_t>(generation.ids.size()));
}

TEST_F(Answers, AConversationThatGoesOnIsNotComputedAgain) {
  Ask ask = Question(1, "one");
  Put(ask);
  RunAll();
  ask.id = 2;
  ask.messages.push_back({"assistant", TextOf(1)});
  ask.messages.push_back({"user", "two"});
  Put(ask);
  RunAll();
  EXPECT_EQ(LastOf(1).cached_tokens, 0);
  EXPECT_GT(LastOf(2).cached_tokens, 5);
  AnswerLimits limits;
  Open(limits);  // nothing kept
  ask.id = 3;
  Put(ask);
  RunAll();
  EXPECT_EQ(TextOf(3), TextOf(2));
}

// They are memory as answers on their way are: a question that needs it gets it.
TEST_F(Answers, ConversationsThatAreKeptGiveWayWhereMemoryIsShort) {
  Ask first = Question(1, "one");
  Put(first);
  RunAll();
  const int64_t tokens = LastOf(1).prompt_tokens + first.max_new_tokens;
  AnswerLimits limits;
  limits.free_bytes =
      model::KvCache::BytesFor(base_.config, base_.base->compute().dtype, 2 * tokens);
  Open(limits);
  // Two of them fit; of another model, too.
  Put(first);
  RunAll();
  Put(Question(2, "two", "tuned"));
  RunAll();
  Put(Question(3, "six", "tuned"));
  RunAll();
  EXPECT_EQ(LastOf(3).kind, AnswerEvent::Kind::kEnd);
  Ask again = Question(4, "one");
  Put(again);
  RunAll();
  EXPECT_EQ(LastOf(4).cached_tokens, 0) << "the oldest went";
  EXPECT_EQ(TextOf(4), TextOf(1).substr(0, TextOf(4).size()));
  again.id = 5;
  Put(again);
  RunAll();
  EXPECT_GT(LastOf(5).cached_tokens, 0) << "the latest is there";
}

TEST_F(Answers, AStopTextEndsTheAnswerBeforeIt) {
  Put(Question(1, "tell"));
  RunAll();
  const std::string whole = TextOf(1);
  ASSERT_GT(whole.size(), 4u);
  Ask ask = Question(2, "tell");
  ask.stop = {whole.substr(3, 2), "never said"};
  Put(ask);
  RunAll();
  EXPECT_EQ(TextOf(2), whole.substr(0, whole.find(ask.stop[0])));
  EXPECT_EQ(LastOf(2).text, "stop");
}

TEST_F(Answers, OneThatIsTakenBackEndsAndTheOthersGoOn) {
  Ask slow = Question(1, "long"), other = Question(2, "short");
  slow.max_new_tokens = 100;
  Put(slow);
  Put(other);
  ASSERT_TRUE(loop_->Advance().ok());
  ASSERT_TRUE(loop_->Take({true, slow}).ok());
  RunAll();
  EXPECT_EQ(LastOf(1).text, "cancelled");
  EXPECT_LT(LastOf(1).new_tokens, 5);
  EXPECT_EQ(LastOf(2).kind, AnswerEvent::Kind::kEnd);
  Put(Question(3, "never begun"));
  ASSERT_TRUE(loop_->Take({true, Question(3, "")}).ok());
  EXPECT_EQ(LastOf(3).code, Code::kCancelled);
  EXPECT_FALSE(loop_->busy());
}

TEST_F(Answers, WhatCannotBeAnsweredIsTheAskersError) {
  Put(Question(1, "x", "nobody"));
  EXPECT_EQ(LastOf(1).code, Code::kNotFound);
  Put(Question(2, std::string(20000, 'x')));
  RunAll();
  EXPECT_EQ(LastOf(2).code, Code::kInvalidArgument);
  Ask wild = Question(3, "x");
  wild.top_p = 7;
  Put(wild);
  RunAll();
  EXPECT_EQ(LastOf(3).code, Code::kInvalidArgument);
  AnswerLimits limits;
  limits.waiting = 1;
  limits.free_bytes = 1000;
  Open(limits);
  Put(Question(4, "too large"));
  Put(Question(5, "one too many"));
  EXPECT_EQ(LastOf(5).code, Code::kResourceExhausted);
  RunAll();
  EXPECT_EQ(LastOf(4).code, Code::kResourceExhausted);
  EXPECT_FALSE(loop_->AddModel("base", {}).ok());
}

TEST(StopFilterTest, HoldsBackWhatMayBecomeAStop) {
  StopFilter filter({"END", "\n\n"});
  EXPECT_EQ(filter.Push("a"), "a");
  EXPECT_EQ(filter.Push("bE"), "b");
  EXPECT_EQ(filter.Push("N"), "");
  EXPECT_EQ(filter.Push("x\n"), "ENx");
  EXPECT_EQ(filter.Push("y"), "\ny");
  EXPECT_EQ(filter.Push("\n"), "");
  EXPECT_EQ(filter.Flush(), "\n");
  EXPECT_EQ(filter.Push("zEND more"), "z");
  EXPECT_TRUE(filter.stopped());
  StopFilter none({});
  EXPECT_EQ(none.Push("END"), "END");
}

}  // namespace
}  // namespace tidegate::trainer
