// The C++ API against a real tidegate-onshore with fake children.
#include <dirent.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <tidegate/site.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <thread>

#include "tests/onshore/supervisor/site_fixture.h"

namespace tidegate::onshore {
namespace {

using std::chrono::milliseconds;

class SdkSite : public SupervisorTest {
 protected:
  void SetUp() override {
    SupervisorTest::SetUp();
    StartSite();
    ASSERT_TRUE(TraceGets("gate", "go"));
  }
  tg::Site Connect() const {
    auto site = tg::Site::Connect(site_.native());
    EXPECT_TRUE(site.ok()) << site.status().ToString();
    return *site;
  }
  // Runs until it is stopped.
  tg::LocalJob Start(const tg::Site& site) const {
    auto job = site.Start({tg::Verb::kFinetune, "max_steps = 1\n", "", ""});
    EXPECT_TRUE(job.ok()) << job.status().ToString();
    return *job;
  }
};

// The next event with this code: processes that start say so in between.
tg::Event NextOf(const tg::Watch& watch, uint32_t code) {
  for (;;) {
    const auto event = watch.Next();
    EXPECT_TRUE(event.ok()) << event.status().ToString();
    if (!event.ok() || event->code == code) return event.ok() ? *event : tg::Event(tg_event{});
  }
}

int CountFds(pid_t pid) {
  int count = 0;
  DIR* dir = ::opendir(("/proc/" + std::to_string(pid) + "/fd").c_str());
  while (dir != nullptr && ::readdir(dir) != nullptr) ++count;
  if (dir != nullptr) ::closedir(dir);
  return count;
}

int64_t RssKib(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return std::atoll(line.c_str() + 6);
  }
  return -1;
}

TEST_F(SdkSite, StatusDatasetsPauseAndWhatIsSaidOfThem) {
  const tg::Site site = Connect();
  auto status = site.GetStatus();
  ASSERT_TRUE(status.ok()) << status.status().ToString();
  EXPECT_STREQ(status->site, "lab-1");
  EXPECT_EQ(status->uid, ::getuid());
  EXPECT_EQ(status->round, -1);
  auto watch = site.WatchNew();
  ASSERT_TRUE(watch.ok());
  ASSERT_TRUE(site.Pause().ok());
  EXPECT_EQ(NextOf(*watch, TG_EVENT_TRAINING_HELD).Text(), "training_held why=paused");
  EXPECT_EQ(site.GetStatus()->holds, static_cast<uint32_t>(TG_HOLD_PAUSED));
  ASSERT_TRUE(site.Resume().ok());

  Write("mine.jsonl", "{}\n");
  ASSERT_TRUE(site.SetDataset(tg::DatasetKind::kHeldout, (site_ / "mine.jsonl").native()).ok());
  auto datasets = site.Datasets();
  ASSERT_TRUE(datasets.ok());
  ASSERT_EQ(datasets->size(), 2u);
  EXPECT_EQ((*datasets)[1].source, static_cast<uint32_t>(TG_SOURCE_HANDED_OVER));
  EXPECT_EQ((*datasets)[1].bytes, 3u);
  EXPECT_TRUE(site.ResetDataset(tg::DatasetKind::kHeldout).ok());
  EXPECT_EQ(site.StopJob().code(), tg::Code::kFailedPrecondition);
  EXPECT_EQ(site.SetDataset(tg::DatasetKind::kRecords, "/not/there").code(), tg::Code::kNotFound);

  int seen = 0;
  const tg::Status ran = watch->Run([&seen](const tg::Event&) { return ++seen < 3; }, tg::Call());
  EXPECT_TRUE(ran.ok()) << ran.ToString();
  EXPECT_EQ(seen, 3);
}

TEST_F(SdkSite, ALocalJobsWordsAndEndAreEvents) {
  const tg::Site site = Connect();
  Write("mode-trainer", "local exit 7");
  auto job = site.Start({tg::Verb::kDataCheck, "base = \"b\"\n", "", ""});
  ASSERT_TRUE(job.ok()) << job.status().ToString();
  std::string line;
  auto output = job->Run(tg::Call(), [&line](const tg::JobEvent& event) {
    if (event.kind == TG_JOB_LINE) line = event.said;
    return true;
  });
  EXPECT_EQ(output.status().code(), tg::Code::kUnauthenticated);  // 7
  EXPECT_EQ(line, "words");
  EXPECT_EQ(job->Next().status().code(), tg::Code::kFailedPrecondition);
}

TEST_F(SdkSite, DeadlinesEndCallsAndSoDoesAnotherThread) {
  const tg::Site site = Connect();
  auto watch = site.WatchNew();
  ASSERT_TRUE(watch.ok());
  tg::Code quiet = tg::Code::kOk;
  while (quiet == tg::Code::kOk) quiet = watch->Next(milliseconds(200)).status().code();
  EXPECT_EQ(quiet, tg::Code::kDeadlineExceeded);
  const tg::Cancel cancel;
  std::thread other([&cancel] { cancel.Now(); });
  const auto event = watch->Next(tg::Call(milliseconds(-1), cancel));
  other.join();
  EXPECT_EQ(event.status().code(), tg::Code::kCancelled);
  // The watch is as it was.
  ASSERT_TRUE(site.Pause().ok());
  EXPECT_TRUE(watch->Next().ok());
}

// What leaked once a cycle would show. Two seconds where nothing is instrumented.
TEST_F(SdkSite, StartingAndStoppingLeaksNothing) {
  constexpr int kCycles = 1000;
  constexpr int kWarm = 20;
  const tg::Site site = Connect();
  int own = 0, theirs = 0;
  int64_t own_kib = 0, their_kib = 0;
  for (int i = 0; i < kCycles + kWarm; ++i) {
    if (i == kWarm) {
      own = CountFds(::getpid()), theirs = CountFds(supervisor_.pid());
      own_kib = RssKib(::getpid()), their_kib = RssKib(supervisor_.pid());
    }
    const tg::LocalJob job = Start(site);
    ASSERT_TRUE(job.Next().ok());  // it runs
    ASSERT_TRUE(job.Stop().ok());
    const auto ended = job.Run(tg::Call());
    ASSERT_EQ(ended.status().code(), tg::Code::kCancelled) << ended.status().ToString();
  }
  EXPECT_TRUE(Eventually([&] { return CountFds(supervisor_.pid()) <= theirs; }));
  EXPECT_EQ(CountFds(::getpid()), own);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which keep what is freed
  // Events stay in the site's ring: 104 bytes each, two a job.
  constexpr int64_t kSlackKib = 512;
  EXPECT_LE(RssKib(::getpid()), own_kib + kSlackKib);
  EXPECT_LE(RssKib(supervisor_.pid()), their_kib + kSlackKib + kCycles / 2);
#endif
}

// A client that dies with a job, one that never reads, one that sends rubbish: the site goes on,
// and so does another client.
TEST_F(SdkSite, AClientThatCrashesStallsOrLiesHarmsNobody) {
  const tg::Site site = Connect();
  const tg::LocalJob mine = Start(site);
  ASSERT_TRUE(mine.Next().ok());
  const pid_t child = ::fork();
  if (child == 0) {
    auto other = tg::Site::Connect(site_.native());
    auto job = other.ok() ? other->Start({tg::Verb::kFinetune, "", "", ""})
                          : tg::Result<tg::LocalJob>(other.status());
    if (job.ok()) (void)job->Next();
    ::_exit(job.ok() ? 0 : 1);  // without a word
  }
  int ended = -1;
  ASSERT_EQ(::waitpid(child, &ended, 0), child);
  EXPECT_EQ(ended, 0);
  EXPECT_TRUE(Eventually([&] { return site.GetStatus()->local_jobs == 1; }));

  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (site_ / "api.sock").native().copy(address.sun_path, sizeof(address.sun_path) - 1);
  const int liar = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  ASSERT_EQ(::connect(liar, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  const std::string rubbish(300, '\x07');
  for (int i = 0; i < 50; ++i) (void)::send(liar, rubbish.data(), rubbish.size(), MSG_NOSIGNAL);
  const auto stalled = site.WatchFrom(0, 0);  // and never reads
  ASSERT_TRUE(stalled.ok());
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(site.Pause().ok());
    ASSERT_TRUE(site.Resume().ok());
  }
  ::close(liar);
  EXPECT_TRUE(Alive(supervisor_.pid()));
  EXPECT_TRUE(mine.Stop().ok());
  EXPECT_EQ(mine.Run(tg::Call()).status().code(), tg::Code::kCancelled);
}

TEST_F(SdkSite, FilesOfTheSiteAreReadThroughItsSocket) {
  const tg::Site site = Connect();
  const std::filesystem::path adapter = site_ / "local" / "mine";
  std::filesystem::create_directories(adapter);
  std::ofstream(adapter / "adapter_model.safetensors") << "weights";
  std::ofstream(adapter / "adapter_config.json") << "{}";
  std::filesystem::create_directories(site_ / "local" / "empty");
  std::filesystem::create_symlink("/etc/hostname", site_ / "local" / "link");
  auto adapters = site.Adapters();
  ASSERT_TRUE(adapters.ok()) << adapters.status().ToString();
  ASSERT_EQ(adapters->size(), 1u);
  EXPECT_EQ((*adapters)[0].name, "mine");
  EXPECT_EQ((*adapters)[0].bytes, 7u);
  ASSERT_TRUE(site.SaveAdapter("mine", (root_ / "copy").native()).ok());
  std::ifstream copied(root_ / "copy" / "adapter_model.safetensors");
  std::string text;
  std::getline(copied, text);
  EXPECT_EQ(text, "weights");
  EXPECT_EQ(site.SaveAdapter("mine", (root_ / "copy").native()).code(), tg::Code::kAlreadyExists);
  EXPECT_EQ(site.SaveAdapter("../keys", (root_ / "x").native()).code(), tg::Code::kInvalidArgument);
  // A link in the place of a file is no file of the site's.
  std::filesystem::remove(adapter / "adapter_config.json");
  std::filesystem::create_symlink("/etc/hostname", adapter / "adapter_config.json");
  EXPECT_EQ(site.SaveAdapter("mine", (root_ / "y").native()).code(), tg::Code::kNotFound);
  EXPECT_TRUE(site.Held()->empty());
  EXPECT_EQ(site.Review("none").status().code(), tg::Code::kNotFound);
}

// Instead of the trainer one without records is started, for as long as the client is there.
TEST_F(SdkSite, AProgramOutsideTakesTheTrainersPlaceAndGivesItBack) {
  const tg::Site site = Connect();
  auto watch = site.WatchNew();
  ASSERT_TRUE(watch.ok());
  {
    auto rounds = site.TrainRounds();
    ASSERT_TRUE(rounds.ok()) << rounds.status().ToString();
    EXPECT_EQ(NextOf(*watch, TG_EVENT_OUTSIDE_BEGAN).arguments[0], ::getuid());
    EXPECT_EQ(site.TrainRounds().status().code(), tg::Code::kAlreadyExists);
    EXPECT_EQ(rounds->Next((root_ / "r").native(), milliseconds(20)).status().code(),
              tg::Code::kDeadlineExceeded);
    EXPECT_EQ(rounds->Submit(root_.native(), {}, tg::Call()).code(), tg::Code::kFailedPrecondition);
    // What the site's own trainer is told is none of this one's business.
    ASSERT_TRUE(site.Pause().ok());
    ASSERT_TRUE(site.Resume().ok());
    EXPECT_EQ(site.TrainRounds().status().code(), tg::Code::kAlreadyExists);
  }
  EXPECT_EQ(NextOf(*watch, TG_EVENT_OUTSIDE_ENDED).arguments[0], ::getuid());
  EXPECT_TRUE(site.TrainRounds().ok());
}

}  // namespace
}  // namespace tidegate::onshore
