#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"

namespace tidegate {
namespace {

Result<int> Half(int x) {
  if (x % 2 != 0) return InvalidArgument("{} is odd", x);
  return x / 2;
}

Result<int> Quarter(int x) {
  TG_ASSIGN_OR_RETURN(const int half, Half(x));
  return Half(half);
}

TEST(Status, PropagatesCodeAndMessage) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(Quarter(6).error().ToString(), "INVALID_ARGUMENT: 3 is odd");
  EXPECT_EQ(Quarter(6).error().WithContext("file f").message(), "file f: 3 is odd");
}

TEST(Bytes, HexAndBase64AreStrict) {
  EXPECT_EQ(ToHex(AsBytes("\x01\xfe")), "01fe");
  EXPECT_FALSE(FromHex("0").has_value());
  EXPECT_FALSE(FromHex("0g").has_value());
  for (std::string_view text : {"", "f", "fo", "foo", "foob", "fooba", "foobar"}) {
    const std::string encoded = ToBase64(AsBytes(text));
    EXPECT_EQ(AsText(*FromBase64(encoded)), text);
  }
  EXPECT_EQ(ToBase64(AsBytes("foob")), "Zm9vYg==");
  EXPECT_FALSE(FromBase64("Zm9vYh==").has_value()) << "non-zero trailing bits";
  EXPECT_FALSE(FromBase64("Zm9v Yg=").has_value());
  EXPECT_FALSE(FromBase64("Zg=a").has_value());
}

TEST(Rng, PhiloxKnownAnswers) {
  // Random123 kat_vectors, philox4x32 10 rounds.
  EXPECT_EQ(Philox({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(File, DurableWriteReplacesWholeAndKeepsMode) {
  const auto dir =
      std::filesystem::temp_directory_path() / fmt::format("tidegate_base_{}", ::getpid());
  std::filesystem::create_directories(dir);
  const auto path = dir / "key";
  ASSERT_TRUE(WriteFileDurably(path, AsBytes("one"), 0600).ok());
  ASSERT_TRUE(WriteFileDurably(path, AsBytes("two"), 0600).ok());
  EXPECT_EQ(*ReadTextFile(path, 100), "two");
  struct stat st;
  ASSERT_EQ(stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  EXPECT_FALSE(std::filesystem::exists(path.string() + ".tmp"));
  EXPECT_EQ(ReadFile(path, 2).error().code(), Code::kResourceExhausted);
  EXPECT_EQ(ReadFile(dir, 2).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(ReadFile(dir / "none", 2).error().code(), Code::kNotFound);
  // Nobody writes into it, and that is not waited for.
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(ReadFile(dir / "pipe", 2).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(MappedFile::Open(dir / "pipe").error().code(), Code::kInvalidArgument);
  std::filesystem::remove_all(dir);
}

TEST(Clock, FormatsUtc) { EXPECT_EQ(FormatUtc(1795581436000), "2026-11-25T04:37:16Z"); }

}  // namespace
}  // namespace tidegate
