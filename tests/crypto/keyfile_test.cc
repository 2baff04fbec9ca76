// Key files that others may touch are refused, and armour has one form.
#include "crypto/keyfile.h"

#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "base/file.h"
#include "crypto/armor.h"
#include "hex.h"

namespace tidegate::crypto {
namespace {

class KeyFile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tidegate-key-XXXXXX").native();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
    path_ = directory_ / "key";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  SigningKey Written() {
    auto key = SigningKey::Generate();
    EXPECT_TRUE(key && WriteKeyFile(path_, *key).ok());
    return std::move(*key);
  }

  std::filesystem::path directory_;
  std::filesystem::path path_;
};

TEST_F(KeyFile, EveryTypeComesBackAndIsTheOwnersAlone) {
  const SigningKey signing = Written();
  struct stat st;
  ASSERT_EQ(::stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
  const auto signing_again = ReadSigningKey(path_);
  ASSERT_TRUE(signing_again) << signing_again.error().message();
  EXPECT_EQ(signing_again->verify_key(), signing.verify_key());

  const auto curve = CurveKeyPair::Generate();
  ASSERT_TRUE(curve && WriteKeyFile(directory_ / "curve", *curve).ok());
  const auto curve_again = ReadCurveKey(directory_ / "curve");
  ASSERT_TRUE(curve_again);
  EXPECT_TRUE(Equal(curve_again->secret().reveal(), curve->secret().reveal()));
  EXPECT_TRUE(Equal(curve_again->public_key(), curve->public_key()));
}

TEST_F(KeyFile, TheFormatOnDiskIsTheDocumentedOne) {
  const auto seed = MakeSecret<32>(Counting(32, 0), "seed");
  const auto key = SigningKey::FromSeed(*seed);
  ASSERT_TRUE(key && WriteKeyFile(path_, *key).ok());
  EXPECT_EQ(*ReadTextFile(path_, 4096),
            "-----BEGIN TIDEGATE ED25519 KEY-----\n"
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
            "-----END TIDEGATE ED25519 KEY-----\n");
}

TEST_F(KeyFile, AnyModeButTheOwnersAloneIsRefusedWithTheRemedy) {
  Written();
  for (const mode_t mode :
       {0640, 0620, 0610, 0604, 0602, 0601, 0644, 0700, 0500, 04600, 02600, 01600}) {
    ASSERT_EQ(::chmod(path_.c_str(), mode), 0);
    const auto read = ReadSigningKey(path_);
    ASSERT_FALSE(read) << mode;
    EXPECT_EQ(read.error().code(), Code::kPermissionDenied) << mode;
    EXPECT_NE(read.error().message().find("chmod 600 " + path_.native()), std::string::npos)
        << read.error().message();
  }
  ASSERT_EQ(::chmod(path_.c_str(), 0400), 0);
  EXPECT_TRUE(ReadSigningKey(path_));
}

TEST_F(KeyFile, ContentOfAnotherLengthOrWithMoreBehindItIsRefused) {
  const auto write = [&](const std::string& text) {
    EXPECT_TRUE(WriteFileDurably(path_, AsBytes(text), 0600).ok());
    const auto read = ReadSigningKey(path_);
    return read ? Code::kOk : read.error().code();
  };
  EXPECT_EQ(write(*EncodeArmor("ED25519 KEY", Counting(32, 0))), Code::kOk);
  for (const size_t size : {1, 31, 33, 64}) {
    EXPECT_EQ(write(*EncodeArmor("ED25519 KEY", Counting(size, 0))), Code::kInvalidArgument)
        << size;
  }
  for (const std::string_view more : {"\n", " ", "x", "\0"}) {
    EXPECT_EQ(write(*EncodeArmor("ED25519 KEY", Counting(32, 0)) + std::string(more.data(), 1)),
              Code::kInvalidArgument);
  }
  EXPECT_EQ(write(""), Code::kInvalidArgument);
  EXPECT_EQ(write(*EncodeArmor("CURVE KEY", Counting(32, 0))), Code::kInvalidArgument);
  // A CURVE key that is 64 bytes under another name, and halves that are swapped.
  const auto curve = CurveKeyPair::Generate();
  ASSERT_TRUE(curve);
  Bytes halves(curve->public_key().begin(), curve->public_key().end());
  halves.insert(halves.end(), curve->secret().reveal().begin(), curve->secret().reveal().end());
  ASSERT_TRUE(WriteFileDurably(path_, AsBytes(*EncodeArmor("CURVE KEY", halves)), 0600).ok());
  EXPECT_EQ(ReadCurveKey(path_).error().code(), Code::kInvalidArgument);
}

TEST_F(KeyFile, AnotherOwnerIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "giving a file away needs root";
  Written();
  ASSERT_EQ(::chown(path_.c_str(), 12345, 12345), 0);
  const auto read = ReadSigningKey(path_);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Code::kPermissionDenied);
  EXPECT_NE(read.error().message().find("belongs to user 12345"), std::string::npos);
}

TEST_F(KeyFile, LinksAndOtherThingsAreRefused) {
  Written();
  const auto link = directory_ / "link";
  ASSERT_EQ(::symlink(path_.c_str(), link.c_str()), 0);
  EXPECT_EQ(ReadSigningKey(link).error().code(), Code::kPermissionDenied);
  EXPECT_EQ(ReadSigningKey(directory_).error().code(), Code::kInvalidArgument);
  const auto fifo = directory_ / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_EQ(ReadSigningKey(fifo).error().code(), Code::kInvalidArgument);  // and does not wait
  EXPECT_EQ(ReadSigningKey(directory_ / "none").error().code(), Code::kNotFound);
}

TEST_F(KeyFile, AnExistingFileIsNeverReplaced) {
  const SigningKey first = Written();
  const auto second = SigningKey::Generate();
  ASSERT_TRUE(second);
  EXPECT_EQ(WriteKeyFile(path_, *second).code(), Code::kAlreadyExists);
  EXPECT_EQ(ReadSigningKey(path_)->verify_key(), first.verify_key());
  // A dangling link in its place is something too.
  const auto link = directory_ / "link";
  ASSERT_EQ(::symlink("/nowhere", link.c_str()), 0);
  EXPECT_EQ(WriteKeyFile(link, *second).code(), Code::kAlreadyExists);
}

// Two starts of one verb at once: one of them makes the key, and it is the key that is there.
TEST_F(KeyFile, OfManyWritersOneWins) {
  for (int round = 0; round < 10; ++round) {
    const auto path = directory_ / std::to_string(round);
    std::vector<SigningKey> keys;
    for (int i = 0; i < 8; ++i) keys.push_back(std::move(*SigningKey::Generate()));
    std::vector<Status> results(keys.size());
    std::vector<std::thread> writers;
    for (size_t i = 0; i < keys.size(); ++i) {
      writers.emplace_back([&, i] { results[i] = WriteKeyFile(path, keys[i]); });
    }
    for (std::thread& writer : writers) writer.join();
    size_t winner = keys.size();
    for (size_t i = 0; i < results.size(); ++i) {
      if (!results[i].ok()) {
        EXPECT_EQ(results[i].code(), Code::kAlreadyExists) << results[i].message();
        continue;
      }
      EXPECT_EQ(winner, keys.size()) << "two writers were told that theirs is the key";
      winner = i;
    }
    ASSERT_LT(winner, keys.size());
    EXPECT_EQ(ReadSigningKey(path)->verify_key(), keys[winner].verify_key());
  }
}

TEST_F(KeyFile, WhatACrashLeftIsTakenOverAndOpenToNobody) {
  const auto left = std::filesystem::path(path_) += ".tmp";
  ASSERT_TRUE(WriteFileDurably(left, Bytes(9000, 'x'), 0644).ok());
  const SigningKey key = Written();
  struct stat st;
  ASSERT_EQ(::stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
  EXPECT_EQ(ReadSigningKey(path_)->verify_key(), key.verify_key());
  EXPECT_FALSE(std::filesystem::exists(left));
  // A link in its place is not followed.
  std::filesystem::remove(path_);
  ASSERT_EQ(::symlink((directory_ / "elsewhere").c_str(), left.c_str()), 0);
  EXPECT_FALSE(WriteKeyFile(path_, key).ok());
  EXPECT_FALSE(std::filesystem::exists(directory_ / "elsewhere"));
}

TEST_F(KeyFile, AKeyOfAnotherTypeOrDamagedIsRefusedWithoutShowingIt) {
  const SigningKey key = Written();
  EXPECT_EQ(ReadCurveKey(path_).error().code(), Code::kInvalidArgument);
  const auto text = ReadTextFile(path_, 4096);
  ASSERT_TRUE(text);
  const std::string secret = ToBase64(key.seed().reveal());
  for (size_t cut = 0; cut + 1 < text->size(); ++cut) {  // without the last newline is the same
    ASSERT_TRUE(WriteFileDurably(path_, AsBytes(text->substr(0, cut)), 0600).ok());
    const auto read = ReadSigningKey(path_);
    ASSERT_FALSE(read) << cut;
    EXPECT_EQ(read.error().message().find(secret), std::string::npos);
  }
  ASSERT_TRUE(WriteFileDurably(path_, Bytes(5000, 'A'), 0600).ok());
  EXPECT_EQ(ReadSigningKey(path_).error().code(), Code::kInvalidArgument);
}

TEST(CurveKey, TheHalvesMustBelongTogether) {
  // RFC 7748 6.1, Bob's pair; libsodium's crypto_box has the same.
  const Bytes secret = Hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
  Bytes open = Hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
  const auto pair = CurveKeyPair::FromBytes(secret, open);
  ASSERT_TRUE(pair);
  EXPECT_EQ(ToHex(pair->public_key()), ToHex(open));
  open[0] ^= 1;
  EXPECT_EQ(CurveKeyPair::FromBytes(secret, open).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(CurveKeyPair::FromBytes(Bytes(31), open).error().code(), Code::kInvalidArgument);
}

TEST(Armor, ComesBackAtEveryLength) {
  for (size_t size = 1; size <= 200; ++size) {
    const Bytes content = Counting(size, 7);
    const auto text = EncodeArmor("SITE REQUEST", content);
    ASSERT_TRUE(text);
    const auto again = DecodeArmor("SITE REQUEST", *text);
    ASSERT_TRUE(again) << size << ": " << again.error().message();
    EXPECT_EQ(*again, content);
  }
  const Bytes large(kArmorMaxBytes, 0x5a);
  const auto text = EncodeArmor("SITE REQUEST", large);
  ASSERT_TRUE(text);
  EXPECT_EQ(*DecodeArmor("SITE REQUEST", *text), large);
}

TEST(Armor, MailMayTouchLineEndsAndNothingElse) {
  const Bytes content = Counting(100, 0);
  const auto text = EncodeArmor("SITE REQUEST", content);
  ASSERT_TRUE(text);
  EXPECT_TRUE(DecodeArmor("SITE REQUEST", text->substr(0, text->size() - 1)));
  std::string crlf;
  for (const char c : *text) {
    if (c == '\n') crlf.push_back('\r');
    crlf.push_back(c);
  }
  EXPECT_EQ(*DecodeArmor("SITE REQUEST", crlf), content);

  const size_t first_line = text->find('\n') + 1;
  std::string joined = *text;
  joined.erase(first_line + 64, 1);
  std::string space = *text;
  space.insert(first_line + 10, " ");
  const std::string bad[] = {
      "", *text + "\n", " " + *text, *text + *text, joined, space, text->substr(first_line)};
  for (const std::string& b : bad) {
    const auto decoded = DecodeArmor("SITE REQUEST", b);
    ASSERT_FALSE(decoded) << b;
    EXPECT_EQ(decoded.error().code(), Code::kInvalidArgument);
  }
  const auto other = DecodeArmor("SITE APPROVAL", *text);
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().message().find("SITE APPROVAL"), std::string::npos);
}

TEST(Armor, LabelsAndSizesOutOfRangeAreRefused) {
  for (const std::string_view label : {"", "site", " A", "A ", "A  B", "A-B", "A\n"}) {
    EXPECT_EQ(EncodeArmor(label, Bytes(1)).error().code(), Code::kInvalidArgument) << label;
  }
  EXPECT_FALSE(EncodeArmor("A", {}));
  EXPECT_FALSE(EncodeArmor("A", Bytes(kArmorMaxBytes + 1)));
  EXPECT_FALSE(DecodeArmor("A", std::string(2 * kArmorMaxBytes + 1, 'A')));
}

}  // namespace
}  // namespace tidegate::crypto
