#include "onshore/supervisor/site_config.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "onshore/sandbox/address_pin.h"
#include "onshore/supervisor/way_out.h"
#include "protocols/limits.h"

namespace tidegate::onshore {
namespace {

class SiteConfigTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tidegate-toml-XXXXXX").native();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  Result<SiteConfig> Load(const std::string& text) const {
    std::ofstream(dir_ / "site.toml") << text;
    return LoadSiteConfig(dir_);
  }
  // The whole file with one more line, which is line 5.
  Result<SiteConfig> LoadWith(const std::string& line) const { return Load(kWhole + line + "\n"); }

  const std::string kWhole =
      "name = \"lab_1\"\nbase = \"model\"\nrecords = \"/data/r.jsonl\"\n"
      "coordinator = \"tcp://192.0.2.1:7443\"\n";
  std::filesystem::path dir_;
};

TEST_F(SiteConfigTest, RelativePathsAreFromTheSiteAndTheRestHasDefaults) {
  const auto config = Load(kWhole);
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->name, "lab_1");
  EXPECT_EQ(config->base, dir_ / "model");
  EXPECT_EQ(config->records, "/data/r.jsonl");
  EXPECT_TRUE(config->heldout.empty());
  EXPECT_EQ(config->threads, 1);
  EXPECT_EQ(config->stripes, 1);
  EXPECT_EQ(config->dtype, "auto");
  EXPECT_EQ(config->device, "cpu");
  EXPECT_EQ(config->walls, "netns seccomp landlock_fs pinned_address");
}

TEST_F(SiteConfigTest, EveryKeyIsTaken) {
  const auto config = Load(kWhole +
                           "heldout = \"h.jsonl\"\nthreads = 256\nready_seconds = 3600\nstripes = "
                           "16\nmax_spool_bytes = 8589934592\ndtype = \"bf16\"\ndevice = \"cuda\"\n"
                           "walls = \"netns,seccomp\"  # a comment\n");
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->heldout, dir_ / "h.jsonl");
  EXPECT_EQ(config->threads, 256);
  EXPECT_EQ(config->ready_seconds, 3600);
  EXPECT_EQ(config->stripes, 16);
  EXPECT_EQ(config->max_spool_bytes, protocols::kMaxSpoolBytes);
  EXPECT_EQ(config->dtype, "bf16");
  EXPECT_EQ(config->device, "cuda");
  EXPECT_EQ(config->walls, "netns,seccomp");
}

TEST_F(SiteConfigTest, AWrongLineIsNamedByItsNumber) {
  for (const std::string line : {"thread = 2",
                                 "threads = 0",
                                 "threads = 257",
                                 "ready_seconds = 0",
                                 "ready_seconds = 3601",
                                 "threads = \"2\"",
                                 "threads = 2.0",
                                 "stripes = 0",
                                 "max_spool_bytes = 1048575",
                                 "max_spool_bytes = 8589934593",
                                 "stripes = 17",
                                 "dtype = \"f16\"",
                                 "dtype = 3",
                                 "device = \"gpu\"",
                                 "heldout = \"\"",
                                 "walls = \"netns moat\"",
                                 "walls = \"netns netns\"",
                                 "walls = [\"netns\"]",
                                 "[table]",
                                 "a.b = 1",
                                 "name = \"x\"",
                                 "dtype = auto",
                                 "dtype = \"auto",
                                 "= 1"}) {
    const auto config = LoadWith(line);
    ASSERT_FALSE(config) << line;
    EXPECT_EQ(config.error().code(), Code::kInvalidArgument) << line;
    EXPECT_NE(config.error().message().find("site.toml line 5: "), std::string::npos)
        << line << ": " << config.error().message();
  }
  EXPECT_NE(LoadWith("thread = 2").error().message().find("the keys are name, base"),
            std::string::npos);
}

TEST_F(SiteConfigTest, TheProxysKeysGoTogether) {
  const auto config = LoadWith(
      "proxy = \"socks5://proxy:1080\"\nproxy_user = \"me\"\n"
      "proxy_password_file = \"keys/proxy\"\nproxy_resolves = true");
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->proxy, "socks5://proxy:1080");
  EXPECT_EQ(config->proxy_user, "me");
  EXPECT_EQ(config->proxy_password_file, dir_ / "keys/proxy");
  EXPECT_TRUE(config->proxy_resolves);
  for (const std::string line :
       {"proxy = \"http://proxy:1080\"", "proxy = \"socks5://me:pw@proxy:1080\"", "proxy = true",
        "proxy_resolves = \"yes\"", "proxy_user = \"\"", "proxy_password = \"x\""}) {
    const auto bad = LoadWith(line);
    ASSERT_FALSE(bad) << line;
    EXPECT_NE(bad.error().message().find("site.toml line 5: "), std::string::npos)
        << bad.error().message();
  }
  for (const std::string lines :
       {"proxy_resolves = true", "proxy_user = \"me\"\nproxy_password_file = \"f\"",
        "proxy = \"socks5://p:1\"\nproxy_user = \"me\"",
        "proxy = \"socks5://p:1\"\nproxy_password_file = \"f\""}) {
    const auto bad = LoadWith(lines);
    ASSERT_FALSE(bad) << lines;
    EXPECT_NE(bad.error().message().find("lacks the key"), std::string::npos)
        << bad.error().message();
  }
}

TEST_F(SiteConfigTest, ThePasswordIsTheOneLineOfAFileOfOurOwn) {
  const auto file = dir_ / "password";
  const auto write = [&file](const std::string& text, mode_t mode) {
    std::ofstream(file) << text;
    ASSERT_EQ(::chmod(file.c_str(), mode), 0);
  };
  for (const char* text : {"secret", "secret\n", "secret\r\n"}) {
    write(text, 0600);
    EXPECT_EQ(ReadProxyPassword(file).value_or(""), "secret");
  }
  write(std::string(255, 'p') + "\n", 0400);
  EXPECT_TRUE(ReadProxyPassword(file));
  ASSERT_EQ(::unlink(file.c_str()), 0);
  for (const std::string text : {"", "\n", "two\nlines", "two\nlines\n"}) {
    write(text, 0600);
    EXPECT_EQ(ReadProxyPassword(file).error().code(), Code::kInvalidArgument) << text;
  }
  write(std::string(256, 'p'), 0600);
  EXPECT_EQ(ReadProxyPassword(file).error().code(), Code::kInvalidArgument);
  write("secret", 0640);
  const auto open = ReadProxyPassword(file);
  ASSERT_FALSE(open);
  EXPECT_EQ(open.error().code(), Code::kPermissionDenied);
  EXPECT_NE(open.error().message().find("chmod 600"), std::string::npos);
  EXPECT_EQ(open.error().message().find("secret"), std::string::npos);
  std::filesystem::create_symlink(file, dir_ / "link");
  EXPECT_EQ(ReadProxyPassword(dir_ / "link").error().code(), Code::kPermissionDenied);
  EXPECT_EQ(ReadProxyPassword(dir_ / "none").error().code(), Code::kNotFound);
}

TEST_F(SiteConfigTest, TheWayOutIsTheCoordinatorOrAProxyThatIsAskedForIt) {
  SiteConfig config;
  config.coordinator = "tcp://192.0.2.1:7443";
  auto way = FindWayOut(config);
  ASSERT_TRUE(way) << way.error().message();
  EXPECT_EQ(way->coordinator, "192.0.2.1:7443");
  EXPECT_EQ(FormatAddress(way->address), "192.0.2.1:7443");
  EXPECT_EQ(way->proxy, nullptr);

  config.proxy = "socks5://[2001:db8::1]:1080";
  config.proxy_resolves = true;  // there is no name
  way = FindWayOut(config);
  ASSERT_TRUE(way) << way.error().message();
  EXPECT_EQ(way->coordinator, "192.0.2.1:7443");
  EXPECT_EQ(FormatAddress(way->address), "[2001:db8::1]:1080");
  ASSERT_NE(way->proxy, nullptr);
  EXPECT_EQ(FormatAddress(way->proxy->target), "192.0.2.1:7443");
  EXPECT_EQ(way->proxy->target_name, "");

  // Never resolved here: there is no such name.
  config.coordinator = "tcp://no-such-host.invalid:7443";
  way = FindWayOut(config);
  ASSERT_TRUE(way) << way.error().message();
  EXPECT_EQ(way->coordinator, "no-such-host.invalid:7443");
  EXPECT_EQ(way->proxy->target_name, "no-such-host.invalid");
  EXPECT_EQ(way->proxy->target_port, 7443);

  for (const char* text : {"tcp://a b:1", "tcp://:1", "tcp://a", "tcp://a:0", "tcp://a:65536",
                           "tcp://a/b:1", "udp://a:1", "tcp://a:1x"}) {
    config.coordinator = text;
    EXPECT_EQ(FindWayOut(config).error().code(), Code::kInvalidArgument) << text;
  }
}

TEST_F(SiteConfigTest, ANameIsShortAndPlain) {
  const std::string rest = kWhole.substr(kWhole.find('\n') + 1);
  for (const std::string name :
       {"Lab", "-lab", "lab 1", "lab/1", "läb", "a\\nb",
        "a123456789012345678901234567890123456789012345678901234567890123"}) {
    const auto config = Load("name = \"" + name + "\"\n" + rest);
    ASSERT_FALSE(config) << name;
    EXPECT_NE(config.error().message().find("line 1: name must be"), std::string::npos);
  }
  EXPECT_TRUE(Load("name = \"" + std::string(63, 'a') + "\"\n" + rest));
}

TEST_F(SiteConfigTest, AKeyThatIsNeededIsNamedWhenItIsMissing) {
  for (const std::string key : {"name", "base", "records", "coordinator"}) {
    std::string text = kWhole;
    text.insert(text.find(key), "# ");
    const auto config = Load(text);
    ASSERT_FALSE(config) << key;
    EXPECT_NE(config.error().message().find("lacks the key " + key), std::string::npos);
  }
}

TEST_F(SiteConfigTest, AFileThatIsMissingOrHugeIsAnError) {
  EXPECT_EQ(LoadSiteConfig(dir_).error().code(), Code::kNotFound);
  EXPECT_FALSE(Load(kWhole + "# " + std::string(2 << 20, 'x') + "\n"));
}

std::string Resolved(const std::string& coordinator) {
  const auto address = ResolveAddress("coordinator", "tcp://", coordinator);
  return address ? FormatAddress(*address) : std::string(CodeName(address.error().code()));
}

TEST(ResolveAddressTest, LiteralAddressesAreTakenAsTheyAre) {
  EXPECT_EQ(Resolved("tcp://192.0.2.1:7443"), "192.0.2.1:7443");
  EXPECT_EQ(Resolved("tcp://[2001:db8::7]:65535"), "[2001:db8::7]:65535");
}

TEST(ResolveAddressTest, ANameIsResolved) {
  const std::string address = Resolved("tcp://localhost:7443");
  EXPECT_TRUE(address == "127.0.0.1:7443" || address == "[::1]:7443") << address;
}

TEST(ResolveAddressTest, ANameThatDoesNotExistIsAnErrorInTime) {
  // ".invalid" never resolves (RFC 2606); without a network no name does.
  EXPECT_EQ(Resolved("tcp://no-such-host.invalid:7443"), "UNAVAILABLE");
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "the resolver was left behind";
}

TEST(ResolveAddressTest, AnythingElseIsRefused) {
  for (const char* text :
       {"", "192.0.2.1:7443", "udp://192.0.2.1:1", "tcp://", "tcp://:7443", "tcp://localhost",
        "tcp://localhost:", "tcp://192.0.2.1:0", "tcp://192.0.2.1:65536", "tcp://192.0.2.1:x"}) {
    const auto address = ResolveAddress("coordinator", "tcp://", text);
    ASSERT_FALSE(address) << text;
    EXPECT_TRUE(address.error().code() == Code::kInvalidArgument ||
                address.error().code() == Code::kUnavailable)
        << text << ": " << address.error().ToString();
  }
}

TEST_F(SiteConfigTest, TheLocalApisKeysHaveTheirRangesAndItsUsersNeedAGroup) {
  const std::string whole =
      "name = \"a\"\nbase = \"b\"\nrecords = \"r\"\ncoordinator = \"tcp://127.0.0.1:1\"\n";
  auto config = Load(whole);
  ASSERT_TRUE(config) << config.error().ToString();
  EXPECT_EQ(config->api_socket, dir_ / "api.sock");
  EXPECT_EQ(config->free_trainer_seconds, 1800);
  config = Load(whole +
                "api_socket = \"/run/a.sock\"\napi_group = 10\napi_users = [7, 8]\n"
                "free_trainer_seconds = 5\n");
  ASSERT_TRUE(config) << config.error().ToString();
  EXPECT_EQ(config->api_socket, "/run/a.sock");
  EXPECT_EQ(config->api_group, 10u);
  EXPECT_EQ(config->api_users, (std::vector<uint32_t>{7, 8}));
  EXPECT_EQ(config->free_trainer_seconds, 5);
  for (const char* bad :
       {"api_socket = 3", "api_group = \"staff\"", "api_group = -1", "api_users = [7]",
        "api_group = 1\napi_users = []", "api_group = 1\napi_users = [\"bob\"]",
        "api_group = 1\napi_users = 7", "free_trainer_seconds = 0", "free_trainer_seconds = 604801",
        "api_mode = 7"}) {
    EXPECT_EQ(Load(whole + bad + "\n").error().code(), Code::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace tidegate::onshore
