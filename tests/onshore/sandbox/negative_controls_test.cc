// Walls with a hole, made on purpose: the checks must see each.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/onshore/sandbox/helper_options.h"
#include "tests/onshore/sandbox/helper_run.h"

namespace tidegate::onshore {
namespace {

HelperResult RunWith(const std::vector<std::string>& more, int extra_fd = -1) {
  const Site site;
  HelperCall call{.words = site.Words(Role::kTrainer), .extra_fd = extra_fd};
  std::erase_if(call.words, [](const std::string& word) { return word.starts_with("work="); });
  call.words.insert(call.words.end(), more.begin(), more.end());
  return RunHelper(call);
}

std::string ErrorWith(int extra_fd, const char* keep = "keep") {
  const HelperResult result = RunWith({keep}, extra_fd);
  EXPECT_FALSE(result.Said("tidegate")) << "it walled itself:\n" << result.Everything();
  return result.Said("error").value_or(result.Everything());
}

Fd Pair(int type, Fd& other) {
  int ends[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) != 0) return Fd();
  other = Fd(ends[1]);
  return Fd(ends[0]);
}

TEST(FdAuditTest, ADatagramPairIsRefused) {
  Fd other;
  const Fd fd = Pair(SOCK_DGRAM, other);
  EXPECT_NE(ErrorWith(fd.get()).find("5 is a SOCK_DGRAM AF_UNIX socket"), std::string::npos);
}

TEST(FdAuditTest, AStreamPairIsRefused) {
  Fd other;
  const Fd fd = Pair(SOCK_STREAM, other);
  EXPECT_NE(ErrorWith(fd.get()).find("5 is a SOCK_STREAM AF_UNIX socket"), std::string::npos);
}

TEST(FdAuditTest, AnInheritedInternetSocketIsRefused) {
  for (int family : {AF_INET, AF_INET6}) {
    const Fd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd.valid()) continue;  // no IPv6 here; AF_INET is always there
    EXPECT_NE(ErrorWith(fd.get()).find("SOCK_STREAM AF_INET"), std::string::npos);
  }
}

TEST(FdAuditTest, ANamedOrUnconnectedUnixSocketIsRefused) {
  const Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  EXPECT_NE(ErrorWith(fd.get()).find("must be a channel"), std::string::npos);

  // A client of a service: connected, SEQPACKET, but its peer has a name.
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  const std::string path = fmt::format("tidegate-audit-{}", ::getpid());
  path.copy(name.sun_path + 1, sizeof(name.sun_path) - 1);
  const auto* address = reinterpret_cast<const sockaddr*>(&name);
  const Fd server(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(server.get(), address, sizeof(name)), 0);
  ASSERT_EQ(::listen(server.get(), 1), 0);
  EXPECT_NE(ErrorWith(server.get()).find("must be a channel"), std::string::npos);
  ASSERT_EQ(::connect(fd.get(), address, sizeof(name)), 0);
  EXPECT_NE(ErrorWith(fd.get()).find("must be a channel"), std::string::npos);
}

TEST(FdAuditTest, ADirectoryADeviceAndAWritableFileAreRefused) {
  const Fd directory(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  EXPECT_NE(ErrorWith(directory.get(), "keep=file").find("5 is a directory"), std::string::npos);
  const Fd device(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  EXPECT_NE(ErrorWith(device.get(), "keep=file").find("5 is device 1:5"), std::string::npos);
  const Site site;
  const Fd writable(::open(site.Path("key").c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_NE(ErrorWith(writable.get(), "keep=file").find("open for writing"), std::string::npos);
}

TEST(FdAuditTest, AReadOnlyFileAndAChannelMayStay) {
  const Site site;
  const Fd file(::open(site.Path("records.jsonl").c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_TRUE(RunWith({"keep=file"}, file.get()).Said("done"));
  Fd other;
  const Fd pair = Pair(SOCK_SEQPACKET, other);
  EXPECT_TRUE(RunWith({"keep"}, pair.get()).Said("done"));
}

TEST(FdAuditTest, WhatIsNotOnTheListIsClosed) {
  const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const HelperResult result = RunWith({}, fd.get());
  EXPECT_NE(result.Said("state")->find("extra_fd=9 "), std::string::npos) << result.Everything();
}

TEST(HoleTest, AFilterWithoutArchitectureCheckIsFound) {
  const HelperResult result = RunWith({"hole=bad_arch"});
  const TryRow* row = result.Row("int80_getpid");
  ASSERT_NE(row, nullptr);
  if (row->control != 0) {
    GTEST_SKIP() << "wall seccomp, architecture: this kernel has no 32-bit entry, outcome "
                 << row->control;
  }
  EXPECT_EQ(row->verdict, Verdict::kOpen);
  EXPECT_EQ(result.Row("int80_socket")->verdict, Verdict::kOpen) << "a socket past the filter";
  EXPECT_EQ(result.Row("int80_socketcall")->verdict, Verdict::kOpen);
  EXPECT_FALSE(CheckNoneOpen(result.Statement().rows).ok());
}

TEST(HoleTest, SendmsgAllowedIsFound) {
  const HelperResult result = RunWith({"hole=sendmsg"});
  EXPECT_EQ(result.Row("sendmsg_rights")->verdict, Verdict::kOpen);
  EXPECT_EQ(result.Row("sendmsg_fastopen")->verdict, Verdict::kOpen);
  EXPECT_EQ(result.Row("recvmsg")->verdict, Verdict::kRefused);
  const Status status = CheckNoneOpen(result.Statement().rows);
  EXPECT_NE(status.message().find("sendmsg_rights"), std::string::npos) << status.message();
}

TEST(HoleTest, WallsAfterAThreadAreRefused) {
  const HelperResult result = RunWith({"early_thread"});
  ASSERT_TRUE(result.Said("error")) << result.Everything();
  EXPECT_NE(result.Said("error")->find("threads"), std::string::npos);
}

// Why: the thread that was there before reads the key file.
TEST(HoleTest, AThreadFromBeforeTheWallsIsFree) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "wall netns: unshare(CLONE_NEWUSER) with a thread gives errno 22";
  }
  const HelperResult result = RunWith({"early_thread", "hole=thread"});
  EXPECT_EQ(result.Row("read_key_file")->verdict, Verdict::kRefused) << result.Everything();
  EXPECT_EQ(result.Said("early_read"), "0") << result.Everything();
}

// Why the strict filter is laid on every thread at once: a driver's has been there before it.
TEST(HoleTest, AFilterOnOneThreadLeavesTheDriversFree) {
  EXPECT_EQ(RunWith({"gpu"}).Said("driver"), "ok");
  const HelperResult result = RunWith({"gpu", "hole=one_thread"});
  EXPECT_EQ(result.Said("driver"), "memfd 0") << result.Everything();
}

}  // namespace
}  // namespace tidegate::onshore
