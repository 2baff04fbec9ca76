// A folder for a test's text.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"

namespace tidegate::corpus {

class CorpusTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tg-corpus-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path Put(const std::string& name, std::string_view content) const {
    std::ofstream(folder_ / name, std::ios::binary) << content;
    return folder_ / name;
  }
  std::filesystem::path PutLines(const std::string& name,
                                 const std::vector<std::string>& texts) const {
    std::string lines;
    for (const std::string& text : texts) lines += nlohmann::json{{"text", text}}.dump() + "\n";
    return Put(name, lines);
  }

  static nlohmann::json Golden(const std::string& name) {
    const auto text =
        ReadTextFile(std::filesystem::path(TIDEGATE_SOURCE_DIR "/tests/golden") / name, 64 << 20);
    EXPECT_TRUE(text.has_value());
    return nlohmann::json::parse(*text);
  }
  // Of many scripts, with what pre-tokenizers trip over.
  static std::vector<std::string> Texts() { return Golden("tokenizers/ids.json")["texts"]; }

  std::filesystem::path folder_;
};

}  // namespace tidegate::corpus
