// Canaries in the records of a federation: after its job they are in the records and nowhere else.
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/canary/tapped_federation.h"

namespace tidegate::canary {
namespace {

namespace fs = std::filesystem;

std::set<std::string> NamesOf(const std::vector<Hit>& hits, const std::string& encoding) {
  std::set<std::string> names;
  for (const Hit& hit : hits) {
    if (hit.encoding == encoding) names.insert(hit.canary);
  }
  return names;
}

uint64_t BytesOf(const WireTap& tap, const std::string& direction) {
  uint64_t bytes = 0;
  for (const WireTap::Stream& stream : tap.Captured()) {
    if (stream.name.ends_with(direction)) bytes += stream.bytes.size();
  }
  return bytes;
}

// While a sealed update waits in the spool of each site.
void SearchTheSpools(TappedFederation& federation) {
  for (size_t i = 0; i < 2; ++i) {
    const auto found = federation.search().InTree(federation.poc().site_dir(i) / "gate" / "spool");
    ASSERT_TRUE(found) << found.error().ToString();
    EXPECT_GE(found->files, 1u) << "no update was in the spool";
    EXPECT_GE(found->bytes, 16'000u);
    EXPECT_TRUE(found->hits.empty()) << Describe(found->hits);
  }
}

TEST(Canaries, OfAFederationAreInTheRecordsAndNowhereElse) {
  TappedFederation federation({"north", "south"}, 2);
  const Status provisioned = federation.Provision();
  ASSERT_TRUE(provisioned.ok()) << provisioned.ToString();
  std::set<std::string> planted;
  for (const Planted& canary : federation.planted()) planted.insert(canary.name);
  const auto in_records = federation.search().InTree(federation.records_dir());
  ASSERT_TRUE(in_records) << in_records.error().ToString();
  EXPECT_EQ(NamesOf(in_records->hits, "text"), planted) << "the search does not see what is there";

  // More than what is said before the update goes out, less than the update.
  for (size_t i = 0; i < 2; ++i) federation.tap(i).HoldAfter(24'000);
  CANARY_RUNS(federation, federation.Begin());
  CANARY_RUNS(federation, federation.RunUntil(
                              [&federation] {
                                return federation.SiteLogHas(0, "update_released") &&
                                       federation.SiteLogHas(1, "update_released");
                              },
                              "an update of each site"));
  ASSERT_NO_FATAL_FAILURE(SearchTheSpools(federation));
  for (size_t i = 0; i < 2; ++i) federation.tap(i).LetGo();

  const auto result = federation.RunToTheEnd();
  ASSERT_TRUE(result) << result.error().ToString() << federation.Logs();
  for (size_t i = 0; i < 2; ++i) {
    const cli::PocSiteResult& site = result->sites[i];
    EXPECT_EQ(site.exports, 2);
    EXPECT_TRUE(fs::exists(site.dir / "trainer" / "adapter" / "adapter_model.safetensors"));
    EXPECT_GE(BytesOf(federation.tap(i), "from the site"), static_cast<uint64_t>(site.bytes_out))
        << "the updates did not go through the tap";
    EXPECT_GE(BytesOf(federation.tap(i), "to the site"), 3u * 64'000) << "nor did the adapters";
  }
  const auto found = federation.SearchAll();
  ASSERT_TRUE(found) << found.error().ToString();
  EXPECT_TRUE(found->hits.empty()) << Describe(found->hits);
  EXPECT_GE(found->files, 50u);
  EXPECT_GE(found->bytes, 1'000'000u);
}

}  // namespace
}  // namespace tidegate::canary
