#include "crypto/base_hash.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "crypto/hash.h"

namespace tidegate::crypto {
namespace {

namespace fs = std::filesystem;

Bytes Entry(std::string_view name, std::string_view content) {
  Bytes out(name.begin(), name.end());
  out.push_back(0);
  out.resize(out.size() + 8);
  StoreLe64(out.data() + out.size() - 8, content.size());
  const Digest digest = Sha256::Of(AsBytes(content));
  out.insert(out.end(), digest.begin(), digest.end());
  return out;
}

TEST(BaseHash, IsOfTheFilesThatDecideAndOfNothingElse) {
  const fs::path dir = fs::temp_directory_path() / fmt::format("tidegate_base_hash_{}", ::getpid());
  fs::remove_all(dir);
  fs::create_directories(dir);
  ASSERT_TRUE(WriteFileDurably(dir / "config.json", AsBytes("{}")).ok());
  EXPECT_EQ(BaseHash(dir).error().code(), Code::kNotFound) << "no weights yet";
  ASSERT_TRUE(WriteFileDurably(dir / "model.safetensors", AsBytes("w")).ok());
  const Bytes config = Entry("config.json", "{}"), weights = Entry("model.safetensors", "w");
  const Digest expected = Sha256::Of({config, weights});
  EXPECT_EQ(*BaseHash(dir), expected);
  ASSERT_TRUE(WriteFileDurably(dir / "README.md", AsBytes("x")).ok());
  EXPECT_EQ(*BaseHash(dir), expected);
  ASSERT_TRUE(WriteFileDurably(dir / "tokenizer.json", AsBytes("x")).ok());
  EXPECT_NE(*BaseHash(dir), expected);
  fs::remove_all(dir);
  EXPECT_EQ(BaseHash(dir).error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace tidegate::crypto
