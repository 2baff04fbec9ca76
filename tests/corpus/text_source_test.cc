#include "corpus/text_source.h"

#include "corpus_fixture.h"

namespace tidegate::corpus {
namespace {

class TextSourceTest : public CorpusTest {
 protected:
  static Result<std::vector<TextPiece>> ReadAll(TextSource& source) {
    std::vector<TextPiece> pieces;
    while (true) {
      TG_ASSIGN_OR_RETURN(std::optional<TextPiece> piece, source.Next());
      if (!piece) return pieces;
      pieces.push_back(std::move(*piece));
    }
  }
  static TextSource Source(const std::vector<std::filesystem::path>& paths,
                           TextOptions options = {}) {
    auto files = TextSource::FindFiles(paths);
    EXPECT_TRUE(files.has_value()) << (files ? "" : files.error().ToString());
    return TextSource(std::move(*files), std::move(options));
  }
  static std::vector<std::string> Documents(const std::vector<TextPiece>& pieces) {
    std::vector<std::string> documents(1);
    for (const TextPiece& piece : pieces) {
      documents.back() += piece.text;
      if (piece.ends_document) documents.emplace_back();
    }
    EXPECT_EQ(documents.back(), "") << "the last document does not end";
    documents.pop_back();
    return documents;
  }
  std::string ErrorOf(const std::filesystem::path& path) {
    TextSource source = Source({path});
    const auto all = ReadAll(source);
    return all ? "" : all.error().message();
  }
};

// Lines of many lengths, more than two pieces of them.
std::string LongText() {
  std::string text;
  for (int i = 0; text.size() < 5 * kPieceBytes / 2; ++i) {
    text += std::string(static_cast<size_t>(i % 300), static_cast<char>('a' + i % 26));
    text += i % 7 == 0 ? " \n\n  Wörter\n" : "\n";
  }
  return text;
}

TEST_F(TextSourceTest, AFileIsOneDocumentInPiecesThatEndWithALine) {
  const std::string text = LongText();
  TextSource source = Source({Put("a.txt", text)});
  const auto pieces = ReadAll(source);
  ASSERT_TRUE(pieces.has_value());
  EXPECT_EQ(Documents(*pieces), std::vector<std::string>{text});
  ASSERT_EQ(pieces->size(), 3u);
  for (size_t i = 0; i + 1 < pieces->size(); ++i) {
    EXPECT_LE((*pieces)[i].text.size(), kPieceBytes);
    EXPECT_EQ((*pieces)[i].text.back(), '\n');
    EXPECT_NE((*pieces)[i + 1].text.front(), '\n');
    EXPECT_NE((*pieces)[i + 1].text.front(), ' ');
  }
  EXPECT_EQ(source.bytes_done(), text.size());
}

TEST_F(TextSourceTest, TextWithoutLinesOrSpacesIsCutBetweenCharacters) {
  std::string text = "x";
  while (text.size() < 2 * kPieceBytes) text += "€";
  TextSource source = Source({Put("a.txt", text)});
  const auto pieces = ReadAll(source);
  ASSERT_TRUE(pieces.has_value()) << pieces.error().message();
  EXPECT_EQ(Documents(*pieces), std::vector<std::string>{text});
}

TEST_F(TextSourceTest, EachLineOfJsonlIsADocument) {
  const std::vector<std::string> texts = {"one", "two\nlines", LongText(), "ü"};
  PutLines("b.jsonl", texts);
  Put("a.txt", "first");
  Put("c.md", "not read");
  Put("d.txt", "");
  TextSource source = Source({folder_});
  const auto pieces = ReadAll(source);
  ASSERT_TRUE(pieces.has_value()) << pieces.error().message();
  EXPECT_EQ(Documents(*pieces),
            (std::vector<std::string>{"first", "one", "two\nlines", LongText(), "ü"}));
}

TEST_F(TextSourceTest, FromAnyPieceItGoesOnAsItDidBefore) {
  Put("a.txt", LongText());
  PutLines("b.jsonl", {"one", LongText(), "two"});
  TextSource source = Source({folder_});
  const auto all = ReadAll(source);
  ASSERT_TRUE(all.has_value());
  ASSERT_EQ(all->size(), 3u + 5u);
  for (size_t i = 0; i < all->size(); ++i) {
    TextSource again = Source({folder_});
    ASSERT_TRUE(again.Seek((*all)[i].at).ok()) << i;
    const auto rest = ReadAll(again);
    ASSERT_TRUE(rest.has_value());
    ASSERT_EQ(rest->size(), all->size() - i);
    for (size_t k = 0; k < rest->size(); ++k) {
      EXPECT_EQ((*rest)[k].text, (*all)[i + k].text);
      EXPECT_EQ((*rest)[k].at, (*all)[i + k].at);
      EXPECT_EQ((*rest)[k].ends_document, (*all)[i + k].ends_document);
    }
  }
}

TEST_F(TextSourceTest, ErrorsNameTheFileAndThePlace) {
  EXPECT_NE(ErrorOf(Put("a.txt", "good\xff")).find("a.txt: byte 4 is not UTF-8"),
            std::string::npos);
  const std::string good = "{\"text\": \"x\"}\n";
  for (const char* bad : {"{\"text\": 5}", "{\"other\": \"x\"}", "[1]", "{\"text\": \"x\"",
                          "{\"text\": \"\xff\"}", "{\"text\": \"a\", \"text\": \"b\"}"}) {
    const std::string error = ErrorOf(Put("b.jsonl", good + bad + "\n" + good));
    EXPECT_NE(error.find("b.jsonl: the line at byte 14"), std::string::npos) << bad << error;
  }
  EXPECT_FALSE(TextSource::FindFiles({Put("a.pdf", "x")}).has_value());
  EXPECT_FALSE(TextSource::FindFiles({}).has_value());
  std::filesystem::create_directory(folder_ / "empty");
  EXPECT_FALSE(TextSource::FindFiles({folder_ / "empty"}).has_value());
}

TEST_F(TextSourceTest, BadLinesAreLeftOutAndCountedWhenThatIsAskedFor) {
  Put("a.jsonl", "{\"t\": \"x\"}\nbad\n\n{\"t\": 1}\n{\"t\": \"y\"}");
  TextSource source = Source({folder_}, {.field = "t", .skip_bad_lines = true});
  const auto pieces = ReadAll(source);
  ASSERT_TRUE(pieces.has_value());
  EXPECT_EQ(Documents(*pieces), (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(source.bad_lines(), 2u);
}

}  // namespace
}  // namespace tidegate::corpus
