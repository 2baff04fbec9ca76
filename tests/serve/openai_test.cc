#include "serve/openai.h"

#include <gtest/gtest.h>

namespace tidegate::serve {
namespace {

using nlohmann::json;

TEST(OpenAi, AQuestionAsClientsSendIt) {
  const auto question = ParseQuestion(Api::kChat, R"({
      "model": "m", "stream": true, "stream_options": {"include_usage": true},
      "messages": [{"role": "developer", "content": "short"},
                   {"role": "user", "content": [{"type": "text", "text": "a"},
                                                {"type": "text", "text": "b"}]}],
      "max_completion_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stop": "X", "seed": -3,
      "n": 1, "presence_penalty": 0, "user": "somebody", "tools": [], "tool_choice": "none"})",
                                      1)
                            .value();
  EXPECT_TRUE(question.stream);
  EXPECT_TRUE(question.include_usage);
  EXPECT_EQ(question.ask.messages[0].role, "system");
  EXPECT_EQ(question.ask.messages[1].content, "ab");
  EXPECT_EQ(question.ask.max_new_tokens, 9);
  EXPECT_EQ(question.ask.stop, std::vector<std::string>{"X"});
  EXPECT_EQ(question.ask.seed, static_cast<uint64_t>(-3));
  const auto bare = ParseQuestion(Api::kCompletion, R"({"model": "m", "prompt": ["once"]})", 5);
  EXPECT_EQ(bare->ask.text, "once");
  EXPECT_EQ(bare->ask.seed, 5u);
  EXPECT_EQ(bare->ask.temperature, 1.0);
}

TEST(OpenAi, WhatHasNoPlaceHereIsNamed) {
  const std::string ok = R"("model": "m", "messages": [{"role": "user", "content": "x"}])";
  const std::pair<std::string, const char*> wrong[] = {
      {"[]", "JSON object"},
      {"{", "the request"},
      {R"({"messages": []})", "'model'"},
      {R"({"model": "m"})", "'messages'"},
      {R"({"model": "m", "messages": []})", "'messages'"},
      {R"({"model": "m", "messages": [{"role": "user"}]})", "messages[0]"},
      {R"({"model": "m", "messages": [{"role": "user", "content": 5}]})", "messages[0]"},
      {R"({"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]})",
       "messages[0]"},
      {"{" + ok + R"(, "tools": [{}]})", "'tools'"},
      {"{" + ok + R"(, "n": 2})", "'n'"},
      {"{" + ok + R"(, "logprobs": true})", "'logprobs'"},
      {"{" + ok + R"(, "presence_penalty": 1})", "'presence_penalty'"},
      {"{" + ok + R"(, "response_format": {"type": "json_object"}})", "'response_format'"},
      {"{" + ok + R"(, "response_format": {"type": 1}})", "'response_format'"},
      {R"({"model": "m", "messages": [{"role": "user", "content": [{"type": 1}]}]})",
       "messages[0]"},
      {"{" + ok + R"(, "temperature": 3})", "'temperature'"},
      {"{" + ok + R"(, "temperature": "hot"})", "'temperature'"},
      {"{" + ok + R"(, "max_tokens": 0})", "'max_tokens'"},
      {"{" + ok + R"(, "stop": [""]})", "'stop'"},
      {"{" + ok + R"(, "stream": "yes"})", "'stream'"},
      {"{" + ok + R"(, "model": "m"})", "twice"},
  };
  for (const auto& [body, what] : wrong) {
    const auto refused = ParseQuestion(Api::kChat, body, 0);
    ASSERT_FALSE(refused) << body;
    if (std::string(what) != "twice") {
      EXPECT_NE(refused.error().message().find(what), std::string::npos)
          << refused.error().message();
    }
  }
  EXPECT_FALSE(ParseQuestion(Api::kCompletion, R"({"model": "m", "prompt": ["a", "b"]})", 0));
}

TEST(OpenAi, AnswersAsClientsReadThem) {
  const AnswerHead head{Api::kChat, "chatcmpl-1", 17, "m"};
  onshore::AnswerEvent end;
  end.kind = onshore::AnswerEvent::Kind::kEnd;
  end.text = "positions";
  end.prompt_tokens = 4;
  end.new_tokens = 2;
  const json whole = WholeAnswer(head, "hi", end);
  EXPECT_EQ(whole.at("object"), "chat.completion");
  EXPECT_EQ(whole.at("choices")[0].at("message").at("content"), "hi");
  EXPECT_EQ(whole.at("choices")[0].at("finish_reason"), "length");
  EXPECT_EQ(whole.at("usage").at("total_tokens"), 6);
  const auto parse = [](const std::string& event) {
    EXPECT_TRUE(event.starts_with("data: ") && event.ends_with("\n\n"));
    return json::parse(event.substr(6));
  };
  EXPECT_EQ(parse(FirstChunk(head)).at("choices")[0].at("delta").at("role"), "assistant");
  EXPECT_EQ(parse(TextChunk(head, "a")).at("choices")[0].at("delta").at("content"), "a");
  const std::string last = LastChunks(head, end, true);
  EXPECT_TRUE(last.ends_with("data: [DONE]\n\n"));
  EXPECT_NE(last.find("\"usage\""), std::string::npos);
  EXPECT_EQ(LastChunks(head, end, false).find("\"usage\""), std::string::npos);
  const AnswerHead text{Api::kCompletion, "cmpl-1", 17, "m"};
  EXPECT_EQ(FirstChunk(text), "");
  EXPECT_EQ(parse(TextChunk(text, "a")).at("choices")[0].at("text"), "a");
  EXPECT_EQ(json(WholeAnswer(text, "hi", end)).at("choices")[0].at("text"), "hi");
}

TEST(OpenAi, ErrorsHaveTheStatusThatClientsExpect) {
  EXPECT_EQ(HttpStatus(Code::kInvalidArgument), 400);
  EXPECT_EQ(HttpStatus(Code::kUnauthenticated), 401);
  EXPECT_EQ(HttpStatus(Code::kNotFound), 404);
  EXPECT_EQ(HttpStatus(Code::kResourceExhausted), 429);
  EXPECT_EQ(HttpStatus(Code::kUnavailable), 503);
  EXPECT_EQ(HttpStatus(Code::kInternal), 500);
  const json body = ErrorBody(InvalidArgument("'n' must be 1"));
  EXPECT_EQ(body.at("error").at("type"), "invalid_request_error");
  EXPECT_EQ(body.at("error").at("message"), "'n' must be 1");
}

}  // namespace
}  // namespace tidegate::serve
