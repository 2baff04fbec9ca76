// A folder that somebody else may have filled: what is not a plain file of a plain folder is
// refused by its name, and nothing outside is read, written or removed.
#include "airgap/folder.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "airgap/messages.h"
#include "crypto/hash.h"
#include "protocols/limits.h"

namespace tidegate::airgap {
namespace {

namespace fs = std::filesystem;

class FolderTest : public testing::Test {
 protected:
  FolderTest() {
    std::string made = (fs::temp_directory_path() / "tidegate-airgap-XXXXXX").native();
    EXPECT_NE(::mkdtemp(made.data()), nullptr);
    dir_ = made;
    fs::create_directory(root());
  }
  ~FolderTest() override { fs::remove_all(dir_); }

  fs::path root() const { return dir_ / "medium"; }
  Folder Open() {
    auto folder = Folder::Open(root(), "FOLDER");
    EXPECT_TRUE(folder.has_value()) << folder.error().ToString();
    return std::move(*folder);
  }
  static void Put(const fs::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }
  static std::string Get(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  fs::path dir_;
};

TEST_F(FolderTest, AFileIsWrittenWholeReadBackAndRemoved) {
  Folder folder = Open();
  const Place place = {"up", "north", "lease"};
  EXPECT_FALSE(folder.Read(place, 100)->has_value());
  ASSERT_TRUE(folder.Write(place, AsBytes("first")).ok());
  ASSERT_TRUE(folder.Write(place, AsBytes("second")).ok());
  EXPECT_EQ(AsText(**folder.Read(place, 100)), "second");
  EXPECT_EQ(*folder.List({"up", "north"}, 10), std::vector<std::string>{"lease"});
  ASSERT_TRUE(folder.Remove(place).ok());
  ASSERT_TRUE(folder.Remove(place).ok());
  EXPECT_TRUE(folder.List({"up", "north"}, 10)->empty());
  EXPECT_TRUE(folder.List({"down", "nobody"}, 10)->empty());
}

TEST_F(FolderTest, AFileThatHasTheBytesIsLeftAlone) {
  Folder folder = Open();
  ASSERT_TRUE(folder.Write({"up", "x"}, AsBytes("same")).ok());
  struct stat before {
  }, after{};
  ASSERT_EQ(::stat((root() / "up/x").c_str(), &before), 0);
  ASSERT_TRUE(folder.Write({"up", "x"}, AsBytes("same")).ok());
  ASSERT_EQ(::stat((root() / "up/x").c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
}

TEST_F(FolderTest, AFolderThatHoldsAnythingElseIsRefusedByName) {
  fs::create_directory(root() / "etc");
  const auto folder = Folder::Open(root(), "FOLDER");
  ASSERT_FALSE(folder.has_value());
  EXPECT_EQ(folder.error().code(), Code::kInvalidArgument);
  EXPECT_NE(folder.error().message().find("FOLDER/etc"), std::string::npos);
  EXPECT_EQ(Folder::Open(dir_ / "none", "FOLDER").error().code(), Code::kNotFound);
}

TEST_F(FolderTest, LinksAreNeverFollowed) {
  Put(dir_ / "secret", "secret");
  fs::create_directory(dir_ / "other");
  Put(dir_ / "other" / "kept", "kept");
  Folder folder = Open();
  fs::create_symlink(dir_ / "secret", root() / "up" / "lease");
  fs::create_directory_symlink(dir_ / "other", root() / "up" / "north");
  const auto read = folder.Read({"up", "lease"}, 100);
  ASSERT_FALSE(read.has_value());
  EXPECT_NE(read.error().message().find("FOLDER/up/lease is a link"), std::string::npos);
  EXPECT_FALSE(folder.Read({"up", "north", "kept"}, 100).has_value());
  EXPECT_FALSE(folder.List({"up", "north"}, 100).has_value());
  EXPECT_FALSE(folder.Write({"up", "north", "new"}, AsBytes("x")).ok());
  EXPECT_FALSE(folder.Remove({"up", "north", "kept"}).ok());
  EXPECT_EQ(Get(dir_ / "other" / "kept"), "kept");
  EXPECT_FALSE(fs::exists(dir_ / "other" / "new"));
  // A file in the place of a link is a file: what the link led to stays.
  ASSERT_TRUE(folder.Write({"up", "lease"}, AsBytes("mine")).ok());
  EXPECT_FALSE(fs::is_symlink(root() / "up" / "lease"));
  EXPECT_EQ(Get(dir_ / "secret"), "secret");
  // Nor is a link that waits where the temporary will be.
  fs::create_symlink(dir_ / "secret", root() / "up" / "a.tmp");
  ASSERT_TRUE(folder.Write({"up", "a"}, AsBytes("mine")).ok());
  EXPECT_EQ(Get(dir_ / "secret"), "secret");
  // A room that is a link is none.
  fs::remove_all(root() / "down");
  fs::create_directory_symlink(dir_ / "other", root() / "down");
  EXPECT_EQ(Folder::Open(root(), "FOLDER").error().code(), Code::kInvalidArgument);
}

TEST_F(FolderTest, APipeAFolderAndAnOverlongFileAreRefused) {
  Folder folder = Open();
  ASSERT_EQ(::mkfifo((root() / "up" / "pipe").c_str(), 0600), 0);
  fs::create_directory(root() / "up" / "folder");
  Put(root() / "up" / "long", std::string(101, 'x'));
  EXPECT_EQ(folder.Read({"up", "pipe"}, 100).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(folder.Read({"up", "folder"}, 100).error().code(), Code::kInvalidArgument);
  const auto read = folder.Read({"up", "long"}, 100);
  EXPECT_EQ(read.error().code(), Code::kResourceExhausted);
  EXPECT_NE(read.error().message().find("FOLDER/up/long has 101 bytes, at most 100"),
            std::string::npos);
  EXPECT_EQ(folder.List({"up"}, 2).error().code(), Code::kResourceExhausted);
}

TEST_F(FolderTest, NamesThatLeadElsewhereAreNoNames) {
  Folder folder = Open();
  Put(dir_ / "secret", "secret");
  for (const std::string name : {"..", ".", "", "a/b", "../secret"}) {
    EXPECT_FALSE(folder.Read({"up", name}, 100).has_value()) << name;
    EXPECT_FALSE(folder.Read({name, "secret"}, 100).has_value()) << name;
    EXPECT_FALSE(folder.Write({"up", name}, AsBytes("x")).ok()) << name;
    EXPECT_FALSE(folder.Remove({"up", name}).ok()) << name;
  }
  EXPECT_EQ(Get(dir_ / "secret"), "secret");
}

TEST_F(FolderTest, ABlockIsWhatItsNameSaysOrIsRefused) {
  Folder folder = Open();
  const Bytes block(1000, 7);
  const Digest id = crypto::Sha256::Of(block);
  EXPECT_EQ(folder.Block(id).error().code(), Code::kNotFound);
  EXPECT_EQ(folder.PutBlock(id, AsBytes("other")).code(), Code::kInvalidArgument);
  ASSERT_TRUE(folder.PutBlock(id, block).ok());
  ASSERT_TRUE(folder.SyncBlocks().ok());
  EXPECT_EQ(*folder.Block(id), block);
  EXPECT_EQ(*folder.Blocks(), std::vector<Digest>{id});
  const std::string hex = ToHex(id);
  const fs::path path = root() / "blocks" / hex.substr(0, 2) / hex.substr(2);
  Put(path, "damaged");
  EXPECT_EQ(folder.Block(id).error().code(), Code::kDataLoss);
  // Put again it is whole again.
  ASSERT_TRUE(folder.PutBlock(id, block).ok());
  EXPECT_EQ(*folder.Block(id), block);
  Put(path.parent_path() / "half.tmp", "half");
  Put(path.parent_path() / "note.txt", "somebody's");
  EXPECT_EQ(*folder.Blocks(), std::vector<Digest>{id});
  EXPECT_FALSE(fs::exists(path.parent_path() / "half.tmp"));
  EXPECT_TRUE(fs::exists(path.parent_path() / "note.txt"));
  ASSERT_TRUE(folder.RemoveBlock(id).ok());
  EXPECT_TRUE(folder.Blocks()->empty());
}

TEST_F(FolderTest, AMessageOfAnotherFederationACutOneAndADamagedOneAreRefusedByName) {
  Folder folder = Open();
  protocols::Id16 ours{}, theirs{};
  ours[0] = 1;
  theirs[0] = 2;
  const Place place = DownPlace("north", 3, protocols::MessageType::kJob);
  EXPECT_EQ(place, (Place{"down", "north", "0003-job"}));
  const Message message{protocols::MessageType::kJob, Bytes(100, 5)};
  ASSERT_TRUE(WriteMessage(folder, place, theirs, message).ok());
  const auto foreign = ReadMessage(folder, place, ours);
  ASSERT_FALSE(foreign.has_value());
  EXPECT_EQ(foreign.error().message(),
            "FOLDER/down/north/0003-job: the message is for another federation");
  ASSERT_TRUE(WriteMessage(folder, place, ours, message).ok());
  EXPECT_EQ(ReadMessage(folder, place, ours)->body, message.body);
  const fs::path path = root() / "down/north/0003-job";
  const std::string whole = Get(path);
  for (size_t size = 0; size < whole.size(); ++size) {
    Put(path, whole.substr(0, size));
    EXPECT_EQ(ReadMessage(folder, place, ours).error().code(), Code::kDataLoss) << size;
  }
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string flipped = whole;
    flipped[i] = static_cast<char>(flipped[i] ^ 0x10);
    Put(path, flipped);
    EXPECT_FALSE(ReadMessage(folder, place, ours).has_value()) << i;
  }
  Put(path, whole + "x");
  EXPECT_FALSE(ReadMessage(folder, place, ours).has_value());
}

// A file size limit stands in for a medium that is full: the write fails in the middle.
TEST_F(FolderTest, AFullMediumLeavesWhatWasThere) {
  Folder folder = Open();
  ASSERT_TRUE(folder.Write({"up", "offer"}, AsBytes("whole")).ok());
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit tight{4096, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  const Status status = folder.Write({"up", "offer"}, Bytes(100'000, 1));
  const Bytes block(100'000, 2);
  const Status put = folder.PutBlock(crypto::Sha256::Of(block), block);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, old);
  EXPECT_FALSE(status.ok());
  EXPECT_FALSE(put.ok());
  EXPECT_EQ(AsText(**folder.Read({"up", "offer"}, 100)), "whole");
  EXPECT_EQ(*folder.List({"up"}, 10), std::vector<std::string>{"offer"});
  EXPECT_EQ(folder.Block(crypto::Sha256::Of(block)).error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace tidegate::airgap
