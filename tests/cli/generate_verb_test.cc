// generate as a user runs it: files of prompts, conversations through a pipe, signals.
#include <pty.h>

#include "verb_fixture.h"

namespace tidegate::cli {
namespace {

using nlohmann::json;

class GenerateVerb : public VerbFixture {
 protected:
  std::vector<std::string> Generate(const std::vector<std::string>& more) const {
    std::vector<std::string> words = {"generate",         "--base", base_,       "--dtype", "f32",
                                      "--max_new_tokens", "9",      "--threads", "1"};
    return With(words, more);
  }
  static std::vector<json> Lines(const std::string& text) {
    std::vector<json> lines;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      lines.push_back(Parsed(text.substr(at, end - at)));
      at = end + 1;
    }
    return lines;
  }
  // The run with this text as its standard input.
  RunResult Piped(const std::vector<std::string>& words, const std::string& input) const {
    const std::string file = Write("input", input);
    RunOptions options;
    options.input = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    const RunResult run = Tidegate(words, options);
    ::close(options.input);
    return run;
  }
  // A base that goes on for as long as it is let: no token ends an answer.
  void MakeEndlessBase() {
    base_ = CopyBase("endless");
    for (const char* name : {"config.json", "tokenizer_config.json"}) {
      json config = Parsed(Read(root_ / "endless" / name));
      config.erase("eos_token_id");
      config.erase("eos_token");
      if (config.contains("max_position_embeddings")) config["max_position_embeddings"] = 1 << 18;
      Write("endless/" + std::string(name), config.dump());
    }
  }
  // A conversation whose answer has no end, told `signal` once it speaks; its input ends then.
  RunResult SignalledChat(int signal) {
    MakeEndlessBase();
    int input[2];
    EXPECT_EQ(::pipe2(input, O_CLOEXEC), 0);
    const std::string question = "Where?\n";
    EXPECT_EQ(::write(input[1], question.data(), question.size()),
              static_cast<ssize_t>(question.size()));
    RunOptions options;
    options.input = input[0];
    options.signal_when_out = [signal, end = input[1]](const std::string& out) {
      if (out.empty()) return 0;
      ::close(end);
      return signal;
    };
    const RunResult run =
        Tidegate(Generate({"--interactive", "--max_new_tokens", "200000"}), options);
    ::close(input[0]);
    return run;
  }

  std::string base_ = kTinyBase.native();
};

TEST_F(GenerateVerb, PromptsOfAFileAreAnsweredInOrderEachAsAlone) {
  const std::string file = Write(
      "prompts.jsonl",
      R"({"prompt": "Where?"})"
      "\n\n"
      R"({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who is it?"}]})"
      "\n"
      R"({"prompt": [{"role": "user", "content": "Why"}], "completion": "ignored"})"
      "\n"
      R"({"prompt": "A longer question than the others, is it not?"})"
      "\n");
  const auto words = Generate({"--prompts", file, "--format", "json"});
  const RunResult run = Tidegate(words);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const std::vector<json> lines = Lines(run.out);
  ASSERT_EQ(lines.size(), 4u) << run.out;
  const std::vector<std::vector<std::string>> alone = {
      {"--prompt", "Where?"},
      {"--prompt", "Who is it?", "--system", "Be brief."},
      {"--prompt", "Why"},
      {"--prompt", "A longer question than the others, is it not?"}};
  for (size_t i = 0; i < alone.size(); ++i) {
    json expected = JsonOf(Generate(alone[i]));
    expected["line"] = std::vector<int>{1, 3, 4, 5}[i];
    EXPECT_EQ(lines[i], expected) << i;
  }
  EXPECT_EQ(Tidegate(With(words, {"--batch_size", "2"})).out, run.out);

  const RunResult text =
      Tidegate(Generate({"--prompts", Write("prompts.txt", "Where?\n\n{Why}\r\n")}));
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_EQ(text.out, "[line 1]\n" + lines[0]["text"].get<std::string>() + "\n\n[line 3]\n" +
                          JsonOf(Generate({"--prompt", "{Why}"}))["text"].get<std::string>() +
                          "\n");
}

TEST_F(GenerateVerb, BadPromptsAreNamedByFileAndLine) {
  const std::string good = "{\"prompt\": \"Where?\"}\n";
  std::string longer = "word";
  for (int i = 0; i < 400; ++i) longer += " word";
  const struct {
    std::string content;
    int exit_code;
    const char* told;
  } rows[] = {
      {good + "{\"prompt\": \"Whe", 1, "bad.jsonl line 2"},
      {good + "\n[\"x\"]\n", 1, "line 3: not a JSON object"},
      {"{\"text\": \"x\"}\n", 1, "line 1: an object with either 'prompt' or 'messages'"},
      {good + "{\"prompt\": \"\"}\n", 1, "line 2: 'prompt' is empty"},
      {"{\"prompt\": 7}\n", 1, "line 1: 'prompt' must be a text or a list"},
      {"{\"messages\": \"x\"}\n", 1, "line 1: 'messages' must be a list"},
      {"{\"messages\": []}\n", 1, "line 1: 'messages' is empty"},
      {"{\"messages\": [{\"role\": \"user\"}]}\n", 1, "line 1: 'messages' item 1 needs"},
      {Chat("q", "secret"), 1, "line 1: 'messages' ends with the assistant"},
      {good + "{\"prompt\": \"" + longer + "\"}\n", 1, "the model has 256 positions"},
      {"\n \n", 1, "has no prompt"},
      {"{\"prompt\": \"\xff\"}\n", 1, "line 1"},
  };
  for (const auto& row : rows) {
    const RunResult run = Tidegate(Generate({"--prompts", Write("bad.jsonl", row.content)}));
    EXPECT_EQ(run.exit_code, row.exit_code) << row.told << ": " << run.err;
    EXPECT_NE(run.err.find(row.told), std::string::npos) << row.told << ": " << run.err;
    EXPECT_NE(run.err.find("bad.jsonl"), std::string::npos) << run.err;
    EXPECT_EQ(run.err.find("secret"), std::string::npos) << "no word of a prompt";
    EXPECT_EQ(run.out, "") << row.told;
  }
}

TEST_F(GenerateVerb, WrongValuesAreNamedBeforeAnythingIsOpened) {
  const struct {
    std::vector<std::string> words;
    int exit_code;
    const char* told;
  } rows[] = {
      {{"--prompt", "x", "--temperature", "1", "--top_k", "-1"}, 1, "top_k is -1"},
      {{"--prompt", "x", "--temperature", "inf"}, 1, "temperature is inf"},
      {{"--prompt", "x", "--temperature", "nan"}, 1, "temperature is nan"},
      {{"--prompt", "x", "--temperature", "1", "--top_p", "0"}, 1, "top_p is 0"},
      {{"--prompt", "x", "--temperature", "1", "--top_p", "nan"}, 1, "top_p is nan"},
      {{"--prompt", "x", "--repetition_penalty", "nan"}, 1, "repetition_penalty is nan"},
      {{"--prompt", "x", "--repetition_penalty", "-1"}, 1, "repetition_penalty is -1"},
      {{"--prompt", "x", "--max_new_tokens", "-1"}, 1, "--max_new_tokens -1 must be between 1 and"},
      {{"--prompt", "x", "--max_new_tokens", "99999999999999999999"},
       1,
       "must be between 1 and 1048576"},
      {{"--prompt", "x", "--threads", "99999999999"}, 64, "--threads"},
      {{"--prompt", "x", "--temperature", "1", "--seed", "-1"},
       64,
       "--seed: -1 must be a whole number from 0 to 18446744073709551615"},
      {{"--prompt", "x", "--temperature", "1", "--seed", "1.5"}, 64, "--seed: 1.5 must be a whole"},
      {{"--prompt", "x", "--seed", "1"}, 64, "--seed is for sampling: give --temperature too"},
      {{"--prompt", "x", "--top-p", "0.5"}, 64, "--top_p is for sampling"},
      {{"--prompt", "x", "--top_k", "5"}, 64, "--top_k is for sampling"},
      {{"--prompt", "x", "--batch_size", "2"}, 64, "--batch_size is for the prompts of a file"},
      {{"--prompt", "x", "--raw", "--system", "s"}, 64, "--system is for chats"},
      {{"--prompt", "x", "--bnb_4bit_use_double_quant"}, 64, "is for --load_in_4bit"},
      {{"--prompt", "x", "--lora_r", "4"}, 64, "--lora_r"},
      {{"--prompts", "none", "--batch_size", "0"}, 1, "--batch_size 0 must be between 1 and 32"},
      {{"--prompt", "x", "--repetition_penalty", "0"}, 1, "repetition_penalty is 0"},
      {{"--prompts", "none", "--batch_size", "33"}, 1, "--batch_size 33 must be between 1 and 32"},
      {{"--interactive", "--raw"}, 1, "choose one"},
      {{"--prompts", At("none.txt")}, 2, "--prompts"},
      {{"--prompt", "x", "--interactive"}, 64, "Exactly 1 option"},
      {{}, 64, "Exactly 1 option"},
  };
  for (const auto& row : rows) {
    const RunResult run = Tidegate(Generate(row.words));
    EXPECT_EQ(run.exit_code, row.exit_code) << row.told << ": " << run.err;
    EXPECT_NE(run.err.find(row.told), std::string::npos) << row.told << ": " << run.err;
  }
}

TEST_F(GenerateVerb, AConversationGoesOnThroughAPipe) {
  const auto words = Generate({"--interactive", "--format", "json"});
  // More after /quit than a pipe holds: nobody reads it, and nothing waits for that.
  const RunResult run = Piped(
      words, "Where?\n\nWhy?\r\n/reset\nWhere?\n/quit\n" + std::string(300'000, 'x') + "\nWho?\n");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const std::vector<json> answers = Lines(run.out);
  ASSERT_EQ(answers.size(), 3u) << run.out;
  const json alone = JsonOf(Generate({"--prompt", "Where?"}));
  EXPECT_EQ(answers[0]["text"], alone["text"]);
  EXPECT_EQ(answers[0]["cached_tokens"], 0);
  // The first turn is part of the second's prompt and is not computed again.
  EXPECT_GT(answers[1]["prompt_tokens"], answers[0]["prompt_tokens"]);
  EXPECT_GE(answers[1]["cached_tokens"], answers[0]["prompt_tokens"]);
  EXPECT_EQ(answers[2]["text"], alone["text"]);
  EXPECT_EQ(answers[2]["prompt_tokens"], alone["prompt_tokens"]);

  const RunResult text = Piped(Generate({"--interactive", "--walls", "none"}), "Where?");
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_EQ(text.out, alone["text"].get<std::string>() + "\n");
  EXPECT_EQ(Piped(words, "").exit_code, 0);
}

TEST_F(GenerateVerb, AMessageThatCannotBeAnsweredEndsAPipedConversation) {
  std::string longer = "word";
  for (int i = 0; i < 400; ++i) longer += " word";
  const RunResult run = Piped(Generate({"--interactive"}), longer + "\nWhere?\n");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_NE(run.err.find("/reset"), std::string::npos) << run.err;
  EXPECT_EQ(run.out, "");

  base_ = CopyBase("plain");
  std::filesystem::remove(root_ / "plain/tokenizer_config.json");
  EXPECT_NE(Piped(Generate({"--interactive"}), "Where?\n").err.find("no chat template"),
            std::string::npos);
}

TEST_F(GenerateVerb, AnInterruptEndsTheAnswerAndTheConversationGoesOn) {
  const RunResult run = SignalledChat(SIGINT);
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(run.out.ends_with("\n"));
}

// At a terminal the key's signal reaches the verb's parent and its walled child alike, and must
// count once: a second one would end the conversation.
TEST_F(GenerateVerb, CtrlCAtATerminalEndsTheAnswerAlone) {
  MakeEndlessBase();
  std::vector<std::string> words = Generate({"--interactive", "--max_new_tokens", "200000"});
  words.insert(words.begin(), Program("tidegate").native());
  int terminal = -1;
  const pid_t child = ::forkpty(&terminal, nullptr, nullptr, nullptr);
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  std::string shown;
  // Reads until `done`; false at the end or when nothing comes for a minute.
  const auto read_until = [&](const std::function<bool()>& done) {
    while (!done()) {
      pollfd wait = {terminal, POLLIN, 0};
      char piece[4096];
      if (::poll(&wait, 1, 60'000) <= 0) return false;
      const ssize_t n = ::read(terminal, piece, sizeof(piece));
      if (n <= 0) return false;
      shown.append(piece, static_cast<size_t>(n));
    }
    return true;
  };
  const auto type = [&](const std::string& keys) {
    EXPECT_EQ(::write(terminal, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  };
  EXPECT_TRUE(read_until([&] { return shown.ends_with("> "); })) << shown;
  type("Where?\n");
  const size_t asked = shown.size() + 40;  // the question's echo, and some of the answer
  EXPECT_TRUE(read_until([&] { return shown.size() > asked; })) << shown;
  type("\x03");
  EXPECT_TRUE(read_until([&] { return shown.ends_with("\n> "); })) << shown.substr(0, 300);
  type("/quit\n");
  read_until([] { return false; });
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  ::close(terminal);
}

TEST_F(GenerateVerb, ATerminationEndsTheConversation) {
  const RunResult run = SignalledChat(SIGTERM);
  EXPECT_EQ(run.exit_code, 11) << run.err;
  EXPECT_NE(run.err.find("a signal ended the conversation"), std::string::npos) << run.err;
}

TEST_F(GenerateVerb, AnInterruptEndsABatchAfterWhatItHasTold) {
  MakeEndlessBase();
  RunOptions options;
  options.signal_when_out = [](const std::string& out) { return out.size() > 20 ? SIGINT : 0; };
  const RunResult run = Tidegate(Generate({"--prompts", Write("p.txt", "Where?\nWhy?\nWho?\n"),
                                           "--max_new_tokens", "200000", "--batch_size", "2"}),
                                 options);
  EXPECT_EQ(run.exit_code, 11) << run.err;
  EXPECT_NE(run.err.find("of 3 answers"), std::string::npos) << run.err;
  EXPECT_TRUE(run.out.starts_with("[line 1]\n")) << run.out.substr(0, 40);
  EXPECT_TRUE(run.out.ends_with("\n"));
  EXPECT_EQ(run.out.find("[line 3]"), std::string::npos);
}

}  // namespace
}  // namespace tidegate::cli
