#include "records/jsonl.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <vector>

namespace tidegate::records {
namespace {

namespace fs = std::filesystem;

Result<Onshore<Record>> Parse(std::string_view line) { return ParseRecord(line, 7, "f.jsonl"); }

std::string Why(std::string_view line) {
  const auto record = Parse(line);
  EXPECT_FALSE(record.has_value()) << line;
  if (record) return "accepted";
  EXPECT_EQ(record.error().code(), Code::kInvalidArgument);
  EXPECT_TRUE(record.error().message().starts_with("f.jsonl line 7: ")) << record.error().message();
  return record.error().message();
}

TEST(ParseRecord, ReadsEachForm) {
  const auto chat = Parse(
      R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"id":5})");
  ASSERT_TRUE(chat) << chat.error().message();
  EXPECT_EQ(chat->reveal().kind, RecordKind::kMessages);
  ASSERT_EQ(chat->reveal().messages.size(), 2u);
  EXPECT_EQ(chat->reveal().messages[1].role, "assistant");
  EXPECT_EQ(chat->reveal().messages[1].content, "a");
  EXPECT_EQ(chat->reveal().line, 7);

  const auto text = Parse(R"({"text":"  Gr\u00fc\u00dfe \ud83d\ude42\n"})");
  ASSERT_TRUE(text);
  EXPECT_EQ(text->reveal().kind, RecordKind::kText);
  EXPECT_EQ(text->reveal().text, "  Grüße 🙂\n") << "no trimming";

  const auto pair = Parse(R"({"prompt":"p ","completion":" c"})");
  ASSERT_TRUE(pair);
  EXPECT_EQ(pair->reveal().kind, RecordKind::kPromptCompletion);
  EXPECT_EQ(pair->reveal().prompt + "|" + pair->reveal().completion, "p | c");

  const auto lists = Parse(
      R"({"prompt":[{"role":"user","content":"q"}],"completion":[{"role":"assistant","content":"a"}]})");
  ASSERT_TRUE(lists);
  EXPECT_EQ(lists->reveal().kind, RecordKind::kMessages);
  EXPECT_EQ(lists->reveal().messages.size(), 2u);
  EXPECT_EQ(lists->reveal().prompt_messages, 1u);

  const auto alpaca = Parse(R"({"instruction":"i","input":"x","output":"o","system":"s"})");
  ASSERT_TRUE(alpaca);
  ASSERT_EQ(alpaca->reveal().messages.size(), 3u);
  EXPECT_EQ(alpaca->reveal().messages[0].role, "system");
  EXPECT_EQ(alpaca->reveal().messages[1].content, "i\nx");
  EXPECT_EQ(alpaca->reveal().messages[2].content, "o");
  EXPECT_EQ(Parse(R"({"instruction":"i","input":"","output":"o"})")->reveal().messages.size(), 2u);
}

TEST(ParseRecord, RefusesWhatIsNotARecordAndNamesTheLine) {
  EXPECT_NE(Why(R"({"text":"a","text":"b"})").find("strict JSON"), std::string::npos);
  EXPECT_NE(Why("{\"text\":\"\xff\"}").find("strict JSON"), std::string::npos);
  EXPECT_NE(Why("{\"text\":\"\xed\xa0\x80\"}").find("strict JSON"), std::string::npos);
  EXPECT_NE(Why(R"({"text":"\ud800"})").find("strict JSON"), std::string::npos);
  EXPECT_NE(Why(R"({"text":"a"} {"text":"b"})").find("strict JSON"), std::string::npos);
  EXPECT_NE(Why(R"({"text":"a",})").find("strict JSON"), std::string::npos);
  EXPECT_NE(Why(R"(// comment)").find("strict JSON"), std::string::npos);
  EXPECT_NE(Why(std::string(100'000, '[')).find("strict JSON"), std::string::npos);
  EXPECT_NE(Why(R"(["text"])").find("not a JSON object"), std::string::npos);
  EXPECT_NE(Why(R"({"txt":"a"})").find("has none of"), std::string::npos);
  EXPECT_NE(Why(R"({"prompt":"a"})").find("has none of"), std::string::npos);
  EXPECT_NE(Why(R"({"text":""})").find("empty"), std::string::npos);
  EXPECT_NE(Why(R"({"text":7})").find("not a text"), std::string::npos);
  EXPECT_NE(Why(R"({"messages":[]})").find("messages"), std::string::npos);
  EXPECT_NE(Why(R"({"messages":"hi"})").find("messages"), std::string::npos);
  EXPECT_NE(Why(R"({"messages":["hi"]})").find("messages"), std::string::npos);
  EXPECT_NE(Why(R"({"messages":[{"role":"user"}]})").find("content"), std::string::npos);
  EXPECT_NE(Why(R"({"messages":[{"content":"x"}]})").find("role"), std::string::npos);
  EXPECT_NE(Why(R"({"messages":[{"role":"root","content":"x"}]})").find("role"), std::string::npos);
  EXPECT_NE(Why(R"({"messages":[{"role":"user","content":["x"]}]})").find("content"),
            std::string::npos);
  EXPECT_NE(Why(R"({"prompt":"a","completion":null})").find("completion"), std::string::npos);
  EXPECT_NE(
      Why(R"({"prompt":[{"role":"user","content":"x"}],"completion":"y"})").find("completion"),
      std::string::npos);
}

TEST(ParseRecord, AnErrorNeverQuotesTheRecord) {
  const std::string secret = "IBAN-DE89370400440532013000";
  for (const std::string& line :
       {"{\"text\":\"" + secret, secret, "{\"" + secret + "\":1,\"" + secret + "\":1}",
        "{\"messages\":[{\"role\":\"" + secret + "\",\"content\":\"\"}]}",
        "{\"" + secret + "\":{}}"}) {
    EXPECT_EQ(Why(line).find(secret), std::string::npos) << Why(line);
  }
}

TEST(ParseRecord, EveryTruncationOfALineIsRefused) {
  const std::string line =
      R"({"messages":[{"role":"user","content":"q é \u00e9"},{"role":"assistant","content":"a"}]})";
  ASSERT_TRUE(Parse(line));
  for (size_t size = 0; size < line.size(); ++size) {
    EXPECT_FALSE(Parse(std::string_view(line).substr(0, size))) << size;
  }
}

TEST(ParseRecord, NoByteThatIsChangedCrashes) {
  const std::string line =
      R"({"prompt":[{"role":"user","content":"x"}],"completion":[{"role":"assistant","content":"y"}]})";
  int accepted = 0;
  for (size_t at = 0; at < line.size(); ++at) {
    for (int byte = 0; byte < 256; byte += 5) {
      std::string changed = line;
      changed[at] = static_cast<char>(byte);
      const auto record = Parse(changed);
      accepted += record.has_value();
      if (record) {
        EXPECT_EQ(record->reveal().messages.size(), 2u) << changed;
      }
    }
  }
  EXPECT_GT(accepted, 0) << "a changed letter of a content is still a record";
}

class JsonlFile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tg_jsonl_XXXXXX").native();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }

  fs::path Write(std::string_view text) {
    EXPECT_TRUE(WriteFileDurably(root_ / "f.jsonl", AsBytes(text)).ok());
    return root_ / "f.jsonl";
  }

  fs::path root_;
};

TEST_F(JsonlFile, ReadsLinesWhateverEndsThem) {
  const fs::path path = Write("\n{\"text\":\"a\"}\r\n  \t\n{\"text\":\"b\"}\n{\"text\":\"c\"}");
  auto reader = JsonlReader::Open(path);
  ASSERT_TRUE(reader);
  std::vector<std::pair<std::string, int64_t>> seen;
  for (;;) {
    auto record = reader->Next();
    ASSERT_TRUE(record) << record.error().message();
    if (!*record) break;
    seen.emplace_back((*record)->reveal().text, (*record)->reveal().line);
  }
  EXPECT_EQ(seen, (std::vector<std::pair<std::string, int64_t>>{{"a", 2}, {"b", 4}, {"c", 5}}));
  EXPECT_FALSE(reader->Next()->has_value()) << "the end stays the end";
}

TEST_F(JsonlFile, GoesOnAfterABadLine) {
  auto reader = JsonlReader::Open(Write("{\"text\":\"a\"}\n{\"text\"\n{\"text\":\"c\"}\n"));
  ASSERT_TRUE(reader);
  EXPECT_EQ((*reader->Next())->reveal().text, "a");
  const auto bad = reader->Next();
  ASSERT_FALSE(bad);
  EXPECT_NE(bad.error().message().find("f.jsonl line 2: "), std::string::npos)
      << bad.error().message();
  EXPECT_EQ((*reader->Next())->reveal().text, "c");
}

TEST_F(JsonlFile, LinesAcrossManyReadsAreWhole) {
  const std::string big(300'000, 'x');
  auto reader =
      JsonlReader::Open(Write("{\"text\":\"" + big + "\"}\n{\"text\":\"" + big + "y\"}\n"));
  ASSERT_TRUE(reader);
  EXPECT_EQ((*reader->Next())->reveal().text, big);
  EXPECT_EQ((*reader->Next())->reveal().text, big + "y");
}

TEST_F(JsonlFile, ALineBeyondTheLimitIsRefusedByNumberAndLimit) {
  auto reader = JsonlReader::Open(
      Write("{\"text\":\"a\"}\n" + std::string(kMaxRecordLineBytes + 200'000, ' ')));
  ASSERT_TRUE(reader);
  ASSERT_TRUE(reader->Next());
  const auto bad = reader->Next();
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().code(), Code::kResourceExhausted);
  EXPECT_NE(bad.error().message().find("line 2"), std::string::npos) << bad.error().message();
  EXPECT_NE(bad.error().message().find(std::to_string(kMaxRecordLineBytes)), std::string::npos);
}

TEST_F(JsonlFile, TheLimitOfALineIsExact) {
  const std::string head = "{\"text\":\"", tail = "\"}";
  const std::string most(kMaxRecordLineBytes - head.size() - tail.size(), 'x');
  auto reader =
      JsonlReader::Open(Write(head + most + tail + "\n" + head + most + "x" + tail + "\n"));
  ASSERT_TRUE(reader);
  const auto first = reader->Next();
  ASSERT_TRUE(first) << first.error().message();
  EXPECT_EQ((*first)->reveal().text.size(), most.size());
  const auto second = reader->Next();
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Code::kResourceExhausted);
}

TEST_F(JsonlFile, OnlyRegularFilesAreOpened) {
  EXPECT_EQ(JsonlReader::Open(root_ / "none").error().code(), Code::kNotFound);
  EXPECT_FALSE(JsonlReader::Open(root_).has_value()) << "a folder";
  ASSERT_EQ(::mkfifo((root_ / "pipe").c_str(), 0600), 0);
  EXPECT_FALSE(JsonlReader::Open(root_ / "pipe").has_value()) << "and without waiting for a writer";
}

}  // namespace
}  // namespace tidegate::records
