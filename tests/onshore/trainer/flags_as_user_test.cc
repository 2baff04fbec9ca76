// A client's flags, where the trainer starts as root: who reads them, and what of theirs counts.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/types.h>
#include <unistd.h>

#include <fstream>

#include "base/file.h"
#include "onshore/trainer/as_user.h"
#include "onshore/trainer/flags_file.h"

namespace tidegate::trainer {
namespace {

constexpr uint32_t kUser = 61001;

class FlagsAsUser : public testing::Test {
 protected:
  FlagsAsUser() {
    verb_.add_option("--steps", steps_);
    verb_.add_option("--base", base_);
    verb_.add_option("--uid", uid_);
  }
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "separate_uids: needs a start as root, errno 1";
  }
  // Of a file that the user could not open.
  Status Apply(const std::string& text, uint32_t uid = kUser) {
    std::string name = (std::filesystem::temp_directory_path() / "tg_flags_XXXXXX").native();
    const Fd made(::mkstemp(name.data()));
    EXPECT_TRUE(WriteAll(made.get(), AsBytes(text), name).ok());
    const Fd fd(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
    ::unlink(name.c_str());
    return ApplyFlagsDescriptor(verb_, fd.get(), "/site",
                                {.paths = {"base"}, .lists = {}, .tables = {}, .excluded = {"uid"}},
                                uid);
  }
  CLI::App verb_{"a verb", "verb"};
  int64_t steps_ = 0;
  uint32_t uid_ = 0;
  std::string base_;
};

TEST_F(FlagsAsUser, TheReaderIsTheUserForGoodAndInNoGroup) {
  const auto answer = RunAsUser(kUser, 1000, [] {
    uid_t user[3];
    gid_t group[3];
    std::string said;
    if (::getresuid(&user[0], &user[1], &user[2]) == 0 &&
        ::getresgid(&group[0], &group[1], &group[2]) == 0) {
      for (const uid_t id : user) said += std::to_string(id) + " ";
      for (const gid_t id : group) said += std::to_string(id) + " ";
    }
    said += std::to_string(::getgroups(0, nullptr)) + " " + std::to_string(::setuid(0));
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("CapPrm:\t")) said += " " + line.substr(8);
    }
    return Bytes(said.begin(), said.end());
  });
  ASSERT_TRUE(answer.has_value()) << answer.error().ToString();
  EXPECT_EQ(AsText(*answer), "61001 61001 61001 61001 61001 61001 0 -1 0000000000000000");
  EXPECT_EQ(::geteuid(), 0u);
}

TEST_F(FlagsAsUser, AReaderThatDiesOrTellsTooMuchIsAnErrorWithAName) {
  EXPECT_EQ(RunAsUser(kUser, 10, [] { return Bytes(1 << 20); }).error().code(),
            Code::kResourceExhausted);
  EXPECT_EQ(RunAsUser(kUser, 10, []() -> Bytes { ::_exit(3); }).error().code(), Code::kInternal);
  EXPECT_EQ(RunAsUser(0, 10, [] { return Bytes(); }).error().code(), Code::kPermissionDenied);
}

TEST_F(FlagsAsUser, TheFlagsAreThoseOfAReaderInThisProcess) {
  const Status applied = Apply("steps = 7\nbase = \"model\"\n");
  ASSERT_TRUE(applied.ok()) << applied.ToString();
  EXPECT_EQ(steps_, 7);
  EXPECT_EQ(base_, "/site/model");
  for (const char* wrong : {"steps = \"many\"\n", "\n\nstep = 1\n", "uid = 0\n", "steps = \n",
                            "base = \"a\"\nbase = \"b\"\n"}) {
    const Status here = Apply(wrong, 0), there = Apply(wrong);
    EXPECT_EQ(there.code(), Code::kInvalidArgument) << wrong;
    EXPECT_EQ(there.ToString(), here.ToString());
  }
  EXPECT_EQ(uid_, 0u);
  EXPECT_EQ(Apply(std::string(2 << 20, '#')).code(), Code::kResourceExhausted);
}

}  // namespace
}  // namespace tidegate::trainer
