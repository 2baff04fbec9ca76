// The local API of a site: no canary in what it says, in what a local job leaves behind, nor in
// what is kept of records that were handed over as an open file.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <thread>

#include "base/file.h"
#include "onshore/api/client.h"
#include "tests/canary/tapped_federation.h"

namespace tidegate::canary {
namespace {

namespace fs = std::filesystem;
namespace api = onshore::api;

constexpr int64_t kMostMillis = 120'000;

struct Pipe {
  Fd read, write;
};
Pipe MakePipe() {
  int fds[2];
  EXPECT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  return {Fd(fds[0]), Fd(fds[1])};
}

std::string ReadAll(const Fd& fd) {
  std::string all;
  char part[4096];
  for (ssize_t n = 1; n > 0;) {
    pollfd p{fd.get(), POLLIN, 0};
    n = ::poll(&p, 1, kMostMillis) == 1 ? ::read(fd.get(), part, sizeof(part)) : 0;
    if (n > 0) all.append(part, static_cast<size_t>(n));
  }
  return all;
}

class SiteApi : public ::testing::Test {
 protected:
  static constexpr uint64_t kHeldBytes = 24'000;  // less than an update

  // A federation of one site whose job cannot end, and a client that has all that the API says.
  void Begin(TappedFederation& federation) {
    federation.tap(0).HoldAfter(kHeldBytes);
    CANARY_RUNS(federation, federation.Begin());
    CANARY_RUNS(federation, federation.RunUntil(
                                [&] {
                                  auto client =
                                      api::ApiClient::Connect(site(federation) / "api.sock");
                                  if (client) client_.emplace(std::move(*client));
                                  return client.has_value();
                                },
                                "the local API"));
    const auto watch = client_->Watch({});
    ASSERT_TRUE(watch) << watch.error().ToString();
    Said(api::BytesOf(*watch));
  }
  static fs::path site(const TappedFederation& federation) {
    return federation.root() / "poc" / "north";
  }
  void Said(const Bytes& bytes) { said_.insert(said_.end(), bytes.begin(), bytes.end()); }

  // A finetune of the site's own records, handed over; what it said on output and errors.
  std::string RunLocal(TappedFederation& federation) {
    const fs::path flags = federation.root() / "flags.toml";
    const std::string text = fmt::format(
        "base = \"{}\"\noutput_dir = \"local/run\"\nmax_length = 256\nlora_r = 4\n"
        "max_steps = 2\nthreads = 1\ndtype = \"f32\"\n",
        TinyBase().native());
    EXPECT_TRUE(WriteFileDurably(flags, AsBytes(text)).ok());
    const Fd given(::open(flags.c_str(), O_RDONLY | O_CLOEXEC));
    const Fd data(::open((federation.records_dir() / "north.jsonl").c_str(), O_RDONLY | O_CLOEXEC));
    Pipe out = MakePipe(), err = MakePipe();
    const auto job = client_->RunLocal({.verb = onshore::LocalVerb::kFinetune,
                                        .json = true,
                                        .flags = given.get(),
                                        .output = out.write.get(),
                                        .errors = err.write.get(),
                                        .data = data.get()});
    EXPECT_TRUE(job) << job.error().ToString();
    out.write.reset();
    err.write.reset();
    std::string errors;
    std::thread reader([&] { errors = ReadAll(err.read); });
    std::string all = ReadAll(out.read);
    reader.join();
    return all + errors;
  }
  // All that the API says until the local job has ended, and how that ended.
  int HearUntilItsEnd() {
    for (;;) {
      const auto told = client_->Next(kMostMillis);
      if (!told) {
        ADD_FAILURE() << told.error().ToString();
        return -1;
      }
      if (const auto* ended = std::get_if<api::LocalEnded>(&*told)) return ended->exit_status;
      Said(api::BytesOf(std::get<api::EventMessage>(*told)));
    }
  }
  void HearTheRest() {
    for (;;) {
      const auto told = client_->Next(kMostMillis);
      if (!told) return;  // the supervisor has ended
      if (const auto* event = std::get_if<api::EventMessage>(&*told)) {
        Said(api::BytesOf(*event));
        events_.push_back(*event);
      }
    }
  }

  std::optional<api::ApiClient> client_;
  Bytes said_;
  std::vector<api::EventMessage> events_;
};

TEST_F(SiteApi, SaysNoWordOfTheRecordsAndNeitherDoesALocalJobAtTheSite) {
  TappedFederation federation({"north"}, 2);
  const Status provisioned = federation.Provision();
  ASSERT_TRUE(provisioned.ok()) << provisioned.ToString();
  Begin(federation);
  if (HasFatalFailure() || IsSkipped()) return;
  const std::string output = RunLocal(federation);
  EXPECT_EQ(HearUntilItsEnd(), 0) << output << federation.Logs();
  EXPECT_TRUE(fs::exists(site(federation) / "local/run/adapter_model.safetensors"));
  // The same records, by an open file: the trainer of the job is started again with it.
  const Fd given(::open((federation.records_dir() / "north.jsonl").c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(client_->SetDataset(onshore::DatasetKind::kRecords, given.get()).ok());
  const auto status = client_->Status();
  const auto datasets = client_->Datasets();
  ASSERT_TRUE(status && datasets);
  Said(api::BytesOf(*status));
  Said(api::BytesOf(*datasets));
  federation.tap(0).LetGo();
  const auto result = federation.RunToTheEnd();
  ASSERT_TRUE(result) << result.error().ToString() << federation.Logs();
  HearTheRest();
  EXPECT_GE(events_.size(), 5u);

  auto found = federation.SearchAll();
  ASSERT_TRUE(found) << found.error().ToString();
  EXPECT_TRUE(found->hits.empty()) << Describe(found->hits);
  const auto in_api = federation.search().InBytes(said_, "the local API");
  EXPECT_TRUE(in_api.empty()) << Describe(in_api);
  const auto in_output = federation.search().InBytes(AsBytes(output), "the job's output");
  EXPECT_TRUE(in_output.empty()) << Describe(in_output);
}

// A trainer that is lost to an enemy, also as the local job: the client that handed the records
// over gets their words, and nobody else; of an event the numbers go out that the log has too.
TEST_F(SiteApi, OfALeakingTrainerItsOwnClientHearsWordsAndOthersTheLogsNumbers) {
  TappedFederation federation({"north"}, 1, fs::path(TIDEGATE_BIN_DIR) / "leaking_trainer");
  const Status provisioned = federation.Provision();
  ASSERT_TRUE(provisioned.ok()) << provisioned.ToString();
  fs::create_directories(site(federation) / "trainer");
  ASSERT_TRUE(
      WriteFileDurably(site(federation) / "trainer/plan", AsBytes(std::string("event\n"))).ok());
  Begin(federation);
  if (HasFatalFailure() || IsSkipped()) return;
  const std::string output = RunLocal(federation);
  EXPECT_EQ(HearUntilItsEnd(), 0) << output;
  EXPECT_FALSE(federation.search().InBytes(AsBytes(output), "output").empty())
      << "the control: the search does not see what is there";
  federation.tap(0).LetGo();
  const auto result = federation.RunToTheEnd();
  ASSERT_TRUE(result) << result.error().ToString() << federation.Logs();
  HearTheRest();
  const ByteSpan words = AsBytes(federation.CanaryOf("north.train.text"));
  const std::array<int64_t, 4> numbers = {static_cast<int64_t>(LoadLe64(words.data())),
                                          static_cast<int64_t>(LoadLe64(words.data() + 8)),
                                          static_cast<int64_t>(LoadLe64(words.data() + 16)), 0};
  const Bytes whole = api::BytesOf(numbers);
  EXPECT_NE(std::search(said_.begin(), said_.end(), whole.begin(), whole.end()), said_.end())
      << "its event came, and the number that no text names did not";
  const auto found = federation.SearchAll();
  ASSERT_TRUE(found) << found.error().ToString();
  EXPECT_TRUE(found->hits.empty()) << Describe(found->hits);
  // As in the log, but as bytes: the control that the search sees what the API says.
  const auto in_api = federation.search().InBytes(said_, "the local API");
  // Once or more often: what was found is what counts.
  ASSERT_FALSE(in_api.empty());
  for (const auto& hit : in_api) EXPECT_EQ(hit.canary, "north.train.text") << Describe(in_api);
}

}  // namespace
}  // namespace tidegate::canary
