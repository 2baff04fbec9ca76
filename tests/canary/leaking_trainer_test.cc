// A trainer that is lost to an enemy, as a control: what it tries is refused by its walls or by the
// gate, or seen by the search; and what is not prevented is said.
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <cmath>
#include <map>

#include "base/file.h"
#include "base/json.h"
#include "base/subprocess.h"
#include "tensor/safetensors.h"
#include "tests/canary/smuggled_updates.h"
#include "tests/canary/tapped_federation.h"

namespace tidegate::canary {
namespace {

namespace fs = std::filesystem;
using Lines = std::map<std::string, std::string>;

const fs::path kTrainer = fs::path(TIDEGATE_BIN_DIR) / "leaking_trainer";

Lines ReadReport(const fs::path& file) {
  const std::string text = ReadTextFile(file, 1 << 20).value_or("");
  Lines lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    const std::string line = text.substr(at, end - at);
    const size_t colon = line.find(": ");
    lines[line.substr(0, colon)] = line.substr(colon + 2);
    at = end + 1;
  }
  return lines;
}

std::set<std::string> PlacesOf(const std::vector<Hit>& hits) {
  std::set<std::string> places;
  for (const Hit& hit : hits) places.insert(hit.where);
  return places;
}

// What was sent before may still be on its way through the tap.
bool SeenOnTheWire(const Search& search, const WireTap& tap) {
  constexpr int kTries = 1000, kTryMillis = 10;
  for (int i = 0; i < kTries; ++i) {
    for (const WireTap::Stream& stream : tap.Captured()) {
      if (!search.InBytes(stream.bytes, stream.name).empty()) return true;
    }
    ::poll(nullptr, 0, kTryMillis);
  }
  return false;
}

class LeakingTrainer : public ::testing::Test {
 protected:
  void SetUp() override {
    const Status provisioned = federation_.Provision();
    ASSERT_TRUE(provisioned.ok()) << provisioned.ToString();
    fs::create_directory(site() / "trainer");
  }
  void WritePlan(const std::string& plan) {
    ASSERT_TRUE(WriteFileDurably(site() / "trainer" / "plan", AsBytes(plan)).ok());
  }
  // Whether the job has ended; else the test is skipped or has failed.
  bool Ran(const std::string& plan) {
    Run(plan);
    return !HasFatalFailure() && !IsSkipped();
  }
  void Run(const std::string& plan) {
    ASSERT_NO_FATAL_FAILURE(WritePlan(plan));
    CANARY_RUNS(federation_, federation_.Begin());
    auto result = federation_.RunToTheEnd();
    CANARY_RUNS(federation_, result ? OkStatus() : result.error());
    result_ = std::move(*result);
    EXPECT_EQ(result_.sites[0].exports, 1);
    EXPECT_TRUE(result_.sites[0].ledger_verified);
  }
  fs::path site() const { return federation_.root() / "poc" / "north"; }
  Lines Reported() const { return ReadReport(site() / "trainer" / "report"); }
  std::vector<Hit> Hits() const {
    const auto found = federation_.SearchAll();
    EXPECT_TRUE(found) << found.error().ToString();
    return found ? found->hits : std::vector<Hit>{};
  }

  TappedFederation federation_{{"north"}, 1, kTrainer};
  cli::PocResult result_;
};

// Nothing else than the walls stands between this trainer and what the search finds.
TEST(LeakingTrainerWithoutWalls, IsSeenInAFileOnASocketAndInItsOutput) {
  const TempFolder folder("loose");
  const auto planted =
      PlantRecords("north", folder.path() / "records.jsonl", folder.path() / "heldout.jsonl");
  ASSERT_TRUE(planted) << planted.error().ToString();
  auto search = TinySearch();
  ASSERT_TRUE(search) << search.error().ToString();
  for (const Planted& canary : *planted) ASSERT_TRUE(search->Add(canary.name, canary.text).ok());
  auto bell = Doorbell::Make();
  ASSERT_TRUE(bell) << bell.error().ToString();
  const auto tap = WireTap::Start(bell->port());
  ASSERT_TRUE(tap) << tap.error().ToString();
  const fs::path leak = folder.path() / "leak", plan = folder.path() / "plan";
  const std::string text = fmt::format("write {}\ndial {}\nwords\n", leak.native(), (*tap)->port());
  ASSERT_TRUE(WriteFileDurably(plan, AsBytes(text)).ok());
  const auto ran =
      RunCommand({kTrainer.native(), "loose", "--records", folder.path() / "records.jsonl",
                  "--plan", plan.native(), "--report", folder.path() / "report"},
                 60'000);
  ASSERT_TRUE(ran) << ran.error().ToString();
  EXPECT_EQ(ran->exit_code, 0) << ran->errors;
  const auto in_files = search->InTree(
      folder.path(), {folder.path() / "records.jsonl", folder.path() / "heldout.jsonl"});
  ASSERT_TRUE(in_files) << in_files.error().ToString();
  EXPECT_EQ(PlacesOf(in_files->hits), std::set<std::string>{leak.native()});
  EXPECT_FALSE(search->InBytes(AsBytes(ran->output), "output").empty());
  EXPECT_FALSE(search->InBytes(AsBytes(ran->errors), "errors").empty());
  EXPECT_TRUE(SeenOnTheWire(*search, **tap));
  EXPECT_EQ(bell->Rings(), 1);
  EXPECT_EQ(ReadReport(folder.path() / "report")["dial"], "done");
}

TEST_F(LeakingTrainer, ReachesNoFileAndNoLogThroughItsWalls) {
  const std::string name = "leak-" + federation_.root().filename().native();
  std::vector<fs::path> others = {"/tmp",
                                  "/var/tmp",
                                  "/dev/shm",
                                  federation_.records_dir(),
                                  federation_.poc().coordinator_dir(),
                                  site(),
                                  site() / "keys"};
  fs::create_directories(site() / "gate" / "spool");
  others.push_back(site() / "gate" / "spool");
  std::string plan = "pair\nwords\n";
  Lines expected;
  std::erase_if(others, [](const fs::path& folder) { return !fs::is_directory(folder); });
  for (const fs::path& folder : others) {
    plan += fmt::format("write {}\n", (folder / name).native());
    expected["write " + (folder / name).native()] = "EACCES";
  }
  // A file that is there and may be read: the records themselves.
  const fs::path records = federation_.records_dir() / "north.jsonl";
  plan += fmt::format("write {}\n", records.native());
  expected["write " + records.native()] = "EACCES";
  if (!Ran(plan)) return;
  expected["pair"] = "EPERM";
  // They are /dev/null.
  expected["words"] = "done";
  expected["update of no words"] = "released";
  EXPECT_EQ(Reported(), expected);
  for (const fs::path& folder : others) EXPECT_FALSE(fs::exists(folder / name)) << folder;
  const std::vector<Hit> hits = Hits();
  EXPECT_TRUE(hits.empty()) << Describe(hits);
}

TEST_F(LeakingTrainer, GetsNoWordsPastTheGateInAnyFieldOfAnUpdate) {
  if (!Ran("refused\n")) return;
  const Lines rules = {{"the words alone", "encoding: an update is shorter than its header"},
                       {"after the last tensor", "encoding: an update has "},
                       {"in the reserved bytes", "encoding: an update's header is not in canon"},
                       {"as another tensor", "encoding: an update's counts are not those of "},
                       {"in another codec", "encoding: an update has "},
                       {"as the site's name", "round: the update names another site"},
                       {"as the job", "round: the update is of another job"},
                       {"as the base", "round: the update is of another base"},
                       {"as other tensors' names", "round: the update is of another layout"},
                       {"as the weight", "round: weight "},
                       {"as the losses", "metrics: a loss is over 1000000 thousandths"},
                       {"as large weights", "norm: L2 norm "}};
  Lines reported = Reported();
  EXPECT_EQ(reported.size(), rules.size() + 1) << "some try was not answered";
  for (const auto& [how, rule] : rules) {
    EXPECT_TRUE(reported["update " + how].starts_with(rule))
        << how << ": " << reported["update " + how];
  }
  EXPECT_EQ(reported["update of no words"], "released");
  for (const char* rule : {"encoding", "round", "metrics", "norm"}) {
    EXPECT_NE(result_.sites[0].ledger_text.find(fmt::format("rule={}", rule)), std::string::npos)
        << result_.sites[0].ledger_text;
  }
  const std::vector<Hit> hits = Hits();
  EXPECT_TRUE(hits.empty()) << Describe(hits);
}

// What the final adapter's B tensors say when each value is an octet times kHiddenScale.
std::string OctetsOf(const fs::path& adapter) {
  const auto file = tensor::SafetensorsFile::Open(adapter / "adapter_model.safetensors");
  EXPECT_TRUE(file) << file.error().ToString();
  std::string octets;
  for (const tensor::TensorView& view : file->tensors()) {
    if (view.name.find("lora_B") == std::string::npos) continue;
    std::vector<float> values(static_cast<size_t>(view.num_elements()));
    EXPECT_TRUE(tensor::ReadFloats(view, values).ok());
    for (const float value : values) {
      octets += static_cast<char>(std::lround(value / kHiddenScale));
    }
    octets += '\n';
  }
  return octets;
}

double CapacityBits(const std::string& tidegate, const fs::path& ledger) {
  const auto text =
      RunCommandOk({tidegate, "ledger", "show", ledger.native(), "--format", "json"}, 60'000);
  EXPECT_TRUE(text) << text.error().ToString();
  const auto json = ParseStrictJson(text.value_or("{}"), {64u << 20, 64}, "ledger show");
  EXPECT_TRUE(json) << json.error().ToString();
  double bits = 0;
  for (const auto& leaf : (*json)["leaves"]) bits += leaf.value("capacity_bits", 0.0);
  return bits;
}

// SECURITY.md says so: the coordinator gets what a hostile trainer hides in the weights. Nobody
// else does, and the ledger has a bound on how much it was.
TEST_F(LeakingTrainer, CanHideWordsInWeightsFromAllButTheCoordinatorWithinTheLedgersBound) {
  if (!Ran("weights\n")) return;
  EXPECT_EQ(Reported(), (Lines{{"update in small weights", "released"}}));
  const std::string octets = OctetsOf(result_.adapter);
  EXPECT_NE(octets.find(federation_.CanaryOf("north.train.text")), std::string::npos)
      << "the gate or the coordinator has come to stop this: say so in docs/attack-classes.md";
  const double bits = CapacityBits(fs::path(TIDEGATE_BIN_DIR) / "tidegate", site() / "gate/ledger");
  EXPECT_GE(bits, std::log2(255.0) * static_cast<double>(octets.size()));
  // The integers of the update are the words themselves: sealed, they are in no spool and on no
  // wire, and the sum is stored as floats.
  const std::vector<Hit> hits = Hits();
  EXPECT_TRUE(hits.empty()) << Describe(hits);
}

// What stays at the site is not the gate's to stop; the search sees it.
TEST_F(LeakingTrainer, CanLeaveWordsInItsOwnFolderAndNumbersInTheLedgerAndLog) {
  const fs::path own = site() / "trainer" / "leak";
  if (!Ran(fmt::format("statement\nevent\nwrite {}\n", own.native()))) return;
  const std::vector<Hit> hits = Hits();
  EXPECT_EQ(PlacesOf(hits),
            (std::set<std::string>{own.native(), (site() / "gate" / "ledger").native()}))
      << Describe(hits);
  const ByteSpan words = AsBytes(federation_.CanaryOf("north.train.text"));
  EXPECT_NE(
      federation_.SiteLog(0).find(fmt::format("round_trained round={} steps={} loss_milli={}",
                                              static_cast<int64_t>(LoadLe64(words.data())),
                                              static_cast<int64_t>(LoadLe64(words.data() + 8)),
                                              static_cast<int64_t>(LoadLe64(words.data() + 16)))),
      std::string::npos)
      << federation_.SiteLog(0);
}

TEST_F(LeakingTrainer, IsEndedAtItsFirstSocketAndTheSiteWithIt) {
  auto bell = Doorbell::Make();
  ASSERT_TRUE(bell) << bell.error().ToString();
  ASSERT_NO_FATAL_FAILURE(WritePlan(fmt::format("dial {}\n", bell->port())));
  CANARY_RUNS(federation_, federation_.Begin());
  const auto ended = [this] {
    return federation_.SiteLogHas(0,
                                  "onshore_ended INTERNAL: trainer made a forbidden system call");
  };
  // The site's end may be told as an error, according to who looks first.
  const Status run = federation_.RunUntil(ended, "the end of the site");
  if (!ended()) CANARY_RUNS(federation_, run);
  ASSERT_TRUE(ended()) << federation_.Logs();
  EXPECT_EQ(Reported(), (Lines{{"dialling", "now"}}));
  EXPECT_EQ(bell->Rings(), 0);
  ASSERT_TRUE(federation_.poc().Stop().ok());
  const std::vector<Hit> hits = Hits();
  EXPECT_TRUE(hits.empty()) << Describe(hits);
}

}  // namespace
}  // namespace tidegate::canary
