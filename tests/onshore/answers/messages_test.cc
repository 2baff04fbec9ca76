#include "onshore/answers/messages.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>

#include "onshore/answers/worker.h"

namespace tidegate::onshore {
namespace {

Ask Full() {
  Ask ask;
  ask.id = 7;
  ask.model = "base";
  ask.messages = {{"system", "be short"}, {"user", "line\nbreak \"quoted\" ü"}};
  ask.max_new_tokens = 5;
  ask.temperature = 0.5;
  ask.top_p = 0.25;
  ask.top_k = 3;
  ask.repetition_penalty = 1.5;
  ask.seed = UINT64_MAX;
  ask.stop = {"\n", "END"};
  return ask;
}

TEST(AnswerMessages, QuestionsComeBackAsTheyWere) {
  const std::string line = EncodeAsk(Full());
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const Command command = DecodeCommand(line.substr(0, line.size() - 1)).value();
  EXPECT_FALSE(command.cancel);
  EXPECT_EQ(EncodeAsk(command.ask), line);
  EXPECT_EQ(command.ask.seed, UINT64_MAX);
  EXPECT_EQ(command.ask.messages[1].content, Full().messages[1].content);
  const Command cancel = DecodeCommand("{\"cancel\":9}").value();
  EXPECT_TRUE(cancel.cancel);
  EXPECT_EQ(cancel.ask.id, 9u);
}

TEST(AnswerMessages, EventsComeBackAsTheyWere) {
  AnswerEvent event;
  for (const auto kind : {AnswerEvent::Kind::kReady, AnswerEvent::Kind::kText,
                          AnswerEvent::Kind::kEnd, AnswerEvent::Kind::kError}) {
    event.kind = kind;
    event.id = kind == AnswerEvent::Kind::kReady ? 0 : 3;
    event.text = "some text";
    event.code = Code::kNotFound;
    event.models = {"a", "b"};
    const std::string line = EncodeEvent(event);
    const AnswerEvent back = DecodeEvent(std::string_view(line).substr(0, line.size() - 1)).value();
    EXPECT_EQ(back.kind, kind);
    EXPECT_EQ(EncodeEvent(back), line);
  }
}

// Whoever reads lines over the limit takes the process for gone.
TEST(AnswerMessages, AnErrorThatRepeatsALongQuestionFitsALine) {
  AnswerEvent event;
  event.kind = AnswerEvent::Kind::kError;
  event.code = Code::kNotFound;
  event.text = "there is no model " + std::string(kMaxAnswerLine, '\x01');
  const std::string line = EncodeEvent(event);
  ASSERT_LT(line.size(), kMaxAnswerLine);
  const auto back = DecodeEvent(std::string_view(line).substr(0, line.size() - 1));
  ASSERT_TRUE(back);
  EXPECT_TRUE(back->text.starts_with("there is no model "));
}

TEST(AnswerMessages, WhatIsNoQuestionIsRefused) {
  for (const char* line : {
           "",
           "[]",
           "{}",
           "{\"ask\":{}}",
           "{\"ask\":{\"id\":-1.5,\"model\":\"m\"}}",
           "{\"ask\":{\"id\":1,\"model\":7}}",
           "{\"ask\":{\"id\":1,\"model\":\"m\",\"stop\":[\"\"]}}",
           "{\"ask\":{\"id\":1,\"model\":\"m\",\"messages\":[{\"role\":\"user\"}]}}",
           "{\"ask\":{\"id\":1,\"model\":\"m\",\"seed\":-1}}",
           "{\"ask\":{\"id\":1,\"model\":\"m\",\"top_k\":1e300}}",
           "{\"ask\":{\"id\":1,\"model\":\"m\",\"max_new_tokens\":18446744073709551615}}",
           "{\"cancel\":\"all\"}",
       }) {
    EXPECT_FALSE(DecodeCommand(line)) << line;
  }
  EXPECT_FALSE(DecodeEvent("{\"event\":\"song\"}"));
  EXPECT_FALSE(DecodeEvent("{\"event\":\"end\",\"id\":1,\"new_tokens\":9223372036854775807}"));
  EXPECT_FALSE(DecodeEvent("{\"event\":\"error\",\"id\":1,\"code\":1e99}"));
  Ask ask = Full();
  ask.stop.assign(kMaxStopTexts + 1, "x");
  EXPECT_FALSE(DecodeCommand(EncodeAsk(ask)));
}

TEST(AnswerWorkerTest, AProgramThatDoesNotServeIsTold) {
  const auto missing = AnswerWorker::Start({"/nonexistent"}, std::chrono::seconds(5));
  ASSERT_FALSE(missing);
  const auto ended = AnswerWorker::Start({"/bin/false"}, std::chrono::seconds(5));
  ASSERT_FALSE(ended);
  EXPECT_EQ(ended.error().code(), Code::kUnavailable);
  EXPECT_NE(ended.error().message().find("exit code 1"), std::string::npos);
  // What it says last is told, whatever it is.
  for (const auto& [said, told] : std::vector<std::pair<std::string, std::string>>{
           {"{\"error\":{\"message\":\"no base\"}}", ": no base"},
           {"{\"error\":{\"message\":5}}", "\"message\":5"},
           {"{\"error\":\"none\"}", "\"none\""}}) {
    const auto failed = AnswerWorker::Start({"/bin/sh", "-c", "echo '" + said + "' >&2; exit 99"},
                                            std::chrono::seconds(10), {.keep_errors = true});
    ASSERT_FALSE(failed);
    EXPECT_NE(failed.error().message().find(told), std::string::npos) << failed.error().message();
  }
  const auto silent = AnswerWorker::Start({"/bin/cat"}, std::chrono::milliseconds(50));
  ASSERT_FALSE(silent);
  EXPECT_EQ(silent.error().code(), Code::kDeadlineExceeded);
}

// A shell that plays the model: what it does not say well is left out, and its end is an error of
// the open question.
TEST(AnswerWorkerTest, EventsReachTheirQuestionAndTheEndReachesAll) {
  const char* script =
      "echo '{\"event\":\"ready\",\"models\":[\"m\"],\"walls\":\"none\"}'; read line; "
      "echo 'no json'; echo '{\"event\":\"text\",\"id\":99,\"text\":\"not asked\"}'; "
      "echo '{\"event\":\"text\",\"id\":1,\"text\":\"hello\"}'; exit 3";
  const auto worker =
      AnswerWorker::Start({"/bin/sh", "-c", script}, std::chrono::seconds(10)).value();
  EXPECT_EQ(worker->models(), std::vector<std::string>{"m"});
  std::promise<Status> ended;
  std::string text;
  Ask ask;
  ask.model = "m";
  ASSERT_TRUE(worker->Submit(ask, [&](const AnswerEvent& event) {
    if (event.kind == AnswerEvent::Kind::kText) text += event.text;
    if (event.kind == AnswerEvent::Kind::kError) ended.set_value({event.code, event.text});
  }));
  EXPECT_EQ(ended.get_future().get().code(), Code::kUnavailable);
  EXPECT_EQ(text, "hello");
  EXPECT_FALSE(worker->alive());
  EXPECT_FALSE(worker->Submit(ask, {}));
}

}  // namespace
}  // namespace tidegate::onshore
