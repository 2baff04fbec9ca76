// The search itself: what it must find it finds, so that finding nothing means something.
#include "tests/canary/search.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/canary/temp_folder.h"

namespace tidegate::canary {
namespace {

namespace fs = std::filesystem;

model::Tokenizer TinyTokenizer() {
  auto tokenizer = model::Tokenizer::Load(fs::path(TIDEGATE_SOURCE_DIR) / "tests" / "golden" /
                                          "tiny_llama" / "tokenizer.json");
  EXPECT_TRUE(tokenizer) << tokenizer.error().ToString();
  return std::move(*tokenizer);
}

// Written apart from the search's own encoders.
std::string Base64(const std::string& in) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  uint32_t bits = 0;
  int have = 0;
  for (const char c : in) {
    bits = (bits << 8 | static_cast<uint8_t>(c)) & 0xffffff;
    for (have += 8; have >= 6;) out += kDigits[bits >> (have -= 6) & 63];
  }
  return out;
}

std::string Hex(const std::string& in, bool upper) {
  std::string out;
  for (const char c : in) {
    out += upper ? fmt::format("{:02X}", static_cast<uint8_t>(c))
                 : fmt::format("{:02x}", static_cast<uint8_t>(c));
  }
  return out;
}

template <typename Int>
std::string Raw(const std::vector<int32_t>& ids) {
  std::string out;
  for (const int32_t id : ids) {
    const Int value = static_cast<Int>(id);
    out.append(reinterpret_cast<const char*>(&value), sizeof(value));  // x86: little-endian
  }
  return out;
}

// The content in every encoding that the search has.
std::map<std::string, std::string> Encoded(const std::string& text,
                                           const std::vector<int32_t>& ids) {
  std::map<std::string, std::string> all;
  all["text"] = text;
  all["reversed"] = std::string(text.rbegin(), text.rend());
  all["hex"] = Hex(text, false);
  all["HEX"] = Hex(text, true);
  for (const char c : text) {
    all["utf-16le"] += std::string{c, '\0'};
    all["utf-16be"] += std::string{'\0', c};
  }
  // The canary's windows are at 0, 12 and 24 of it: what stands before it decides the alignment.
  for (size_t before = 0; before < 3; ++before) {
    all[fmt::format("base64+{}", before)] = Base64(std::string(before, '.') + text);
  }
  all["ids16"] = Raw<int16_t>(ids);
  all["ids32"] = Raw<int32_t>(ids);
  all["ids64"] = Raw<int64_t>(ids);
  all["ids,"] = fmt::format("[{}]", fmt::join(ids, ","));
  all["ids, "] = fmt::format("[{}]", fmt::join(ids, ", "));
  all["ids "] = fmt::format("{}", fmt::join(ids, " "));
  return all;
}

TEST(CanarySearch, FindsACanaryInEveryEncoding) {
  const model::Tokenizer tokenizer = TinyTokenizer();
  Search search(TinyTokenizer());
  const std::string canary = RandomCanary();
  ASSERT_TRUE(search.Add("c", canary).ok());
  // 18 characters stand before the canary: a multiple of three.
  const std::string text = "The code word is: " + canary + ", says the record.";
  const auto encoding = tokenizer.Encode(text);
  ASSERT_TRUE(encoding) << encoding.error().ToString();
  const auto all = Encoded(text, encoding->ids);
  std::set<std::string> written;
  const TempFolder folder("search");
  for (const auto& [name, content] : all) {
    written.insert(name);
    const fs::path file = folder.path() / fmt::format("file{}", written.size());
    std::ofstream(file, std::ios::binary) << std::string(1000, '\0') << content << "\xff\xff";
    const auto found = search.InTree(folder.path());
    ASSERT_TRUE(found) << found.error().ToString();
    const bool seen = std::any_of(found->hits.begin(), found->hits.end(), [&](const Hit& hit) {
      return hit.where == file.native() && hit.encoding == name && hit.canary == "c";
    });
    EXPECT_TRUE(seen) << name << ": " << content << "\n" << Describe(found->hits);
    fs::remove(file);
  }
  EXPECT_EQ(written, search.encodings());
}

TEST(CanarySearch, FindsAPieceOfACanary) {
  Search search(TinyTokenizer());
  const std::string canary = RandomCanary();
  ASSERT_TRUE(search.Add("c", canary).ok());
  for (size_t at = 0; at + 27 <= canary.size(); ++at) {
    EXPECT_FALSE(search.InBytes(AsBytes(canary.substr(at, 27)), "piece").empty()) << at;
  }
}

TEST(CanarySearch, FindsNothingWhereOtherCanariesAre) {
  Search search(TinyTokenizer());
  ASSERT_TRUE(search.Add("c", RandomCanary()).ok());
  const std::string text = "The code word is: " + RandomCanary() + ".";
  const auto encoding = TinyTokenizer().Encode(text);
  ASSERT_TRUE(encoding);
  for (const auto& [name, content] : Encoded(text, encoding->ids)) {
    const auto hits = search.InBytes(AsBytes(content), name);
    EXPECT_TRUE(hits.empty()) << Describe(hits);
  }
}

TEST(CanarySearch, FindsACanaryInTheNameOfAFile) {
  Search search(TinyTokenizer());
  const std::string canary = RandomCanary();
  ASSERT_TRUE(search.Add("c", canary).ok());
  const TempFolder folder("search");
  std::ofstream(folder.path() / canary) << "nothing";
  const auto found = search.InTree(folder.path());
  ASSERT_TRUE(found) << found.error().ToString();
  EXPECT_EQ(found->files, 1u);
  ASSERT_FALSE(found->hits.empty());
  EXPECT_TRUE(found->hits.front().where.starts_with("the name "));
}

TEST(CanarySearch, InASharedFolderOnlyWhatIsNewIsSearched) {
  Search search(TinyTokenizer());
  const std::string canary = RandomCanary();
  ASSERT_TRUE(search.Add("c", canary).ok());
  const TempFolder folder("search");
  const fs::path old_file = folder.path() / "old", new_file = folder.path() / "new";
  std::ofstream(old_file) << canary;
  std::ofstream(new_file) << canary;
  const auto since = fs::last_write_time(new_file);
  fs::last_write_time(old_file, since - std::chrono::hours(1));
  const Found found = search.InSharedFolder(folder.path(), since);
  EXPECT_EQ(found.files, 1u);
  ASSERT_FALSE(found.hits.empty());
  EXPECT_EQ(found.hits.front().where, new_file.native());
  EXPECT_EQ(search.InSharedFolder(folder.path(), since, {new_file}).files, 0u);
}

}  // namespace
}  // namespace tidegate::canary
