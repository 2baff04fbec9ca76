// Secrets leave nothing behind: not in the object, and not in memory that is given back.
#include "crypto/secret.h"

#include <cstring>
#include <new>
#include <string>
#include <type_traits>

#include "base/file.h"
#include "crypto/hpke.h"
#include "crypto/kdf.h"
#include "crypto/keyfile.h"
#include "hex.h"
#include "watched_free.h"

namespace tidegate::crypto {
namespace {

Bytes Key() { return Counting(32, 0xa1); }

template <typename T>
concept Printable = requires(std::ostream& out, const T& value) {
  out << value;
};
template <typename T>
constexpr bool kGuarded =
    !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T> &&
    std::is_nothrow_move_constructible_v<T> && !std::equality_comparable<T> && !Printable<T> &&
    !fmt::is_formattable<T>::value && !std::is_convertible_v<T, ByteSpan> &&
    !std::is_convertible_v<T, Bytes> && !std::is_convertible_v<T, bool> &&
    !std::is_convertible_v<Bytes, T> && !std::is_convertible_v<ByteSpan, T>;
static_assert(kGuarded<Secret<32>>);
static_assert(kGuarded<SecretBytes>);
static_assert(!std::is_constructible_v<Secret<32>, std::span<const uint8_t, 31>>);
static_assert(!std::is_convertible_v<std::span<const uint8_t, 32>, Secret<32>>);
// Keys are as guarded as what they hold.
template <typename T>
constexpr bool kKeyGuarded = !std::is_copy_constructible_v<T> && !std::equality_comparable<T> &&
                             !Printable<T> && !fmt::is_formattable<T>::value;
static_assert(kKeyGuarded<SigningKey> && kKeyGuarded<AgreeSecretKey> && kKeyGuarded<CurveKeyPair>);

TEST(Secret, IsZeroAfterMoveEraseAndDestruction) {
  const Bytes key = Counting(32, 1);
  const Bytes zero(32);
  Secret<32> a(std::span<const uint8_t, 32>(key.data(), 32));
  Secret<32> b(std::move(a));
  EXPECT_EQ(ToHex(a.reveal()), ToHex(zero));  // NOLINT: looking at the moved-from is the point
  EXPECT_EQ(ToHex(b.reveal()), ToHex(key));
  Secret<32> c;
  c = std::move(b);
  EXPECT_EQ(ToHex(b.reveal()), ToHex(zero));  // NOLINT
  EXPECT_EQ(ToHex(c.reveal()), ToHex(key));
  c.Erase();
  EXPECT_EQ(ToHex(c.reveal()), ToHex(zero));

  alignas(Secret<32>) uint8_t place[sizeof(Secret<32>)];
  auto* placed = new (place) Secret<32>(std::span<const uint8_t, 32>(key.data(), 32));
  ASSERT_EQ(std::memcmp(place, key.data(), 32), 0);
  placed->~Secret();
  EXPECT_EQ(std::memcmp(place, zero.data(), 32), 0);
}

TEST(Secret, TheWatchSeesAKeyInAFreedBlock) {
  const Bytes key = Key();
  EXPECT_EQ(FreedWith(key, [&] { Bytes copy = key; }), 1);
}

TEST(SecretBytes, GiveBackTheirMemoryZeroed) {
  const Bytes key = Key();
  EXPECT_EQ(FreedWith(key, [&] { SecretBytes secret{Bytes(key)}; }), 0) << "destroyed";
  EXPECT_EQ(FreedWith(key,
                      [&] {
                        SecretBytes secret{Bytes(key)};
                        secret = SecretBytes(5);
                      }),
            0)
      << "assigned over";
  EXPECT_EQ(FreedWith(key,
                      [&] {
                        SecretBytes secret{Bytes(key)};
                        SecretBytes other(std::move(secret));
                        other.Erase();
                      }),
            0)
      << "moved and erased";
}

// A buffer that held more than its size says is zeroed to its end.
TEST(SecretBytes, ABufferIsZeroedBeyondItsSize) {
  const Bytes key = Key();
  EXPECT_EQ(FreedWith(key,
                      [&] {
                        Bytes longer(64);
                        std::copy(key.begin(), key.end(), longer.begin() + 32);
                        longer.resize(32);
                        SecretBytes secret(std::move(longer));
                      }),
            0);
}

class NothingLeft : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tidegate-left-XXXXXX").native();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::filesystem::path directory_;
};

TEST_F(NothingLeft, OfAKeyThatIsWrittenToAFileAndRead) {
  const Bytes key = Key();
  const std::string base64 = ToBase64(key);
  const auto path = directory_ / "key";
  const auto write = [&] {
    const auto seed = MakeSecret<32>(key, "seed");
    const auto signing = SigningKey::FromSeed(*seed);
    EXPECT_TRUE(WriteKeyFile(path, *signing).ok());
    EXPECT_TRUE(std::filesystem::remove(path));
  };
  EXPECT_EQ(FreedWith(key, write), 0) << "the bytes";
  EXPECT_EQ(FreedWith(AsBytes(base64), write), 0) << "their text";
  write();
  const auto seed = MakeSecret<32>(key, "seed");
  ASSERT_TRUE(WriteKeyFile(path, *SigningKey::FromSeed(*seed)).ok());
  const auto read = [&] { EXPECT_TRUE(ReadSigningKey(path)); };
  EXPECT_EQ(FreedWith(key, read), 0) << "the bytes";
  EXPECT_EQ(FreedWith(AsBytes(base64), read), 0) << "their text";
}

TEST_F(NothingLeft, OfAKeyInADamagedFile) {
  const Bytes key = Key();
  const auto path = directory_ / "key";
  const auto seed = MakeSecret<32>(key, "seed");
  ASSERT_TRUE(WriteKeyFile(path, *SigningKey::FromSeed(*seed)).ok());
  auto text = ReadTextFile(path, 4096);
  ASSERT_TRUE(text);
  // The last character of the base64 is none: all but it decodes.
  const size_t end = text->find("=\n");
  ASSERT_NE(end, std::string::npos);
  text->at(end) = '?';
  ASSERT_TRUE(WriteFileDurably(path, AsBytes(*text), 0600).ok());
  EXPECT_EQ(FreedWith(ByteSpan(key).first(30), [&] { EXPECT_FALSE(ReadSigningKey(path)); }), 0);
}

TEST_F(NothingLeft, OfACurveKeyThatIsWrittenToAFileAndRead) {
  const auto pair = CurveKeyPair::Generate();
  ASSERT_TRUE(pair);
  const auto path = directory_ / "key";
  const Bytes secret(pair->secret().reveal().begin(), pair->secret().reveal().end());
  EXPECT_EQ(FreedWith(secret,
                      [&] {
                        EXPECT_TRUE(WriteKeyFile(path, *pair).ok());
                        EXPECT_TRUE(ReadCurveKey(path));
                      }),
            0);
}

TEST(NothingLeftOf, ASharedSecretOrAnExportedKey) {
  const auto recipient = AgreeSecretKey::Generate();
  ASSERT_TRUE(recipient);
  auto setup = SetupSender(recipient->public_key(), AsBytes("info"));
  ASSERT_TRUE(setup);
  Bytes exported;
  {
    const auto key = setup->context.Export(AsBytes("x"), 32);
    ASSERT_TRUE(key);
    exported.assign(key->reveal().begin(), key->reveal().end());
  }
  EXPECT_EQ(FreedWith(exported,
                      [&] {
                        const auto again = SetupRecipient(setup->enc, *recipient, AsBytes("info"));
                        EXPECT_TRUE(Equal(again->Export(AsBytes("x"), 32)->reveal(), exported));
                      }),
            0);
  const auto shared = recipient->Agree(*AgreePublicKey::FromBytes(setup->enc));
  ASSERT_TRUE(shared);
  const Bytes dh(shared->reveal().begin(), shared->reveal().end());
  EXPECT_EQ(
      FreedWith(dh, [&] { EXPECT_TRUE(SetupRecipient(setup->enc, *recipient, AsBytes("info"))); }),
      0);
}

}  // namespace
}  // namespace tidegate::crypto
