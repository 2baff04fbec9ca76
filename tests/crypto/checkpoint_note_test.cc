// Signed notes against the examples of C2SP and of Go's sumdb/note, and the one form of
// checkpoints.
#include "crypto/checkpoint_note.h"

#include "crypto/merkle.h"
#include "hex.h"

namespace tidegate::crypto {
namespace {

constexpr std::string_view kText =
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n";
constexpr std::string_view kNote =
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "\xe2\x80\x94 PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdn"
    "gotpRZb6KE6RyyBwJnAM=\n";

// "PRIVATE+KEY+PeterNeumann+c74f20a3+BASE64" holds the type byte and the seed.
SigningKey PeterKey() {
  const auto typed = FromBase64("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz");
  const auto seed = MakeSecret<32>(ByteSpan(*typed).subspan(1), "seed");
  auto key = SigningKey::FromSeed(*seed);
  return std::move(*key);
}

std::string Replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out(text);
  const size_t at = out.find(from);
  if (at == std::string::npos) {
    ADD_FAILURE() << "nothing to replace: " << from;
    return out;
  }
  return out.replace(at, from.size(), to);
}

TEST(SignedNote, MatchesGoSumdb) {
  const SigningKey key = PeterKey();
  EXPECT_EQ(ToHex(NoteKeyHash("PeterNeumann", key.verify_key())), "c74f20a3");
  const auto note = SignNote(kText, "PeterNeumann", key);
  ASSERT_TRUE(note);
  EXPECT_EQ(*note, kNote);
  const auto text = OpenNote(kNote, "PeterNeumann", key.verify_key());
  ASSERT_TRUE(text) << text.error().message();
  EXPECT_EQ(*text, kText);
}

TEST(SignedNote, MatchesTheC2spExample) {
  const auto typed = FromBase64("AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k");
  ASSERT_TRUE(typed);
  const auto key = VerifyKey::FromBytes(ByteSpan(*typed).subspan(1));
  ASSERT_TRUE(key);
  EXPECT_EQ(ToHex(NoteKeyHash("example.com/foo", *key)), "530d903a");
  const auto text = OpenNote(
      "This is an example message.\n\n\xe2\x80\x94 example.com/foo "
      "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72Ineya"
      "QM=\n",
      "example.com/foo", *key);
  ASSERT_TRUE(text) << text.error().message();
  EXPECT_EQ(*text, "This is an example message.\n");
}

TEST(SignedNote, AnotherNameKeyOrTextIsRefused) {
  const SigningKey key = PeterKey();
  const auto other = SigningKey::Generate();
  ASSERT_TRUE(other);
  EXPECT_EQ(OpenNote(kNote, "Peter", key.verify_key()).error().code(), Code::kUnauthenticated);
  EXPECT_EQ(OpenNote(kNote, "PeterNeumann", other->verify_key()).error().code(),
            Code::kUnauthenticated);
  EXPECT_EQ(OpenNote(Replaced(kNote, "answer", "Answer"), "PeterNeumann", key.verify_key())
                .error()
                .code(),
            Code::kUnauthenticated);
}

TEST(SignedNote, EveryOtherFormIsRefused) {
  const SigningKey key = PeterKey();
  const std::string line(kNote.substr(kText.size() + 1));
  const std::string bad[] = {
      "",
      "\n",
      "\n\n",
      std::string(kText),
      std::string(kText) + line,
      std::string(kNote.substr(0, kNote.size() - 1)),
      std::string(kNote) + "\n",
      std::string(kNote) + line,
      Replaced(kNote, "\xe2\x80\x94 ", "- "),
      Replaced(kNote, "\xe2\x80\x94 ", "\xe2\x80\x94"),
      Replaced(kNote, "PeterNeumann x08", "PeterNeumann  x08"),
      Replaced(kNote, "JnAM=", "JnAN="),  // other trailing bits of the same bytes
      Replaced(kNote, "JnAM=", "JnAM"),
      Replaced(kNote, "\n\n", "\n\n\n"),
      Replaced(kNote, "\n", "\r\n"),
      Replaced(kNote, "PeterNeumann x08go", "PeterNeumann"),
  };
  for (const std::string& note : bad) {
    EXPECT_FALSE(OpenNote(note, "PeterNeumann", key.verify_key())) << note;
  }
  for (size_t i = 0; i < kNote.size(); ++i) {
    std::string note(kNote);
    note[i] = static_cast<char>(note[i] ^ 0x01);
    EXPECT_FALSE(OpenNote(note, "PeterNeumann", key.verify_key())) << "byte " << i;
  }
}

TEST(SignedNote, OnlyNamesAndTextsThatOpenAgainAreSigned) {
  const SigningKey key = PeterKey();
  for (const std::string_view name : {"", "two words", "a+b", "tab\t", "caf\xc3\xa9"}) {
    EXPECT_EQ(SignNote(kText, name, key).error().code(), Code::kInvalidArgument) << name;
  }
  EXPECT_FALSE(SignNote(kText, std::string(256, 'n'), key));
  for (const std::string_view text : {"", "no newline", "line\n\n", "tab\t\n"}) {
    EXPECT_EQ(SignNote(text, "n", key).error().code(), Code::kInvalidArgument) << text;
  }
  EXPECT_FALSE(SignNote(std::string(kNoteMaxBytes, 'x') + "\n", "n", key));
}

Checkpoint Example() {
  Checkpoint checkpoint;
  checkpoint.origin = "example.org/site-7/ledger";
  checkpoint.size = 3;
  checkpoint.root = MerkleLeafHash(AsBytes("entry"));
  return checkpoint;
}

TEST(CheckpointNote, HasOneFormAndComesBack) {
  const SigningKey key = PeterKey();
  const Checkpoint head = Example();
  const auto text = CheckpointText(head);
  ASSERT_TRUE(text);
  EXPECT_EQ(*text, "example.org/site-7/ledger\n3\n" + ToBase64(head.root) + "\n");
  const auto note = SignCheckpoint(head, "site-7", key);
  ASSERT_TRUE(note);
  EXPECT_EQ(*note, *SignCheckpoint(head, "site-7", key));  // the same bytes each time
  const auto again = OpenCheckpoint(*note, "site-7", key.verify_key());
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(*again, head);
  for (const uint64_t size : {uint64_t{0}, UINT64_MAX}) {
    Checkpoint other = head;
    other.size = size;
    const auto other_text = CheckpointText(other);
    ASSERT_TRUE(other_text);
    EXPECT_EQ(*ParseCheckpointText(*other_text), other);
  }
}

TEST(CheckpointNote, EveryOtherFormIsRefused) {
  const std::string root = ToBase64(Example().root);
  ASSERT_TRUE(ParseCheckpointText("o\n3\n" + root + "\n"));
  const std::string bad[] = {
      "",
      "o\n3\n",
      "o\n3\n" + root,
      "o\n3\n" + root + "\nextension\n",
      "o\n3\n" + root + "\n\n",
      "\n3\n" + root + "\n",
      "o\n03\n" + root + "\n",
      "o\n+3\n" + root + "\n",
      "o\n-3\n" + root + "\n",
      "o\n 3\n" + root + "\n",
      "o\n3 \n" + root + "\n",
      "o\n\n" + root + "\n",
      "o\n18446744073709551616\n" + root + "\n",
      "o\n3\n" + root.substr(0, 43) + "\n",
      "o\n3\n " + root + "\n",
      "o\n3\n" + ToBase64(Bytes(31)) + "\n",
      "o\r\n3\n" + root + "\n",
      "caf\xc3\xa9\n3\n" + root + "\n",
  };
  for (const std::string& text : bad) {
    const auto parsed = ParseCheckpointText(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code(), Code::kInvalidArgument) << text;
  }
  // Signed, but no checkpoint.
  const SigningKey key = PeterKey();
  EXPECT_EQ(OpenCheckpoint(kNote, "PeterNeumann", key.verify_key()).error().code(),
            Code::kInvalidArgument);
  Checkpoint lines = Example();
  lines.origin = "two\nlines";
  EXPECT_EQ(SignCheckpoint(lines, "site-7", key).error().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace tidegate::crypto
