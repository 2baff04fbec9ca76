#include "base/checksum.h"

#include <gtest/gtest.h>

namespace tidegate {
namespace {

TEST(Checksum, EqualsThePublishedVectorsOfXxh64) {
  EXPECT_EQ(ChecksumOf({}), 0xEF46DB3751D8E999u);
  EXPECT_EQ(ChecksumOf(AsBytes("a")), 0xD24EC4F1A98C6E5Bu);
  EXPECT_EQ(ChecksumOf(AsBytes("abc")), 0x44BC2CF5AD770999u);
  EXPECT_EQ(ChecksumOf(AsBytes("Nobody inspects the spammish repetition")), 0xFBCEA83C8A378BF1u);
}

TEST(Checksum, PiecesGiveTheValueOfTheWhole) {
  const std::string text(1000, 'x');
  for (const size_t piece : {1u, 7u, 31u, 32u, 33u, 64u, 999u}) {
    Checksum checksum;
    for (size_t at = 0; at < text.size(); at += piece) {
      checksum.Add(AsBytes(std::string_view(text).substr(at, piece)));
    }
    EXPECT_EQ(checksum.Value(), ChecksumOf(AsBytes(text))) << piece;
  }
}

}  // namespace
}  // namespace tidegate
