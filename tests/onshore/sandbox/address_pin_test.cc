// Link reaches one address, whatever it dials.
#include "onshore/sandbox/address_pin.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <map>
#include <sstream>

#include "tests/onshore/sandbox/helper_options.h"
#include "tests/onshore/sandbox/helper_run.h"
#include "tests/onshore/sandbox/socks_proxy.h"

namespace tidegate::onshore {
namespace {

HelperCall LinkCall(const Site& site, const sockaddr_storage& pinned,
                    const std::vector<std::string>& more) {
  HelperCall call{.words = site.Words(Role::kLink)};
  call.words.insert(call.words.end(), more.begin(), more.end());
  call.pinned = pinned;
  return call;
}

TEST(AddressPinTest, TextAndAddressAgree) {
  for (const char* text : {"192.0.2.7:7443", "127.0.0.1:1", "[2001:db8::7]:65535", "[::1]:80"}) {
    const Result<sockaddr_storage> address = ParsePinnedAddress(text);
    ASSERT_TRUE(address) << text;
    EXPECT_EQ(FormatAddress(*address), text);
  }
  for (const char* text : {"", "192.0.2.7", "192.0.2.7:", "192.0.2.7:0", "192.0.2.7:65536",
                           "192.0.2.7:+1", "192.0.2.7:7443 ", "coordinator:7443", ":7443",
                           "2001:db8::7:7443", "[2001:db8::7]7443", "[192.0.2.7]:1", "[]:1"}) {
    const Result<sockaddr_storage> address = ParsePinnedAddress(text);
    ASSERT_FALSE(address) << text;
    EXPECT_EQ(address.error().code(), Code::kInvalidArgument);
  }
}

// "a=1 b=2 " as a map.
std::map<std::string, int> Steps(const HelperResult& result) {
  std::map<std::string, int> steps;
  std::istringstream words(result.Said("probe").value_or(""));
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    steps[word.substr(0, equals)] = std::stoi(word.substr(equals + 1));
  }
  return steps;
}

TEST(AddressPinTest, EveryDialArrivesAtThePinnedAddress) {
  const Site site;
  const Listener coordinator;
  HelperCall call = LinkCall(site, coordinator.address, {"probe_pin", "lock_down"});
  call.no_rate_limit = true;
  const HelperResult result = RunHelper(call);
  std::map<std::string, int> steps = Steps(result);
  ASSERT_FALSE(steps.empty()) << result.Everything();
  EXPECT_EQ(steps["socket"], 0);
  EXPECT_TRUE(steps["connect"] == 0 || steps["connect"] == EINPROGRESS) << steps["connect"];
  EXPECT_EQ(steps["connect_again"], EPERM);
  EXPECT_EQ(steps["connect_unknown"], EPERM);
  EXPECT_EQ(steps["send"], 0);
  EXPECT_EQ(steps["udp"], ENOSYS);
  EXPECT_EQ(steps["mptcp"], ENOSYS);
  EXPECT_EQ(steps["inet6"], EAFNOSUPPORT) << "the pinned address is IPv4";
  EXPECT_EQ(steps["made"], 40);
  EXPECT_EQ(steps["oldest"], EPERM) << "more than 16 wait";
  EXPECT_TRUE(steps["newest"] == 0 || steps["newest"] == EINPROGRESS) << steps["newest"];
  EXPECT_EQ(steps["same_number"], 0);
  EXPECT_TRUE(steps["reused"] == 0 || steps["reused"] == EINPROGRESS) << steps["reused"];
  EXPECT_EQ(result.pin.evicted, 40 - AddressPin::kMaxWaiting);
  EXPECT_EQ(result.pin.connects, 3U);
  // It dialled 10.9.9.9:7777; the bytes are here, and the end is seen because nobody else holds
  // the connection.
  const Fd peer(::accept(coordinator.fd.get(), nullptr, nullptr));
  std::array<char, 64> buffer;
  EXPECT_EQ(::recv(peer.get(), buffer.data(), buffer.size(), 0), 9);
  EXPECT_EQ(::recv(peer.get(), buffer.data(), buffer.size(), 0), 0);
  EXPECT_EQ(result.end.end, End::kClean) << result.Everything();
}

uint16_t PortOf(const Listener& listener) {
  return ntohs(reinterpret_cast<const sockaddr_in&>(listener.address).sin_port);
}

TEST(AddressPinTest, ThroughAProxyEveryDialArrivesAtThePinnedAddress) {
  const Site site;
  const Listener coordinator;
  const SocksProxy proxy("me", "secret");
  HelperCall call = LinkCall(site, coordinator.address, {"probe_pin", "lock_down"});
  call.no_rate_limit = true;
  call.route = proxy.Route(PortOf(coordinator));
  const HelperResult result = RunHelper(call);
  std::map<std::string, int> steps = Steps(result);
  ASSERT_FALSE(steps.empty()) << result.Everything();
  for (const char* step : {"socket", "connect", "send", "newest", "same_number", "reused"}) {
    EXPECT_EQ(steps[step], 0) << step;
  }
  EXPECT_EQ(steps["connect_again"], EPERM);
  EXPECT_EQ(steps["connect_unknown"], EPERM);
  EXPECT_EQ(steps["oldest"], EPERM);
  EXPECT_EQ(result.pin.granted, 3U);
  EXPECT_EQ(proxy.requests(), std::vector<std::string>(3, FormatAddress(coordinator.address)));
  const Fd peer(::accept(coordinator.fd.get(), nullptr, nullptr));
  std::array<char, 64> buffer;
  EXPECT_EQ(::recv(peer.get(), buffer.data(), buffer.size(), 0), 9);
  EXPECT_EQ(::recv(peer.get(), buffer.data(), buffer.size(), 0), 0);
}

// A link gone bad must not get hold of the connection to the proxy before that has granted it the
// coordinator: it would ask for another address. Its socket is not that connection.
TEST(AddressPinTest, LinkSaysNothingToTheProxy) {
  const Site site;
  const Listener coordinator;
  SocksProxy proxy;
  proxy.Hold(true);
  HelperCall call = LinkCall(site, coordinator.address, {"attack=early_send"});
  call.proxy_hangs = true;
  call.route = proxy.Route(PortOf(coordinator));
  testing::internal::CaptureStderr();
  const HelperResult result = RunHelper(call);
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(result.Said("attack"), std::to_string(EPIPE)) << result.Everything();
  EXPECT_EQ(result.pin.failed, 1U);
  EXPECT_EQ(proxy.requests().size(), 0U);
  EXPECT_NE(log.find("proxy_failed cause=timed_out proxy=" + proxy.address()), std::string::npos)
      << log;
}

// After one that took too long the next are refused at once, and a cause is told once.
TEST(AddressPinTest, AProxyThatHangsHoldsLinkUpOnce) {
  const Site site;
  const Listener coordinator;
  SocksProxy proxy;
  proxy.Hold(true);
  HelperCall call = LinkCall(site, coordinator.address, {"probe_pin"});
  call.proxy_hangs = true;
  call.route = proxy.Route(PortOf(coordinator));
  testing::internal::CaptureStderr();
  const HelperResult result = RunHelper(call);
  const std::string log = testing::internal::GetCapturedStderr();
  std::map<std::string, int> steps = Steps(result);
  EXPECT_EQ(steps["connect"], ETIMEDOUT) << result.Everything();
  EXPECT_EQ(steps["newest"], ETIMEDOUT);
  EXPECT_EQ(result.pin.failed, 2U) << "one waited for, one refused at once";
  EXPECT_EQ(proxy.open(), 0) << "given up, and not dialled again";
  const size_t told = log.find("proxy_failed");
  ASSERT_NE(told, std::string::npos);
  EXPECT_EQ(log.find("proxy_failed", told + 1), std::string::npos) << log;
}

TEST(AddressPinTest, ABurstOfSocketsIsLimited) {
  const Site site;
  const Listener coordinator;
  const HelperResult result = RunHelper(LinkCall(site, coordinator.address, {"probe_pin"}));
  std::map<std::string, int> steps = Steps(result);
  // One of the burst went to the first socket; a slow machine earns some back meanwhile.
  EXPECT_GE(steps["made"], AddressPin::kBurst - 1) << result.Everything();
  if (steps["made"] < 40) {
    EXPECT_EQ(steps["limit"], EAGAIN);
    EXPECT_GE(result.pin.limited, 1U);
  }
  EXPECT_GE(result.pin.refused, 3U) << "connect_again, connect_unknown, inet6";
}

TEST(AddressPinTest, WithoutASupervisorSocketsFailAndNothingHangs) {
  const Site site;
  const Listener coordinator;
  HelperCall call = LinkCall(site, coordinator.address, {"hear", "attack=socket"});
  call.close_pin_before_work = true;
  const HelperResult result = RunHelper(call);
  EXPECT_EQ(result.Said("attack"), std::to_string(ENOSYS)) << result.Everything();
}

// libzmq with CURVE, unmodified, behind all of link's walls, before and after LockDown.
TEST(AddressPinTest, ACurveClientWorksThroughThePin) {
  Result<Channel> channel = MakeChannel();
  ASSERT_TRUE(channel);
  SpawnSpec spec;
  spec.program = HelperProgram();
  spec.arguments = {"curve_server"};
  spec.environment = HelperEnvironment();
  spec.fds = {channel->child.get()};
  const Result<Child> server = Spawn(spec);
  ASSERT_TRUE(server) << server.error().message();
  channel->child.reset();
  std::array<char, 256> buffer;
  const ssize_t got = ::recv(channel->supervisor.get(), buffer.data(), buffer.size(), 0);
  ASSERT_GT(got, 42);
  const std::string hello(buffer.data(), static_cast<size_t>(got));
  const size_t space = hello.find(' ');
  const Result<sockaddr_storage> address =
      ParsePinnedAddress("127.0.0.1:" + hello.substr(0, space));
  ASSERT_TRUE(address) << hello;

  const Site site;
  const HelperResult result = RunHelper(
      LinkCall(site, *address, {"server_key=" + hello.substr(space + 1), "work=zmq", "lock_down"}));
  EXPECT_EQ(result.Said("work"), "ok") << result.Everything();
  EXPECT_EQ(result.Said("work_again"), "ok") << result.Everything();
  EXPECT_GE(result.pin.connects, 2U);
  EXPECT_TRUE(Kill(*server).ok());
  const Result<std::optional<ChildEnd>> end = Reap(*server, true);
  ASSERT_TRUE(end && *end);
  EXPECT_EQ((*end)->end, End::kKilled);
}

TEST(AddressPinTest, AFirstMessageWithoutListenerIsRefused) {
  Result<Channel> channel = MakeChannel();
  ASSERT_TRUE(channel);
  EXPECT_EQ(ReceiveListener(channel->supervisor.get(), 1).error().code(), Code::kDeadlineExceeded);
  ASSERT_EQ(::send(channel->child.get(), "L", 1, 0), 1);
  EXPECT_EQ(ReceiveListener(channel->supervisor.get(), 1000).error().code(),
            Code::kPermissionDenied);
  channel->child.reset();
  EXPECT_EQ(ReceiveListener(channel->supervisor.get(), 1000).error().code(), Code::kUnavailable);
}

}  // namespace
}  // namespace tidegate::onshore
