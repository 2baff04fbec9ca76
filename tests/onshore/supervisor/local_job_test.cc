// Local jobs by the real trainer behind its real walls.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <thread>

#include "base/file.h"
#include "tests/onshore/supervisor/api_fixture.h"

namespace tidegate::onshore {
namespace {

namespace fs = std::filesystem;

struct Ran {
  int exit_status = -1;
  std::string output, errors;
};

class RealLocalJob : public ApiTest {
 protected:
  void SetUp() override {
    ApiTest::SetUp();
    fs::remove(programs_ / "tidegate-trainer");
    fs::copy_file(fs::path(TIDEGATE_BIN_DIR) / "tidegate-trainer", programs_ / "tidegate-trainer");
    fs::create_directory(site_ / "keys");
    std::ofstream(site_ / "keys" / "gate.key") << "a secret";
    StartReady();
  }
  static std::string Base() {
    return (fs::path(TIDEGATE_SOURCE_DIR) / "tests/golden/tiny_llama").native();
  }
  // Records without a name at the site.
  Fd Records() const {
    std::string text;
    for (int i = 0; i < 8; ++i) {
      text += fmt::format("{{\"prompt\": \"code {} is in \", \"completion\": \"{}\"}}\n", i, i);
    }
    Fd fd = FileWith("records", text, O_RDONLY);
    fs::remove(root_ / "records");
    return fd;
  }
  Ran Run(LocalVerb verb, const std::string& flags, int data, int input = -1) const {
    api::ApiClient client = Connect();
    const Fd file = FileWith("flags.toml", flags, O_RDONLY);
    PipeEnds out = MakePipe(), err = MakePipe();
    const auto job = client.RunLocal({.verb = verb,
                                      .json = true,
                                      .flags = file.get(),
                                      .output = out.write.get(),
                                      .errors = err.write.get(),
                                      .input = input,
                                      .data = data});
    EXPECT_TRUE(job) << job.error().ToString();
    out.write.reset();
    err.write.reset();
    Ran ran;
    std::thread reader([&] { ran.errors = ReadAll(err.read); });
    ran.output = ReadAll(out.read);
    reader.join();
    const auto told = client.Next(60'000);
    EXPECT_TRUE(told) << told.error().ToString();
    if (told) ran.exit_status = std::get<api::LocalEnded>(*told).exit_status;
    return ran;
  }
  static bool WallsMissing(const Ran& ran) {
    return ran.errors.find("demands walls that") != std::string::npos;
  }
  static std::string Finetune(const std::string& output_dir, const std::string& base = Base()) {
    return fmt::format(
        "base = \"{}\"\noutput_dir = \"{}\"\nmax_length = 64\nlora_r = 2\nmax_steps = 1\n"
        "threads = 1\ndtype = \"f32\"\n",
        base, output_dir);
  }
};

TEST_F(RealLocalJob, FinetunesEvaluatesAndAnswersOnRecordsThatAreHandedOver) {
  const Fd records = Records();
  const Ran trained = Run(LocalVerb::kFinetune, Finetune("local/mine"), records.get());
  if (WallsMissing(trained)) GTEST_SKIP() << trained.errors;
  ASSERT_EQ(trained.exit_status, 0) << trained.errors;
  EXPECT_NE(trained.output.find("\"steps\": 1"), std::string::npos) << trained.output;
  const fs::path folder = site_ / "local" / "mine";
  EXPECT_TRUE(fs::exists(folder / "adapter_model.safetensors"));
  struct stat info {};
  ASSERT_EQ(::stat(folder.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700u);
  // The same open file once more, from its beginning; the adapter by its path from the site.
  const std::string with = fmt::format(
      "base = \"{}\"\nadapter = \"local/mine\"\ndtype = \"f32\"\nthreads = 1\n", Base());
  const Ran evaluated = Run(LocalVerb::kEval, with + "max_length = 64\n", records.get());
  EXPECT_EQ(evaluated.exit_status, 0) << evaluated.errors;
  EXPECT_NE(evaluated.output.find("\"nll\""), std::string::npos) << evaluated.output;
  const Ran checked =
      Run(LocalVerb::kDataCheck, fmt::format("base = \"{}\"\n", Base()), records.get());
  EXPECT_EQ(checked.exit_status, 0) << checked.errors;
  PipeEnds in = MakePipe();
  ASSERT_TRUE(WriteAll(in.write.get(), AsBytes(std::string("code 3\n")), "input").ok());
  in.write.reset();
  const Ran said = Run(LocalVerb::kGenerate, with + "interactive = true\nmax_new_tokens = 4\n", -1,
                       in.read.get());
  EXPECT_EQ(said.exit_status, 0) << said.errors;
  EXPECT_NE(said.output.find("\"new_tokens\""), std::string::npos) << said.output;
}

TEST_F(RealLocalJob, WritesNowhereElseAndReachesNoSecretOfTheSite) {
  const Fd records = Records();
  for (const std::string& elsewhere :
       {(root_ / "out").native(), std::string("keys"), std::string("local"),
        std::string("local/../keys"), std::string("local/a/b"), std::string("local/..")}) {
    const Ran ran = Run(LocalVerb::kFinetune, Finetune(elsewhere), records.get());
    EXPECT_EQ(ran.exit_status, static_cast<int>(Code::kPermissionDenied)) << elsewhere << "\n"
                                                                          << ran.errors;
    EXPECT_NE(ran.errors.find("writes into"), std::string::npos) << ran.errors;
  }
  EXPECT_FALSE(fs::exists(root_ / "out"));
  EXPECT_FALSE(fs::exists(site_ / "local"));
  // A base that would take the keys along into what may be read.
  const Ran ran = Run(LocalVerb::kFinetune, Finetune("local/x", site_.native()), records.get());
  if (WallsMissing(ran)) GTEST_SKIP() << ran.errors;
  EXPECT_EQ(ran.exit_status, static_cast<int>(Code::kPermissionDenied)) << ran.errors;
  EXPECT_NE(ran.errors.find("got through the walls"), std::string::npos) << ran.errors;
  EXPECT_EQ(ran.errors.find("a secret"), std::string::npos);
  // What only the supervisor says.
  for (const char* key : {"walls = \"none\"\n", "site = \"/\"\n", "uid = 0\n", "flags_fd = 3\n",
                          "device = \"cuda\"\n", "format = \"text\"\n"}) {
    const Ran refused =
        Run(LocalVerb::kEval, fmt::format("{}base = \"{}\"\n", key, Base()), records.get());
    EXPECT_EQ(refused.exit_status, static_cast<int>(Code::kInvalidArgument)) << refused.errors;
    EXPECT_NE(refused.errors.find("command line alone"), std::string::npos) << refused.errors;
  }
}

// The trainer's own uid owns the result, and could not read the records by their name.
TEST_F(RealLocalJob, RunsUnderTheTrainersUidWhereTheSiteHasSeparateUids) {
  if (::geteuid() != 0) GTEST_SKIP() << "separate_uids: needs a start as root, errno 1";
  constexpr uid_t kTrainer = 61001;
  supervisor_.Signal(SIGTERM);
  ASSERT_EQ(WaitForEnd(), 0);
  fs::permissions(root_, fs::perms(0711));
  fs::copy(Base(), site_ / "model");
  Write("r.jsonl", "{}\n");
  for (const auto& file : fs::directory_iterator(site_ / "model")) {
    fs::permissions(file.path(), fs::perms(0644));
  }
  Write("site.toml", *ReadTextFile(site_ / "site.toml", 4096) +
                         "separate_uids = [61001, 61002, 61003]\n"
                         "walls = \"seccomp,landlock_fs,separate_uids\"\n");
  StartSite();
  ASSERT_TRUE(TraceGets("gate", "go", 2)) << Log();
  const Ran ran = Run(LocalVerb::kFinetune, Finetune("local/mine", "model"), Records().get());
  if (WallsMissing(ran)) GTEST_SKIP() << ran.errors;
  ASSERT_EQ(ran.exit_status, 0) << ran.errors;
  struct stat info {};
  const fs::path folder = site_ / "local" / "mine";
  ASSERT_EQ(::stat((folder / "adapter_model.safetensors").c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, kTrainer);
  ASSERT_EQ(::stat((site_ / "local").c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, 0u) << "nobody but the site's user makes names here";
}

}  // namespace
}  // namespace tidegate::onshore
