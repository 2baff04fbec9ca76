// A folder of its own, records, and copies of the tiny base to damage: for tests of the verbs that
// train, measure and answer.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "run_program.h"

namespace tidegate::cli {

inline const std::filesystem::path kTinyBase = TIDEGATE_SOURCE_DIR "/tests/golden/tiny_llama";
inline const std::filesystem::path kUntiedBase =
    TIDEGATE_SOURCE_DIR "/tests/golden/tiny_llama_untied";

class VerbFixture : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tg_verbs_XXXXXX").native();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  std::string At(const std::string& name) const { return (root_ / name).native(); }
  std::string Write(const std::string& name, std::string_view content) const {
    std::filesystem::create_directories((root_ / name).parent_path());
    EXPECT_TRUE(WriteFileDurably(root_ / name, AsBytes(content)).ok()) << name;
    return At(name);
  }
  static std::string Read(const std::filesystem::path& path) {
    auto text = ReadTextFile(path, 64u << 20);
    EXPECT_TRUE(text) << text.error().ToString();
    return text ? std::move(*text) : std::string();
  }

  static std::string Chat(const std::string& user, const std::string& assistant) {
    return nlohmann::json{{"messages",
                           {{{"role", "user"}, {"content", user}},
                            {{"role", "assistant"}, {"content", assistant}}}}}
               .dump() +
           "\n";
  }
  // `count` chats of a few lengths.
  std::string Records(const std::string& name, int count) const {
    std::string text;
    for (int i = 0; i < count; ++i) {
      text += Chat("Where is item " + std::to_string(i) + "?",
                   "In storage " + std::to_string(i * 7 % 10) + std::string(i % 5, '!'));
    }
    return Write(name, text);
  }
  // A copy of the tiny base in ROOT/name.
  std::string CopyBase(const std::string& name) const {
    std::filesystem::create_directories(root_ / name);
    for (const char* file :
         {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}) {
      std::filesystem::copy_file(kTinyBase / file, root_ / name / file);
    }
    return At(name);
  }

  // The words with these options added; one that is there already gets the new value.
  static std::vector<std::string> With(std::vector<std::string> words,
                                       const std::vector<std::string>& options) {
    for (size_t i = 0; i < options.size(); ++i) {
      const auto there = std::find(words.begin(), words.end(), options[i]);
      if (there == words.end() || !options[i].starts_with("--")) {
        words.push_back(options[i]);
      } else {
        *std::next(there) = options.at(++i);
      }
    }
    return words;
  }

  static RunResult Tidegate(std::vector<std::string> words, const RunOptions& options = {}) {
    words.insert(words.begin(), Program("tidegate").native());
    return RunProgram(words, options);
  }
  // The result of a verb that must go well, as --format json gives it.
  static nlohmann::json JsonOf(const std::vector<std::string>& words) {
    const RunResult run = Tidegate(With(words, {"--format", "json"}));
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return Parsed(run.out);
  }
  static nlohmann::json Parsed(const std::string& text) {
    auto json = nlohmann::json::parse(text, nullptr, false);
    EXPECT_FALSE(json.is_discarded()) << text;
    return json.is_discarded() ? nlohmann::json::object() : json;
  }

  // Every file below a folder and what is in it.
  static std::map<std::string, std::string> Snapshot(const std::filesystem::path& folder) {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      if (entry.is_regular_file()) files[entry.path().native()] = Read(entry.path());
    }
    return files;
  }

  std::filesystem::path root_;
};

}  // namespace tidegate::cli
