// The verbs that a person runs on records: no canary in what they say and in what they write.
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/subprocess.h"
#include "tests/canary/tapped_federation.h"

namespace tidegate::canary {
namespace {

namespace fs = std::filesystem;

class LocalVerbs : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto planted = PlantRecords("person", records_, heldout_);
    ASSERT_TRUE(planted) << planted.error().ToString();
    auto search = TinySearch();
    ASSERT_TRUE(search) << search.error().ToString();
    search_ = std::make_unique<Search>(std::move(*search));
    for (const Planted& canary : *planted) {
      ASSERT_TRUE(search_->Add(canary.name, canary.text).ok());
    }
  }

  // Runs the verb and looks through what it said and wrote.
  void ExpectNoCanary(std::vector<std::string> words, int exit_code) {
    const std::string verb = words[0];
    words.insert(words.begin(), (fs::path(TIDEGATE_BIN_DIR) / "tidegate").native());
    const fs::path mark = folder_.path() / "started";
    ASSERT_TRUE(WriteFileDurably(mark, {}).ok());
    const auto since = fs::last_write_time(mark);
    const auto ran = RunCommand(words, 120'000);
    ASSERT_TRUE(ran) << ran.error().ToString();
    const std::string missing = MissingWalls(ran->errors);
    if (!missing.empty()) GTEST_SKIP() << "this machine lacks walls: " << missing;
    EXPECT_EQ(ran->exit_code, exit_code) << ran->errors;
    std::vector<Hit> hits = search_->InBytes(AsBytes(ran->output), verb + "'s output");
    const auto add = [&hits](const std::vector<Hit>& more) {
      hits.insert(hits.end(), more.begin(), more.end());
    };
    add(search_->InBytes(AsBytes(ran->errors), verb + "'s errors"));
    const auto written = search_->InTree(folder_.path(), {records_, heldout_, bad_});
    ASSERT_TRUE(written) << written.error().ToString();
    add(written->hits);
    for (const char* shared : {"/tmp", "/var/tmp", "/dev/shm"}) {
      add(search_->InSharedFolder(shared, since, {folder_.path()}).hits);
    }
    EXPECT_TRUE(hits.empty()) << Describe(hits);
  }

  TempFolder folder_{"verbs"};
  fs::path records_ = folder_.path() / "records.jsonl", heldout_ = folder_.path() / "heldout.jsonl";
  fs::path bad_ = folder_.path() / "bad.jsonl";
  std::unique_ptr<Search> search_;
};

TEST_F(LocalVerbs, FinetuneAndEvalSayAndWriteNoWordOfTheRecords) {
  const fs::path out = folder_.path() / "out";
  ExpectNoCanary({"finetune", "--base",
                  TinyBase(), "--data",
                  records_,   "--eval_data",
                  heldout_,   "--out",
                  out,        "--max_length",
                  "256",      "--lora_r",
                  "4",        "--max_steps",
                  "4",        "--gradient_accumulation_steps",
                  "1",        "--eval_steps",
                  "2",        "--save_steps",
                  "1",        "--assistant_only_loss",
                  "false",    "--threads",
                  "1"},
                 0);
  if (IsSkipped()) return;
  EXPECT_TRUE(fs::exists(out / "adapter_model.safetensors"));
  ExpectNoCanary({"eval", "--base", TinyBase(), "--data", heldout_, "--adapter", out,
                  "--max_length", "256", "--threads", "1"},
                 0);
}

TEST_F(LocalVerbs, DataCheckNamesBadLinesWithoutAWordOfThem) {
  std::string text;
  // The places in which a parser likes to quote what it read.
  for (const char* form :
       {R"({"text": "a", "text": "@"})", R"({"text": "@")", R"({"text": "a"} @)",
        R"({"@": 1, "@": 2})", R"({"messages": [{"role": "@", "content": "a"}]})",
        R"({"messages": "@"})", R"({"text": @})", "@", "{\"text\": \"@\xff\"}",
        R"({"text": "@\ud800"})"}) {
    const std::string canary = RandomCanary();
    ASSERT_TRUE(search_->Add(form, canary).ok());
    std::string line = form;
    for (size_t at; (at = line.find('@')) != std::string::npos;) line.replace(at, 1, canary);
    text += line + "\n";
  }
  ASSERT_TRUE(WriteFileDurably(bad_, AsBytes(text)).ok());
  ASSERT_FALSE(search_->InTree(folder_.path(), {records_, heldout_})->hits.empty());
  ExpectNoCanary({"data", "check", "--base", TinyBase(), "--data", bad_}, 1);
  if (IsSkipped()) return;
  ExpectNoCanary({"finetune", "--base", TinyBase(), "--data", bad_, "--out",
                  folder_.path() / "refused", "--max_steps", "1"},
                 1);
}

}  // namespace
}  // namespace tidegate::canary
