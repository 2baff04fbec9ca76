// Clients of the local API that crash, stall, flood or lie: neither the supervisor nor another
// client notices.
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "base/file.h"
#include "onshore/api/packet.h"
#include "onshore/supervisor/api_server.h"
#include "tests/onshore/supervisor/api_fixture.h"

namespace tidegate::onshore {
namespace {

using api::ApiClient;
namespace fs = std::filesystem;

size_t OpenFds(pid_t pid) {
  const fs::path folder = "/proc/" + std::to_string(pid) + "/fd";
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), {}));
}

Bytes Plain(api::Type type, uint32_t request = 1) {
  api::Header header;
  header.type = static_cast<uint16_t>(type);
  header.request = request;
  return api::EncodeHeader(header);
}

// What comes back within 20 s: the reason of a reply, or nothing when the other end was closed.
std::optional<api::Reason> Answer(const Fd& socket) {
  for (;;) {
    pollfd p{socket.get(), POLLIN, 0};
    if (::poll(&p, 1, 20'000) != 1) return std::nullopt;
    const auto packet = api::ReceivePacket(socket.get(), api::kMaxPacket, 0);
    if (!packet || !*packet) return std::nullopt;
    api::Header header;
    std::memcpy(&header, (*packet)->bytes.data(), sizeof(header));
    return static_cast<api::Reason>(header.reason);
  }
}

void Send(const Fd& socket, ByteSpan bytes, std::span<const int> descriptors = {}) {
  // By poll: what is in the way of the next packet is taken by the supervisor soon.
  pollfd p{socket.get(), POLLOUT, 0};
  ASSERT_EQ(::poll(&p, 1, 20'000), 1);
  ASSERT_TRUE(api::SendPacket(socket.get(), bytes, descriptors).ok());
}

TEST_F(ApiTest, TheSocketIsForOwnerAndGroupAndReplacesAStaleOneOnly) {
  StartReady();
  struct stat info {};
  ASSERT_EQ(::lstat(socket().c_str(), &info), 0);
  EXPECT_TRUE(S_ISSOCK(info.st_mode));
  EXPECT_EQ(info.st_mode & 07777, 0660u);
  // A second supervisor for the site, which does not get the lock, leaves the socket alone.
  EXPECT_EQ(RunCommand(Command(), 20'000)->exit_code, static_cast<int>(Code::kFailedPrecondition));
  ExpectServes();
  supervisor_.Signal(SIGKILL);
  ASSERT_EQ(WaitForEnd(), 128 + SIGKILL);
  ASSERT_EQ(::lstat(socket().c_str(), &info), 0) << "it is left behind";
  ASSERT_TRUE(Eventually([&] { return !Alive(LastPid("gate")) && !Alive(LastPid("link")); }));
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go", 2)) << Log();
  ExpectServes();
  supervisor_.Signal(SIGTERM);
  ASSERT_EQ(WaitForEnd(), 0);
  std::ofstream(socket()) << "precious";
  StartSite();
  EXPECT_EQ(WaitForEnd(), static_cast<int>(Code::kAlreadyExists)) << Log();
  EXPECT_EQ(*ReadTextFile(socket(), 100), "precious");
}

TEST_F(ApiTest, APathThatNoSocketCanHaveIsNamedWithItsRemedy) {
  const std::string config = *ReadTextFile(site_ / "site.toml", 4096);
  Write("site.toml", config + "api_socket = \"/run/" + std::string(110, 'x') + "\"\n");
  StartSite();
  EXPECT_EQ(WaitForEnd(), static_cast<int>(Code::kInvalidArgument)) << Log();
  EXPECT_TRUE(LogHas("has a path of 115 bytes, the limit is 107; give a shorter one as api_socket"))
      << Log();
  Write("site.toml", config + "api_socket = \"other.sock\"\n");
  StartReady();
  EXPECT_TRUE(ApiClient::Connect(site_ / "other.sock").has_value());
}

TEST_F(ApiTest, LiesAreAnsweredWithTheirReasonAndHarmNobody) {
  StartReady();
  const size_t fds = OpenFds(supervisor_.pid());
  struct Lie {
    const char* what;
    Bytes packet;
    api::Reason reason;
  };
  const auto with = [](auto&& change) {
    api::Header header;
    header.type = static_cast<uint16_t>(api::Type::kStatus);
    change(header);
    return api::EncodeHeader(header);
  };
  api::SetDatasetRequest relative;
  relative.source = static_cast<uint32_t>(DatasetSource::kPath);
  api::SetText("records.jsonl", &relative.path);
  api::SetDatasetRequest unended = relative;
  unended.path.fill('/');
  api::SetDatasetRequest hidden = relative;
  api::SetText("/srv/a", &hidden.path);
  hidden.path[4000] = 'x';
  api::Header set;
  set.type = static_cast<uint16_t>(api::Type::kSetDataset);
  const Lie lies[] = {
      {"short", Bytes(5, 1), api::Reason::kMalformed},
      {"magic", with([](auto& h) { h.magic = 7; }), api::Reason::kMalformed},
      {"version", with([](auto& h) { h.version = 9; }), api::Reason::kOtherVersion},
      {"reserved", with([](auto& h) { h.reserved = 1; }), api::Reason::kMalformed},
      {"type", with([](auto& h) { h.type = 999; }), api::Reason::kMalformed},
      {"an event", with([](auto& h) { h.type = 32; }), api::Reason::kMalformed},
      {"no hello", Plain(api::Type::kStatus), api::Reason::kHelloFirst},
      {"a body too many", Bytes(100, 0), api::Reason::kMalformed},
      {"too long", Bytes(api::kMaxPacket + 1, 0), api::Reason::kMalformed},
      {"a relative path", api::Encode(set, relative), api::Reason::kBadPath},
      {"a path without an end", api::Encode(set, unended), api::Reason::kBadPath},
      {"words behind a path", api::Encode(set, hidden), api::Reason::kMalformed},
  };
  for (const Lie& lie : lies) {
    const Fd socket = Raw();
    Send(socket, lie.packet);
    EXPECT_EQ(Answer(socket), lie.reason) << lie.what;
    // The connection goes on: after a hello it is as good as any other.
    Send(socket, Plain(api::Type::kHello));
    EXPECT_EQ(Answer(socket), api::Reason::kNone) << lie.what;
  }
  EXPECT_TRUE(Eventually([&] { return OpenFds(supervisor_.pid()) == fds; }));
  ExpectServes();
}

TEST_F(ApiTest, OnlyReadOnlyFilesAndPipesAreTakenAndNoDescriptorIsKept) {
  StartReady();
  const size_t fds = OpenFds(supervisor_.pid());
  {
    ApiClient client = Connect();
    const Fd writable = FileWith("f", "{}\n", O_RDWR), path = FileWith("g", "{}\n", O_PATH);
    const Fd folder(::open(root_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    PipeEnds pipe = MakePipe();
    for (const int fd : {writable.get(), path.get(), folder.get(), null.get(), pipe.read.get(),
                         pipe.write.get()}) {
      const auto set = client.SetDataset(DatasetKind::kRecords, fd);
      EXPECT_EQ(set.code(), Code::kInvalidArgument) << set.ToString();
      EXPECT_NE(set.message().find("O_RDONLY"), std::string::npos) << set.ToString();
    }
    const Fd file = FileWith("h", "{}\n", O_RDONLY);
    const auto run = [&](int flags, int output, int errors) {
      return client
          .RunLocal({.verb = LocalVerb::kEval, .flags = flags, .output = output, .errors = errors})
          .error()
          .message();
    };
    EXPECT_NE(run(file.get(), file.get(), pipe.write.get()).find("pipes"), std::string::npos);
    EXPECT_NE(run(file.get(), pipe.write.get(), client.descriptor()).find("pipes"),
              std::string::npos);
    EXPECT_NE(run(pipe.read.get(), pipe.write.get(), pipe.write.get()).find("O_RDONLY"),
              std::string::npos);
    std::ofstream(root_ / "long") << std::string((1 << 20) + 1, '#');
    const Fd longer(::open((root_ / "long").c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_NE(run(longer.get(), pipe.write.get(), pipe.write.get()).find("1 MiB"),
              std::string::npos);
    // Along with what takes none, fewer than it takes, and more than anything takes.
    const Fd socket = Raw();
    const std::vector<int> many(12, file.get());
    Send(socket, Plain(api::Type::kHello), std::span(many).first(1));
    EXPECT_EQ(Answer(socket), api::Reason::kDescriptors);
    Send(socket, Plain(api::Type::kHello));
    EXPECT_EQ(Answer(socket), api::Reason::kNone);
    api::Header header;
    header.type = static_cast<uint16_t>(api::Type::kRunLocal);
    Send(socket, api::Encode(header, api::RunLocalRequest{}), std::span(many).first(2));
    EXPECT_EQ(Answer(socket), api::Reason::kDescriptors);
    Send(socket, Plain(api::Type::kStatus), many);
    EXPECT_NE(Answer(socket), api::Reason::kNone);
  }
  EXPECT_TRUE(Eventually([&] { return OpenFds(supervisor_.pid()) == fds; }))
      << OpenFds(supervisor_.pid()) << " " << fds;
  ExpectServes();
}

TEST_F(ApiTest, AFloodOfOneClientLeavesTheOthersServed) {
  StartReady();
  const Fd socket = Raw();
  // Until the pair is full: it never reads an answer.
  int sent = 0;
  const Bytes packet = Plain(api::Type::kHello);
  for (; sent < 20'000; ++sent) {
    pollfd p{socket.get(), POLLOUT, 0};
    if (::poll(&p, 1, 20) != 1) break;
    if (!api::SendPacket(socket.get(), packet).ok()) break;
  }
  EXPECT_GT(sent, 10);
  EXPECT_LT(sent, 20'000);
  for (int i = 0; i < 20; ++i) ExpectServes();
  // A person's other commands come through the children's channels as before.
  Do("gate", "event 1 4 0 0 0");
  EXPECT_TRUE(LogGets("gate: job_accepted rounds=4")) << Log();
}

TEST_F(ApiTest, ClientsOfOneUserAreBoundedAndAnEndMakesRoom) {
  StartReady();
  std::vector<ApiClient> clients;
  for (size_t i = 0; i < ApiServer::kMaxClientsOfUser; ++i) clients.push_back(Connect());
  const auto more = ApiClient::Connect(socket());
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code(), Code::kResourceExhausted) << more.error().ToString();
  clients.pop_back();
  EXPECT_TRUE(Eventually([&] { return ApiClient::Connect(socket()).has_value(); }));
}

// A child process that becomes this user and group and tries to connect; the reason that it got.
int ConnectAs(uid_t uid, gid_t gid, const fs::path& path) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgroups(0, nullptr) != 0 || ::setresgid(gid, gid, gid) != 0 ||
        ::setresuid(uid, uid, uid) != 0) {
      ::_exit(99);
    }
    const auto client = ApiClient::Connect(path);
    ::_exit(client ? 0 : static_cast<int>(client.error().code()));
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(ApiTest, OtherUsersAreRefusedUnlessSiteTomlNamesThem) {
  if (::geteuid() != 0) GTEST_SKIP() << "other users: needs a start as root, errno 1";
  fs::permissions(root_, fs::perms(0711));
  const std::string config = *ReadTextFile(site_ / "site.toml", 4096);
  StartReady();
  EXPECT_EQ(ConnectAs(61009, 61009, socket()), static_cast<int>(Code::kPermissionDenied))
      << "by the socket's mode";
  supervisor_.Signal(SIGTERM);
  ASSERT_EQ(WaitForEnd(), 0);
  Write("site.toml", config + "api_group = 61010\napi_users = [61001]\n");
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go", 2)) << Log();
  EXPECT_EQ(ConnectAs(61001, 61010, socket()), 0);
  EXPECT_EQ(ConnectAs(61009, 61010, socket()), static_cast<int>(Code::kPermissionDenied))
      << "by its name";
  EXPECT_TRUE(LogGets("client_refused uid=61009")) << Log();
  supervisor_.Signal(SIGTERM);
  ASSERT_EQ(WaitForEnd(), 0);
  Write("site.toml", config + "api_group = 61010\n");
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go", 3)) << Log();
  EXPECT_EQ(ConnectAs(61009, 61010, socket()), 0) << "the whole group";
}

}  // namespace
}  // namespace tidegate::onshore
