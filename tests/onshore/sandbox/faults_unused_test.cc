// The holes of wall_faults.h are for tests: no source of the product names them outside the module.
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"

namespace tidegate::onshore {
namespace {

TEST(WallFaultsTest, NoProgramMakesAHole) {
  const std::filesystem::path root = std::filesystem::path(TIDEGATE_SOURCE_DIR) / "src";
  const std::filesystem::path own = root / "onshore" / "sandbox";
  int files = 0;
  int own_mentions = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    const std::filesystem::path extension = entry.path().extension();
    if (extension != ".cc" && extension != ".h") continue;
    const Result<std::string> text = ReadTextFile(entry.path(), 1 << 20);
    ASSERT_TRUE(text) << text.error().message();
    ++files;
    const bool mentions = text->find("WallFaults") != std::string::npos ||
                          text->find("wall_faults.h") != std::string::npos;
    if (entry.path().parent_path() == own) {
      own_mentions += mentions ? 1 : 0;
    } else {
      EXPECT_FALSE(mentions) << entry.path();
    }
  }
  EXPECT_GT(files, 20);
  EXPECT_GT(own_mentions, 0) << "the word that is looked for is not the one that is used";
}

}  // namespace
}  // namespace tidegate::onshore
