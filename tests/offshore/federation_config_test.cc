// coordinator.toml: the quota of the block store and the other numbers.
#include "offshore/federation_config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace tidegate::offshore {
namespace {

class FederationConfigTest : public testing::Test {
 protected:
  FederationConfigTest() { std::filesystem::create_directories(dir_); }
  ~FederationConfigTest() override { std::filesystem::remove_all(dir_); }
  // The whole file with one more line, which is line 4.
  Result<FederationConfig> LoadWith(const std::string& line) const {
    std::ofstream(dir_ / "coordinator.toml")
        << "name = \"demo\"\nfederation = \"000102030405060708090a0b0c0d0e0f\"\n"
           "address = \"tcp://192.0.2.1:7443\"\n"
        << line << "\n";
    return LoadFederationConfig(dir_);
  }

  const std::filesystem::path dir_ =
      std::filesystem::temp_directory_path() / fmt::format("tidegate_coordinator_{}", ::getpid());
};

TEST_F(FederationConfigTest, TheBlockStoresQuotaIsInGibibytesWithADefault) {
  EXPECT_EQ(LoadWith("")->block_store_bytes, uint64_t{64} << 30);
  EXPECT_EQ(LoadWith("block_store_gib = 1")->block_store_bytes, uint64_t{1} << 30);
  EXPECT_EQ(LoadWith("block_store_gib = 1048576")->block_store_bytes, uint64_t{1} << 50);
}

TEST_F(FederationConfigTest, AQuotaOutOfRangeIsNamedByItsLine) {
  for (const char* line : {"block_store_gib = 0", "block_store_gib = -1",
                           "block_store_gib = 1048577", "block_store_gib = 9223372036854775807",
                           "block_store_gib = 1.5", "block_store_gib = \"64\""}) {
    const auto config = LoadWith(line);
    ASSERT_FALSE(config) << line;
    EXPECT_EQ(config.error().code(), Code::kInvalidArgument);
    EXPECT_NE(config.error().message().find("line 4: block_store_gib must be a whole number, 1 … "
                                            "1048576"),
              std::string::npos)
        << config.error().message();
  }
}

TEST_F(FederationConfigTest, AStoreThatIsSharedIsAUrlAndAFolderTogether) {
  EXPECT_TRUE(LoadWith("")->store.empty());
  const auto shared = LoadWith(
      "store = \"postgresql://db/tidegate\"\nshared_folder = \"/srv/shared\"\n"
      "takeover_seconds = 3");
  ASSERT_TRUE(shared) << shared.error().ToString();
  EXPECT_EQ(shared->store, "postgresql://db/tidegate");
  EXPECT_EQ(shared->shared_folder, "/srv/shared");
  EXPECT_EQ(shared->takeover_millis, 3000u);
  const std::pair<const char*, const char*> bad[] = {
      {"store = \"postgresql://db/tidegate\"", "store and shared_folder go together"},
      {"shared_folder = \"/srv/shared\"", "store and shared_folder go together"},
      {"shared_folder = \"srv\"", "line 4: shared_folder must be an absolute path"},
      {"store = \"mysql://hunter2@db/\"", "line 4: store must be a postgresql:// url"},
      {"takeover_seconds = 0", "line 4: takeover_seconds must be a whole number, 1 … 3600"}};
  for (const auto& [line, why] : bad) {
    const auto config = LoadWith(line);
    ASSERT_FALSE(config) << line;
    EXPECT_NE(config.error().message().find(why), std::string::npos) << config.error().message();
    EXPECT_EQ(config.error().message().find("hunter2"), std::string::npos);
  }
}

}  // namespace
}  // namespace tidegate::offshore
