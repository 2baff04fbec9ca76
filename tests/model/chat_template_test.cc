#include "model/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/file.h"
#include "base/limits.h"

namespace tidegate::model {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::string_view kChatMl =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

Result<Rendered> TryRender(std::string_view text, const std::vector<ChatMessage>& messages = {},
                           const RenderOptions& options = {}) {
  TG_ASSIGN_OR_RETURN(const ChatTemplate parsed, ChatTemplate::Parse(text, "t"));
  return parsed.Render(messages, options);
}

std::string Text(std::string_view text, const std::vector<ChatMessage>& messages = {}) {
  const Result<Rendered> rendered = TryRender(text, messages);
  return rendered ? rendered->text : "ERROR " + rendered.error().message();
}

// "CODE message", or "" where there is no error.
std::string ErrorOf(std::string_view text, const std::vector<ChatMessage>& messages = {},
                    const RenderOptions& options = {}) {
  const Result<Rendered> rendered = TryRender(text, messages, options);
  return rendered ? "" : rendered.error().ToString();
}

std::vector<std::string> SpanTexts(const Rendered& rendered) {
  std::vector<std::string> out;
  for (const ByteSpanRange& span : rendered.assistant_spans) {
    out.push_back(rendered.text.substr(span.begin, span.end - span.begin));
  }
  return out;
}

json Golden() {
  const auto path = std::filesystem::path(TIDEGATE_SOURCE_DIR) / "tests/golden/chat/renders.json";
  const Result<std::string> text = ReadTextFile(path, 1 << 20);
  return json::parse(text.value());
}

std::vector<ChatMessage> Messages(const json& pairs) {
  std::vector<ChatMessage> messages;
  for (const json& pair : pairs) messages.push_back({pair[0], pair[1]});
  return messages;
}

class ChatGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(ChatGolden, RendersAndSpansAreThoseOfTransformers) {
  const json golden = Golden();
  const json& entry = golden["templates"][GetParam()];
  const Result<ChatTemplate> parsed =
      ChatTemplate::Parse(entry["template"].get<std::string>(), GetParam());
  ASSERT_TRUE(parsed) << parsed.error().message();
  int renders = 0;
  for (const json& render : golden["renders"]) {
    if (render["template"] != GetParam()) continue;
    ++renders;
    SCOPED_TRACE(render["conversation"].get<std::string>());
    RenderOptions options;
    options.add_generation_prompt = render["prompt"];
    options.bos_token = entry["bos_token"];
    options.eos_token = entry["eos_token"];
    const auto messages =
        Messages(golden["conversations"][render["conversation"].get<std::string>()]);
    const Result<Rendered> rendered = parsed->Render(messages, options);
    if (render.contains("error")) {
      ASSERT_FALSE(rendered);
      EXPECT_EQ(rendered.error().code(), Code::kInvalidArgument);
      continue;
    }
    ASSERT_TRUE(rendered) << rendered.error().message();
    EXPECT_EQ(rendered->text, render["text"].get<std::string>());
    std::vector<ByteSpanRange> expected;
    for (const json& span : render["spans"]) expected.push_back({span[0], span[1]});
    EXPECT_THAT(rendered->assistant_spans, ::testing::ElementsAreArray(expected))
        << ::testing::PrintToString(SpanTexts(*rendered));
  }
  EXPECT_GT(renders, 0);
}

INSTANTIATE_TEST_SUITE_P(Templates, ChatGolden,
                         ::testing::Values("smollm2", "qwen", "qwen_thinks", "llama3", "alternates",
                                           "generation", "language", "tiny_llama"),
                         [](const auto& test) { return test.param; });

const std::vector<ChatMessage> kPair = {{"user", "Q"}, {"assistant", "A"}};

TEST(ChatTemplate, WhitespaceControlIsJinjas) {
  EXPECT_EQ(Text("a\r\nb\rc\n"), "a\nb\nc");
  EXPECT_EQ(Text("a\n  {%- if true -%}  \n b {% endif %}\n\nc"), "ab \nc");
  EXPECT_EQ(Text("  {% if true %}\n  x\n  {% endif %}\ny"), "  x\ny");
  EXPECT_EQ(Text("  {%+ if true +%}\nx{% endif %}"), "  \nx");
  EXPECT_EQ(Text("a {# c #}\n b {#- d -#}\n e"), "a  be");
  EXPECT_EQ(Text("{{ '}}' }}{{ '%}' }}{ { {%if true%}{ {%endif%}"), "}}%}{ { { ");
}

TEST(ChatTemplate, ContentIsNeverReadAsTemplate) {
  const std::string hostile = "{{ 1 }}{% for x in y %}{#";
  const Result<Rendered> rendered = TryRender(kChatMl, {{"assistant", hostile}});
  ASSERT_TRUE(rendered);
  EXPECT_EQ(rendered->text, "<|im_start|>assistant\n" + hostile + "<|im_end|>\n");
}

TEST(ChatTemplate, WhatIsNotBuiltIsRefusedByNameAndLine) {
  const std::pair<std::string_view, std::string_view> kCases[] = {
      {"\n{% macro f() %}{% endmacro %}", "t, line 2: the tag 'macro'"},
      {"{% include 'x' %}", "t, line 1: the tag 'include'"},
      {"\n\n{% import 'os' as os %}", "line 3: the tag 'import'"},
      {"{% raw %}{% endraw %}", "the tag 'raw'"},
      {"{% for x in [] if x %}{% endfor %}", "a for with a condition"},
      {"{% set a, b = 1 %}", "a set of several names"},
      {"{% set a %}x{% endset %}", "a set with a body"},
      {"{{ 1 / 2 }}", "the operator /"},
      {"{{ 2 ** 3 }}", "the operator **"},
      {"{{ 1.5 }}", "whole numbers"},
      {"{{ {'a': 1} }}", "a mapping in braces"},
      {"\n{{ 'a' | replace('a', 'b') }}", "line 2: the filter 'replace'"},
      {"{{ 3 is odd }}", "the test 'odd'"},
      {"{{ 3 is divisibleby 3 }}", "an argument of the test 'divisibleby'"},
      {"\n{{ range(3) }}", "line 2: the function 'range'"},
      {"{{ ''.format(1) }}", "the method 'format'"},
      {"{{ messages.append(1) }}", "calling 'append' of a list"},
      {"{{ ''.__class__.__mro__ }}", "undefined value has no attribute '__mro__'"},
      {"{{ loop.cycle(1) }}", "calling 'cycle'"},
      {"{{ [1] }}", "use the filter tojson"},
      {"{{ 'é' | upper }}", "not ASCII"},
      {"{% set n = namespace() %}{% set n.n = n %}", "a namespace inside a namespace"},
      {"{% set n = namespace() %}{% set n.n = [n] %}", "a namespace inside a list"},
  };
  for (const auto& [text, message] : kCases) {
    EXPECT_THAT(ErrorOf(text), HasSubstr(message)) << text;
  }
}

TEST(ChatTemplate, WhatIsNotBuiltMayStandInABranchThatIsNotTaken) {
  EXPECT_EQ(Text("{% if tools %}{{ tools | map(attribute='x') | list }}{% endif %}ok"), "ok");
}

TEST(ChatTemplate, SyntaxErrorsNameTheLine) {
  const std::pair<std::string_view, std::string_view> kCases[] = {
      {"\n{{ 'a", "t, line 2: a text has no end"},
      {"{{ a", "line 1: a tag has no end"},
      {"{# a", "a comment has no end"},
      {"{{ }}", "a value expected, found }}"},
      {"{{ a b }}", "}} expected, found b"},
      {"\n{% if %}{% endif %}", "line 2: a value expected"},
      {"{% if 1 %}\n{% endfor %}", "line 2: endfor without its beginning"},
      {"{% if 1 %}", "a block has no endif"},
      {"{% for x in y %}", "a block has no endfor"},
      {"{% if 1 %}{% else %}{% elif 1 %}{% endif %}", "elif without its beginning"},
      {"{% for in y %}{% endfor %}", "a name expected"},
      {"{{ (1 }}", "unexpected '}'"},
      {"{{ a[] }}", "an index expected"},
      {"{{ '\\ud800' }}", "hexadecimal digits of a character"},
      {"{{ $ }}", "unexpected '$'"},
      {"{% %}", "the name of a tag expected"},
      {"{% generation %}{% generation %}{% endgeneration %}{% endgeneration %}",
       "a generation block inside another"},
  };
  for (const auto& [text, message] : kCases) {
    EXPECT_THAT(ErrorOf(text), AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr(message))) << text;
  }
}

TEST(ChatTemplate, ValuesOfTheWrongKindAreErrorsNotText) {
  for (const std::string_view text :
       {"{{ 1 + 'a' }}", "{{ 'a' - 'b' }}", "{{ nothing.x }}", "{{ nothing['x'] }}",
        "{{ nothing + 'a' }}", "{{ 1 // 0 }}", "{{ 9223372036854775807 + 1 }}", "{{ 1 in 2 }}",
        "{{ 'a' < 1 }}", "{{ 'a'[::0] }}", "{{ 'a'.split('') }}", "{{ 5 | length }}",
        "{% set x.y = 1 %}", "{{ raise_exception('no') }}", "{{ strftime_now(1) }}"}) {
    EXPECT_THAT(ErrorOf(text), AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("t, line 1: ")))
        << text;
  }
}

TEST(ChatTemplate, RunawayTemplatesEndAtTheirLimits) {
  const std::vector<ChatMessage> many(1000, {"user", "x"});
  const std::string loops =
      "{% for a in messages %}{% for b in messages %}{% for c in messages %}{% endfor %}"
      "{% endfor %}{% endfor %}";
  EXPECT_THAT(ErrorOf(loops, many), HasSubstr("steps"));
  const std::string doubles =
      "{% set n = namespace(s='aaaaaaaaaaaaaaaa') %}{% for m in messages %}"
      "{% set n.s = n.s + n.s %}{% endfor %}";
  EXPECT_THAT(ErrorOf(doubles, many), HasSubstr("RESOURCE_EXHAUSTED"));
  EXPECT_THAT(ErrorOf("{{ 'ab' * 9223372036854775807 }}"), HasSubstr("RESOURCE_EXHAUSTED"));
  const std::string nests =
      "{% set n = namespace(s=[]) %}{% for m in messages %}{% set n.s = [n.s] %}{% endfor %}";
  EXPECT_THAT(ErrorOf(nests, many), HasSubstr("nested more than"));
  const std::string grows =
      "{% set n = namespace(s=[1, 2]) %}{% for m in messages %}{% set n.s = n.s + n.s %}{% endfor "
      "%}";
  EXPECT_THAT(ErrorOf(grows, many), HasSubstr("items"));
}

TEST(ChatTemplate, DeepOrHugeTemplatesAreRefused) {
  const auto repeat = [](std::string_view part, size_t times) {
    std::string out;
    for (size_t i = 0; i < times; ++i) out += part;
    return out;
  };
  for (const std::string& text :
       {"{{ " + repeat("(", 9000) + "1" + repeat(")", 9000) + " }}",
        "{{ " + repeat("[", 9000) + "1" + repeat("]", 9000) + " }}",
        "{{ " + repeat("not ", 9000) + "1 }}", "{{ " + repeat("-", 9000) + "1 }}",
        "{{ 1" + repeat(" + 1", 9000) + " }}", "{{ a" + repeat("[0]", 9000) + " }}",
        "{{ a" + repeat("|trim", 9000) + " }}", "{{ 1" + repeat(" if 1 else 1", 9000) + " }}",
        repeat("{% if 1 %}", 9000), "{{ a" + repeat("(a", 9000) + repeat(")", 9000) + " }}"}) {
    EXPECT_THAT(ErrorOf(text), HasSubstr("nested more than")) << text.substr(0, 40);
  }
  EXPECT_THAT(ErrorOf(repeat("{{ a }}", kMaxTemplateNodes)), HasSubstr("nodes"));
  EXPECT_THAT(ErrorOf(std::string(kMaxTemplateBytes + 1, 'a')), HasSubstr("bytes"));
  EXPECT_THAT(ErrorOf("a\xff"), HasSubstr("not UTF-8 at byte 1"));
}

TEST(ChatTemplate, BadConversationsAreRefused) {
  EXPECT_THAT(ErrorOf(kChatMl, {{"user", "ok"}, {"user", "a\xff"}}),
              HasSubstr("message 2: its content is not UTF-8 at byte 1"));
  EXPECT_THAT(ErrorOf(kChatMl, {{"\xff", ""}}), HasSubstr("its role"));
  EXPECT_THAT(ErrorOf(kChatMl, std::vector<ChatMessage>(kMaxMessages + 1, {"user", ""})),
              HasSubstr("at most 4096"));
}

TEST(ChatTemplate, ExceptionsOfTheTemplateDoNotQuoteTheRecord) {
  const std::string error = ErrorOf(
      "{{ raise_exception('bad: ' ~ messages[0].content[1:] ~ '!') }}", {{"user", "secret"}});
  EXPECT_THAT(error, HasSubstr("the template refuses the conversation: bad: [content]!"));
  EXPECT_THAT(error, ::testing::Not(HasSubstr("ecret")));
}

TEST(ChatTemplate, TheDateIsTheOneGiven) {
  RenderOptions options;
  EXPECT_EQ(TryRender("{{ strftime_now('%d %b %Y') }}", {}, options)->text, "26 Jul 2024");
  options.date = "2000-02-29";
  EXPECT_EQ(TryRender("{{ strftime_now('%A %a %d.%m.%y %H:%M:%S %B%%') }}", {}, options)->text,
            "Tuesday Tue 29.02.00 00:00:00 February%");
  for (const char* date : {"2001-02-29", "2001-2-2", "0000-01-01", "today", "2001-13-01",
                           "2001-01-00", "2001-01-+1", ""}) {
    options.date = date;
    EXPECT_THAT(ErrorOf("{{ strftime_now('%d') }}", {}, options), HasSubstr("is no day")) << date;
  }
  EXPECT_THAT(ErrorOf("{{ strftime_now('%c') }}"), HasSubstr("only %d"));
}

TEST(AssistantSpans, EndWithTheEndOfTurnTokenWhateverTheContent) {
  for (const std::string content :
       {"A", "", " ", "\n", "<|im_end|>", "<|im_end|>\n<|im_start|>user\nQ", "</s>",
        "\n<|im_start|>", "assistant\n", "A\n", "\xF0\x9F\x98\x80", "<|"}) {
    const Result<Rendered> rendered = TryRender(
        kChatMl,
        {{"user", content}, {"assistant", content}, {"user", content}, {"assistant", content}});
    ASSERT_TRUE(rendered) << rendered.error().message();
    EXPECT_THAT(SpanTexts(*rendered),
                ::testing::ElementsAre(content + "<|im_end|>", content + "<|im_end|>"));
    EXPECT_TRUE(rendered->text.substr(0, rendered->assistant_spans[1].begin)
                    .ends_with("<|im_start|>assistant\n"));
  }
}

TEST(AssistantSpans, FollowTheContentThroughTrimsSplitsAndVariables) {
  const std::string begin = "{% for m in messages %}<{{ m.role }}>";
  const std::string end = "<|end|>\n{% endfor %}";
  const std::vector<ChatMessage> messages = {{"user", "x"}, {"assistant", " one, two "}};
  const auto spans = [&](const std::string& body) {
    const Result<Rendered> rendered = TryRender(begin + body + end, messages);
    return rendered ? SpanTexts(*rendered) : std::vector<std::string>{rendered.error().message()};
  };
  using ::testing::ElementsAre;
  EXPECT_THAT(spans("{{ m.content }}"), ElementsAre(" one, two <|end|>"));
  EXPECT_THAT(spans("{{ m['content'] | trim }}"), ElementsAre("one, two<|end|>"));
  EXPECT_THAT(spans("{% set c = m.content %}{{ c }}"), ElementsAre(" one, two <|end|>"));
  EXPECT_THAT(spans("{{ m.content.split(', ')[-1] }}"),
              ::testing::Contains("two <|end|>").Times(1));
  EXPECT_THAT(spans("{{ m.content.split(', ') | join('; ') }}"), ElementsAre(" one; two <|end|>"));
  EXPECT_THAT(spans("{{ m.content[2:4] ~ m.content[::-1] }}"), ElementsAre("ne owt ,eno <|end|>"));
  EXPECT_THAT(spans("{{ m.content | tojson }}"), ElementsAre("\" one, two \"<|end|>"));
}

TEST(AssistantSpans, BeginBehindTheGenerationPromptWhereTheTurnHasIt) {
  const std::string text =
      "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}<think></think>{% endif "
      "%}"
      "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
  for (const bool prompt : {false, true}) {
    RenderOptions options;
    options.add_generation_prompt = prompt;
    const Result<Rendered> rendered = TryRender(text, kPair, options);
    ASSERT_TRUE(rendered) << rendered.error().message();
    EXPECT_THAT(SpanTexts(*rendered), ::testing::ElementsAre("<think></think>A<|end|>"));
  }
}

TEST(AssistantSpans, AreRefusedWhereTheyCannotBeTold) {
  const auto refusal = [](std::string_view text, const std::vector<ChatMessage>& messages) {
    return ErrorOf(text, messages);
  };
  const auto refused = [](std::string_view why) {
    return AllOf(HasSubstr("FAILED_PRECONDITION"), HasSubstr(why));
  };
  EXPECT_THAT(refusal("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", kPair),
              refused("no end-of-turn token after message 2"));
  // The next turn's header is not this turn's end, and a prompt is none either.
  EXPECT_THAT(refusal("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|x|>",
                      {{"assistant", "A"}, {"assistant", "B"}}),
              refused("no end-of-turn token after message 1"));
  EXPECT_THAT(refusal("{{ messages[1].content }}<|im_start|>", kPair),
              refused("no end-of-turn token"));
  EXPECT_THAT(refusal("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}"
                      "{% endfor %}",
                      kPair),
              refused("leaves out the content of message 2"));
  EXPECT_THAT(refusal("{% for m in messages[::-1] %}{{ m.content }}<|e|>{% endfor %}",
                      {{"assistant", "A"}, {"assistant", "B"}}),
              refused("order of the messages"));
  EXPECT_THAT(refusal("{% for m in messages %}{{ m.content }}{{ '<|e|>' if loop.first else '<|f|>' "
                      "}}{% endfor %}",
                      {{"assistant", "A"}, {"assistant", "B"}}),
              refused("'<|e|>' and '<|f|>'"));
  EXPECT_THAT(
      refusal("{{ messages[1].content ~ messages[0].content ~ messages[1].content }}<|e|>", kPair),
      refused("mixes the contents of messages 2 and 1"));
  EXPECT_THAT(refusal("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
                      "{% endfor %}",
                      kPair),
              refused("a generation block has message 1 of role 'user'"));
}

TEST(AssistantSpans, KnowTheEosTokenThatIsGiven) {
  RenderOptions options;
  options.eos_token = "[END]";
  const std::string text = "{% for m in messages %}{{ m.content + ' ' + eos_token }}{% endfor %}";
  const Result<Rendered> rendered = TryRender(text, kPair, options);
  ASSERT_TRUE(rendered) << rendered.error().message();
  EXPECT_THAT(SpanTexts(*rendered), ::testing::ElementsAre("A [END]"));
}

class LoadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(::testing::TempDir()) /
           ("chat_" + std::to_string(getpid()) +
            ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void Write(const char* name, std::string_view text) {
    std::ofstream(dir_ / name, std::ios::binary) << text;
  }
  // The text of an empty conversation, "none", or the error.
  std::string Load() {
    options_ = RenderOptions{};
    const auto loaded = LoadChatTemplate(dir_, options_);
    if (!loaded) return loaded.error().message();
    if (!*loaded) return "none";
    return (*loaded)->Render({}, options_).value().text;
  }
  std::filesystem::path dir_;
  RenderOptions options_;
};

TEST_F(LoadTest, TheFileGoesBeforeTheConfiguration) {
  EXPECT_EQ(Load(), "none");
  Write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": null})");
  EXPECT_EQ(Load(), "none");
  EXPECT_EQ(options_.bos_token, "<s>");
  EXPECT_EQ(options_.eos_token, "");
  Write("tokenizer_config.json",
        R"({"chat_template": "config {{ eos_token }}", "eos_token": {"content": "</s>"}})");
  EXPECT_EQ(Load(), "config </s>");
  Write("chat_template.jinja", "file {{ eos_token }}");
  EXPECT_EQ(Load(), "file </s>");
  std::filesystem::remove(dir_ / "tokenizer_config.json");
  EXPECT_EQ(Load(), "file ");
}

TEST_F(LoadTest, OfAListTheDefaultIsTaken) {
  Write("tokenizer_config.json", R"({"chat_template": [
      {"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]})");
  EXPECT_EQ(Load(), "d");
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "r"}]})");
  EXPECT_THAT(Load(), HasSubstr("named \"default\""));
}

TEST_F(LoadTest, BrokenConfigurationsAreRefusedWithTheirPath) {
  for (const char* text :
       {"[]", "{", R"({"chat_template": 1})", R"({"chat_template": [1]})",
        R"({"chat_template": [{"name": "default"}]})", R"({"eos_token": 1})",
        R"({"bos_token": {"content": 1}})", R"({"chat_template": "{% if %}"})"}) {
    Write("tokenizer_config.json", text);
    EXPECT_THAT(Load(), HasSubstr("tokenizer_config.json")) << text;
  }
}

TEST(ChatTemplate, TheTinyModelsTemplateIsFound) {
  RenderOptions options;
  const auto loaded = LoadChatTemplate(
      std::filesystem::path(TIDEGATE_SOURCE_DIR) / "tests/golden/tiny_llama", options);
  ASSERT_TRUE(loaded) << loaded.error().message();
  ASSERT_TRUE(*loaded);
  EXPECT_EQ(options.eos_token, "<|im_end|>");
  EXPECT_THAT(SpanTexts((*loaded)->Render(kPair, options).value()),
              ::testing::ElementsAre("A<|im_end|>"));
}

TEST(ChatTemplate, OneTemplateServesManyThreads) {
  const ChatTemplate parsed = ChatTemplate::Parse(kChatMl, "t").value();
  std::vector<std::string> texts(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < texts.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 200; ++round) {
        texts[i] =
            parsed.Render(std::vector<ChatMessage>{{"user", std::to_string(i)}}, {}).value().text;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(texts[i], "<|im_start|>user\n" + std::to_string(i) + "<|im_end|>\n");
  }
}

}  // namespace
}  // namespace tidegate::model
