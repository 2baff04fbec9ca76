// The supervisor's loop while it dials through a proxy for link.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "tests/onshore/sandbox/socks_proxy.h"
#include "tests/onshore/supervisor/site_fixture.h"

namespace tidegate::onshore {
namespace {

class ProxyTest : public SupervisorTest {
 protected:
  // A site behind `proxy`, with a link that has pinned its address.
  void StartBehind(const SocksProxy& proxy, const std::string& coordinator) {
    Write("password", "a-secret\n");
    ASSERT_EQ(::chmod((site_ / "password").c_str(), 0600), 0);
    Write("site.toml",
          "name = \"lab-1\"\nbase = \"model\"\nrecords = \"r.jsonl\"\ncoordinator = \"tcp://" +
              coordinator + "\"\nproxy = \"socks5://" + proxy.address() +
              "\"\nproxy_user = \"me\"\nproxy_password_file = \"password\"\nstripes = "
              "3\nmax_spool_bytes = 1048576\n");
    StartSite();
    ASSERT_TRUE(TraceGets("gate", "go") && TraceGets("link", "go")) << Log();
    Do("link", "pin");
    ASSERT_TRUE(TraceGets("link", "pinned")) << Log();
  }
};

TEST_F(ProxyTest, LinkIsConnectedOnceTheProxyHasGrantedItAndAFaultIsToldOnce) {
  SocksProxy proxy("me", "a-secret");
  // What the proxy connects to is a proxy too: something that listens.
  const SocksProxy coordinator;
  StartBehind(proxy, coordinator.address());
  const std::string line = LastStart("link");
  EXPECT_NE(line.find(" --address tcp://" + coordinator.address() + " --proxy " + proxy.address() +
                      " --stripes 3"),
            std::string::npos)
      << line;
  EXPECT_NE(LastStart("gate").find(" --spool_bytes 1048576 "), std::string::npos);
  EXPECT_TRUE(LogHas(" address=" + coordinator.address() + " proxy=" + proxy.address())) << Log();
  Do("link", "dial");
  ASSERT_TRUE(TraceGets("link", "dialled 0")) << Log();
  EXPECT_EQ(proxy.requests(), std::vector<std::string>{coordinator.address()});
  EXPECT_TRUE(Eventually([&] { return coordinator.open() == 1; }));

  proxy.Refuse(2);
  Do("link", "dial");
  Do("link", "dial");
  ASSERT_TRUE(TraceGets("link", "dialled " + std::to_string(EACCES), 2)) << Log();
  const std::string log = Log();
  const size_t told = log.find("proxy_failed cause=forbidden");
  ASSERT_NE(told, std::string::npos) << log;
  EXPECT_EQ(log.find("proxy_failed", told + 1), std::string::npos) << log;
  EXPECT_EQ((log + line).find("a-secret"), std::string::npos);
}

TEST_F(ProxyTest, NobodyWaitsForAProxyButTheLinkThatDials) {
  SocksProxy proxy("me", "a-secret");
  const SocksProxy coordinator;
  StartBehind(proxy, coordinator.address());
  proxy.Hold(true);
  Do("link", "dial");
  ASSERT_TRUE(Eventually([&] { return proxy.open() == 1; }));
  Do("gate", "event 1 4 0 0 0");
  EXPECT_TRUE(LogGets("gate: job_accepted rounds=4")) << Log();
  ASSERT_EQ(::kill(LastPid("link"), SIGKILL), 0);
  EXPECT_TRUE(Eventually([&] { return proxy.open() == 0; })) << "dropped with its link";
  EXPECT_TRUE(Eventually([&] { return Starts("link") == 2; })) << Log();
  EXPECT_EQ(Traced("link", "dialled 0"), 0);
}

TEST_F(ProxyTest, APasswordThatOthersMayReadIsNotTaken) {
  Write("password", "a-secret\n");
  ASSERT_EQ(::chmod((site_ / "password").c_str(), 0644), 0);
  Write("site.toml",
        "name = \"lab-1\"\nbase = \"model\"\nrecords = \"r.jsonl\"\n"
        "coordinator = \"tcp://127.0.0.1:7443\"\nproxy = \"socks5://127.0.0.1:1080\"\n"
        "proxy_user = \"me\"\nproxy_password_file = \"password\"\n");
  StartSite();
  EXPECT_EQ(WaitForEnd(), static_cast<int>(Code::kPermissionDenied));
  EXPECT_TRUE(LogHas("chmod 600")) << Log();
}

}  // namespace
}  // namespace tidegate::onshore
