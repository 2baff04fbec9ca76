// The C++ API's models with the real walled trainer behind them.
#include <gtest/gtest.h>
#include <signal.h>
#include <tidegate/model.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

namespace {

const std::string kBase = std::string(TIDEGATE_SOURCE_DIR) + "/tests/golden/tiny_llama";
const std::string kTrainer = std::string(TIDEGATE_BIN_DIR) + "/tidegate-trainer";
const tg::Call kLong{std::chrono::seconds(60)};

tg::Question Text(const std::string& text, int tokens = 24, const std::string& model = "") {
  tg::Question question;
  question.text = text;
  question.model = model;
  question.max_new_tokens = tokens;
  return question;
}

class SdkModel : public testing::Test {
 protected:
  void SetUp() override {
    ::setenv("TIDEGATE_PROGRAMS", TIDEGATE_BIN_DIR, 1);
    tg::ModelOptions options;
    options.base = kBase;
    options.adapters = {"tuned=" + kBase + "/adapter_in"};
    options.dtype = "f32";
    options.threads = 1;
    auto opened = tg::Model::Open(options, kLong);
    if (opened.status().code() == tg::Code::kPermissionDenied) {
      GTEST_SKIP() << "no walls here: " << opened.status().message();
    }
    ASSERT_TRUE(opened.ok()) << opened.status().ToString();
    model_ = std::make_unique<tg::Model>(*opened);
  }
  std::string Answered(const tg::Question& question) const {
    const auto answer = model_->Ask(question);
    EXPECT_TRUE(answer.ok()) << answer.status().ToString();
    const auto text = answer->Text(kLong);
    EXPECT_TRUE(text.ok()) << text.status().ToString();
    return *text;
  }
  static std::string Generated(const std::string& prompt, const std::string& adapter) {
    std::vector<std::string> words = {
        "generate", "--base",    kBase, "--prompt",         prompt, "--raw", "--dtype",
        "f32",      "--threads", "1",   "--max_new_tokens", "24"};
    if (!adapter.empty()) words.insert(words.end(), {"--adapter", adapter});
    const auto told = tg::RunTidegate(words, kLong);
    EXPECT_TRUE(told.ok()) << told.status().ToString();
    return nlohmann::json::parse(*told).at("text");
  }

  std::unique_ptr<tg::Model> model_;
};

ptrdiff_t OpenDescriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return std::distance(begin(all), end(all));
}

// Children of this process that run this program.
std::vector<pid_t> ChildrenThatRun(const std::string& program) {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::string command, stat;
    std::getline(std::ifstream(entry.path() / "cmdline"), command, '\0');
    std::getline(std::ifstream(entry.path() / "stat"), stat);
    // "PID (NAME) STATE PPID ..."
    const size_t after = stat.rfind(") ");
    if (command != program || after == std::string::npos) continue;
    if (std::stol(stat.substr(after + 4)) == ::getpid()) found.push_back(std::stoi(name));
  }
  return found;
}

TEST_F(SdkModel, AnswersAreWhatGenerateSaysWholeAndInPieces) {
  EXPECT_EQ(*model_->Names(), (std::vector<std::string>{"tiny_llama", "tuned"}));
  const std::string prompt = "where is crate 2?";
  const std::string base = Answered(Text(prompt));
  EXPECT_EQ(base, Generated(prompt, ""));
  const auto answer = model_->Ask(Text(prompt, 24, "tuned"));
  ASSERT_TRUE(answer.ok());
  std::string joined;
  int pieces = 0;
  for (;;) {
    const auto event = answer->Next(kLong);
    ASSERT_TRUE(event.ok()) << event.status().ToString();
    if (event->end) {
      EXPECT_EQ(event->text, "length");
      EXPECT_EQ(event->new_tokens, 24);
      EXPECT_GT(event->prompt_tokens, 0);
      break;
    }
    joined += event->text;
    ++pieces;
  }
  EXPECT_GT(pieces, 1);
  EXPECT_EQ(joined, Generated(prompt, kBase + "/adapter_in"));
  EXPECT_NE(joined, base);
  EXPECT_EQ(answer->Next().status().code(), tg::Code::kFailedPrecondition);
}

TEST_F(SdkModel, ChatsGoThroughTheTemplateAndThreadsDoNotWaitForEachOther) {
  tg::Question chat;
  chat.messages = {{"user", "where is crate 2?"}};
  chat.max_new_tokens = 16;
  const std::string alone = Answered(chat);
  EXPECT_NE(alone, Answered(Text("where is crate 2?", 16)));
  std::vector<std::string> together(4);
  std::vector<std::thread> threads;
  for (std::string& to : together) threads.emplace_back([&] { to = Answered(chat); });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : together) EXPECT_EQ(text, alone);
  chat.text = "and a text";
  EXPECT_EQ(model_->Ask(chat).status().code(), tg::Code::kInvalidArgument);
}

// Only 32 advance together: the last of 40 waits, and is taken back before it has begun.
TEST_F(SdkModel, AnAnswerIsTakenBack) {
  const ptrdiff_t before = OpenDescriptors();
  std::vector<tg::Answer> answers;
  for (int i = 0; i < 40; ++i) {
    auto answer = model_->Ask(Text("question " + std::to_string(i), 200));
    ASSERT_TRUE(answer.ok()) << answer.status().ToString();
    answers.push_back(*answer);
  }
  ASSERT_TRUE(answers.back().Cancel().ok());
  const auto end = answers.back().Next(kLong);
  ASSERT_TRUE(end.ok()) << end.status().ToString();
  EXPECT_TRUE(end->end);
  EXPECT_EQ(end->text, "cancelled");
  answers.clear();  // the others too
  EXPECT_FALSE(Answered(Text("who is left?")).empty());
  EXPECT_LE(OpenDescriptors(), before + 1);  // that of the last one may be closed a moment later
}

TEST_F(SdkModel, AKilledProcessIsAnErrorAndAnUnknownModelIsNamed) {
  const auto unknown = model_->Ask(Text("x", 1, "nobody"));
  EXPECT_EQ(unknown.status().code(), tg::Code::kNotFound);
  EXPECT_NE(unknown.status().message().find("nobody; there is tiny_llama, tuned"),
            std::string::npos);
  std::vector<tg::Answer> answers;
  for (int i = 0; i < 40; ++i) answers.push_back(*model_->Ask(Text("x", 200)));
  const auto children = ChildrenThatRun(kTrainer);
  ASSERT_EQ(children.size(), 1u);
  ASSERT_EQ(::kill(children[0], SIGKILL), 0);
  const auto ended = answers.back().Text(kLong);
  EXPECT_EQ(ended.status().code(), tg::Code::kUnavailable);
  EXPECT_EQ(model_->Ask(Text("x")).status().code(), tg::Code::kUnavailable);
  model_.reset();
  EXPECT_TRUE(ChildrenThatRun(kTrainer).empty());
}

}  // namespace
