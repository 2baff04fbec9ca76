// The supervisor's side of SOCKS5 against proxies that keep to the RFCs and proxies that do not.
#include "onshore/sandbox/socks_dial.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "onshore/sandbox/address_pin.h"
#include "tests/onshore/sandbox/socks_proxy.h"

namespace tidegate::onshore {
namespace {

using State = SocksDial::State;

// What the proxy hears, then what it says.
struct Turn {
  std::string hears, says;
};

std::string Raw(std::initializer_list<int> bytes) {
  std::string text;
  for (const int byte : bytes) text.push_back(static_cast<char>(byte));
  return text;
}

const std::string kHello = Raw({5, 1, 0}), kHelloWithLogin = Raw({5, 2, 0, 2});
const std::string kRequest = Raw({5, 1, 0, 1, 192, 0, 2, 7, 0x1d, 0x13});  // 192.0.2.7:7443
const std::string kLogin = Raw({1, 2}) + "me" + Raw({3}) + "key";
const std::string kFree = Raw({5, 0}), kWithLogin = Raw({5, 2});
const std::string kGrant = Raw({5, 0, 0, 1, 10, 0, 0, 1, 1, 2});

struct Case {
  const char* name;
  std::vector<Turn> turns;
  SocksFault fault;  // kNone: granted
  int error = 0;
  bool login = false;
  bool closes = false;  // the proxy, after the last turn
};

std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

const Case kCases[] = {
    {"Granted", {{kHello, kFree}, {kRequest, kGrant}}, SocksFault::kNone},
    {"GrantedWithAnIpv6End",
     {{kHello, kFree}, {kRequest, Raw({5, 0, 0, 4}) + std::string(18, 'x')}},
     SocksFault::kNone},
    {"GrantedWithTheLongestName",
     {{kHello, kFree}, {kRequest, Raw({5, 0, 0, 3, 255}) + std::string(257, 'x')}},
     SocksFault::kNone},
    {"GrantedWithAnEmptyName",
     {{kHello, kFree}, {kRequest, Raw({5, 0, 0, 3, 0, 1, 2})}},
     SocksFault::kNone},
    {"GrantedAfterALogin",
     {{kHelloWithLogin, kWithLogin}, {kLogin, Raw({1, 0})}, {kRequest, kGrant}},
     SocksFault::kNone,
     0,
     true},
    {"ALoginThatIsNotAskedFor",
     {{kHelloWithLogin, kFree}, {kRequest, kGrant}},
     SocksFault::kNone,
     0,
     true},
    {"LoginRefused",
     {{kHelloWithLogin, kWithLogin}, {kLogin, Raw({1, 1})}},
     SocksFault::kLogin,
     EACCES,
     true},
    {"LoginAnsweredInAnotherVersion",
     {{kHelloWithLogin, kWithLogin}, {kLogin, Raw({5, 0})}},
     SocksFault::kNotSocks,
     EPROTO,
     true},
    {"NoMethodFits", {{kHello, Raw({5, 0xff})}}, SocksFault::kNoMethod, EACCES},
    {"AMethodThatWasNotOffered", {{kHello, kWithLogin}}, SocksFault::kNotSocks, EPROTO},
    {"Gssapi", {{kHelloWithLogin, Raw({5, 1})}}, SocksFault::kNotSocks, EPROTO, true},
    {"Socks4", {{kHello, Raw({0, 0x5a})}}, SocksFault::kNotSocks, EPROTO},
    {"AWebServer", {{kHello, "HTTP/1.1 400 Bad Request\r\n\r\n"}}, SocksFault::kNotSocks, EPROTO},
    {"ALongAnswerToTheGreeting",
     {{kHello, kFree + std::string(4096, '\0')}},
     SocksFault::kNotSocks,
     EPROTO},
    {"ReplyInAnotherVersion",
     {{kHello, kFree}, {kRequest, Raw({4, 0, 0, 1})}},
     SocksFault::kNotSocks,
     EPROTO},
    {"ReservedByteSet",
     {{kHello, kFree}, {kRequest, Raw({5, 0, 1, 1})}},
     SocksFault::kNotSocks,
     EPROTO},
    {"AnUnknownKindOfAddress",
     {{kHello, kFree}, {kRequest, Raw({5, 0, 0, 2})}},
     SocksFault::kNotSocks,
     EPROTO},
    {"AnUnknownReply",
     {{kHello, kFree}, {kRequest, Raw({5, 9, 0, 1})}},
     SocksFault::kNotSocks,
     EPROTO},
    {"GeneralFailure",
     {{kHello, kFree}, {kRequest, Raw({5, 1, 0, 1})}},
     SocksFault::kTargetRefused,
     ECONNREFUSED},
    {"NotAllowed",
     {{kHello, kFree}, {kRequest, Raw({5, 2, 0, 1})}},
     SocksFault::kForbidden,
     EACCES},
    {"NetworkUnreachable",
     {{kHello, kFree}, {kRequest, Raw({5, 3, 0, 1})}},
     SocksFault::kTargetUnreachable,
     EHOSTUNREACH},
    {"HostUnreachable",
     {{kHello, kFree}, {kRequest, Raw({5, 4, 0, 1})}},
     SocksFault::kTargetUnreachable,
     EHOSTUNREACH},
    {"Refused",
     {{kHello, kFree}, {kRequest, Raw({5, 5, 0, 1})}},
     SocksFault::kTargetRefused,
     ECONNREFUSED},
    {"TimeToLiveOver",
     {{kHello, kFree}, {kRequest, Raw({5, 6, 0, 1})}},
     SocksFault::kTargetUnreachable,
     EHOSTUNREACH},
    {"NoConnect",
     {{kHello, kFree}, {kRequest, Raw({5, 7, 0, 1})}},
     SocksFault::kUnsupported,
     EOPNOTSUPP},
    {"NoSuchAddresses",
     {{kHello, kFree}, {kRequest, Raw({5, 8, 0, 1})}},
     SocksFault::kUnsupported,
     EOPNOTSUPP},
    {"ClosesAtOnce", {{"", ""}}, SocksFault::kProxyClosed, ECONNREFUSED, false, true},
    {"ClosesInTheMethod",
     {{kHello, Raw({5})}},
     SocksFault::kProxyClosed,
     ECONNREFUSED,
     false,
     true},
    {"ClosesBeforeTheReply",
     {{kHello, kFree}, {kRequest, ""}},
     SocksFault::kProxyClosed,
     ECONNREFUSED,
     false,
     true},
    {"ClosesInTheReplysName",
     {{kHello, kFree}, {kRequest, Raw({5, 0, 0, 3, 255}) + std::string(256, 'x')}},
     SocksFault::kProxyClosed,
     ECONNREFUSED,
     false,
     true},
};

class SocksDialTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    route_.target = *ParsePinnedAddress("192.0.2.7:7443");
    if (GetParam().login) {
      route_.user = "me";
      route_.password = "key";
    }
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    proxy_ = Fd(ends[0]);
    dial_.emplace(Fd(ends[1]), route_);
  }
  std::string Hear(size_t size) const {
    std::string text(size + 1, '\0');  // one more would be too much said
    const ssize_t n = ::recv(proxy_.get(), text.data(), text.size(), 0);
    text.resize(n < 0 ? 0 : static_cast<size_t>(n));
    return text;
  }
  void Say(std::string_view text) const {
    ASSERT_EQ(::send(proxy_.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  void Expect() {
    const Case& c = GetParam();
    if (c.closes) {
      EXPECT_EQ(dial_->Advance(), State::kPending);
      proxy_.reset();
    }
    const State state = dial_->Advance();
    EXPECT_EQ(dial_->fault(), c.fault) << SocksFaultName(dial_->fault());
    EXPECT_EQ(dial_->error(), c.error);
    ASSERT_EQ(state, c.fault == SocksFault::kNone ? State::kGranted : State::kFailed);
    if (state == State::kFailed) {
      EXPECT_FALSE(SocksFaultRemedy(c.fault).empty());
      EXPECT_LT(dial_->descriptor(), 0) << "closed";
    }
  }

  SocksRoute route_;
  Fd proxy_;
  std::optional<SocksDial> dial_;
};

// Each answer in one piece, and after a grant at once what the coordinator says: that is not ours.
TEST_P(SocksDialTest, InWholeAnswers) {
  const Case& c = GetParam();
  for (const Turn& turn : c.turns) {
    ASSERT_EQ(dial_->Advance(), State::kPending);
    if (!turn.hears.empty()) {
      EXPECT_EQ(Hear(turn.hears.size()), turn.hears);
    }
    const bool last = &turn == &c.turns.back();
    Say(turn.says + (last && c.fault == SocksFault::kNone ? "greeting" : ""));
  }
  Expect();
  if (c.fault != SocksFault::kNone) return;
  const Fd socket = dial_->TakeSocket();
  char bytes[64];
  const ssize_t n = ::recv(socket.get(), bytes, sizeof(bytes), 0);
  ASSERT_GT(n, 0);
  EXPECT_EQ(std::string(bytes, static_cast<size_t>(n)), "greeting");
}

// Byte by byte; nothing is decided before the last byte that it takes.
TEST_P(SocksDialTest, InSingleBytes) {
  const Case& c = GetParam();
  for (const Turn& turn : c.turns) {
    ASSERT_EQ(dial_->Advance(), State::kPending);
    if (!turn.hears.empty()) {
      EXPECT_EQ(Hear(turn.hears.size()), turn.hears);
    }
    for (const char byte : turn.says) {
      if (dial_->Advance() == State::kPending) Say(std::string(1, byte));
    }
  }
  Expect();
}

INSTANTIATE_TEST_SUITE_P(Proxies, SocksDialTest, testing::ValuesIn(kCases),
                         [](const auto& c) { return std::string(c.param.name); });

std::string FirstRequest(SocksRoute& route) {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  const Fd proxy(ends[0]);
  SocksDial dial(Fd(ends[1]), route);
  char bytes[600];
  EXPECT_EQ(dial.Advance(), State::kPending);
  EXPECT_EQ(::recv(proxy.get(), bytes, sizeof(bytes), 0), 3);
  EXPECT_EQ(::send(proxy.get(), kFree.data(), kFree.size(), 0), 2);
  EXPECT_EQ(dial.Advance(), State::kPending);
  const ssize_t n = ::recv(proxy.get(), bytes, sizeof(bytes), 0);
  return {bytes, static_cast<size_t>(std::max<ssize_t>(n, 0))};
}

TEST(SocksDialRequest, AnIpv6AddressAndTheLongestNameAreAskedForAsTheyAre) {
  SocksRoute route;
  route.target = *ParsePinnedAddress("[2001:db8::7]:7443");
  EXPECT_EQ(FirstRequest(route),
            Raw({5, 1, 0, 4, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0x1d, 0x13}));
  route.target_name = std::string(255, 'n');
  route.target_port = 7443;
  EXPECT_EQ(FirstRequest(route), Raw({5, 1, 0, 3, 255}) + route.target_name + Raw({0x1d, 0x13}));
}

// Until it is done, or nothing happens for ten seconds.
State Finish(SocksDial& dial) {
  while (dial.Advance() == State::kPending) {
    pollfd wait{dial.descriptor(), dial.events(), 0};
    if (::poll(&wait, 1, 10'000) != 1) break;
  }
  return dial.Advance();
}

TEST(SocksDialTcp, AProxyThatIsNotThereAndOneThatIs) {
  SocksProxy proxy("me", "secret");
  const auto route = proxy.Route(1);  // where nobody listens
  SocksDial refused(*route);
  EXPECT_EQ(Finish(refused), State::kFailed);
  EXPECT_EQ(refused.fault(), SocksFault::kTargetRefused);
  EXPECT_EQ(proxy.requests(), std::vector<std::string>{"127.0.0.1:1"});
  proxy.Stop();
  SocksDial nobody(*route);
  EXPECT_EQ(Finish(nobody), State::kFailed);
  EXPECT_EQ(nobody.fault(), SocksFault::kProxyUnreachable);
  EXPECT_EQ(nobody.error(), ECONNREFUSED);
}

}  // namespace
}  // namespace tidegate::onshore
