// How large a job may be; what else a job file may say is tried by tests/offshore and tests/fuzz.
#include "federation/job/job_file.h"

#include <gtest/gtest.h>

#include "base/file.h"

namespace tidegate::federation {
namespace {

Result<NewJobFiles> Make(size_t sites, const std::string& lines) {
  JobSource source;
  source.file = "job.toml";
  source.text = "base = \"b\"\n" + lines;
  source.model_config =
      ReadTextFile(std::string(TIDEGATE_SOURCE_DIR) + "/tests/golden/tiny_llama/config.json",
                   1 << 20)
          .value();
  std::vector<std::string> names;
  for (size_t i = 0; i < sites; ++i) names.push_back(fmt::format("site-{:04}", i));
  return MakeJob(source, {}, names, 0);
}

TEST(JobFile, AJobOfAsManySitesAsAFederationHasIsMadeAndOneMoreIsRefused) {
  const auto job = Make(protocols::kMaxSites, "");
  ASSERT_TRUE(job.has_value()) << job.error().ToString();
  EXPECT_EQ(job->manifest.quorum, protocols::kMaxSites);
  const auto more = Make(protocols::kMaxSites + 1, "");
  ASSERT_FALSE(more.has_value());
  EXPECT_EQ(more.error().code(), Code::kResourceExhausted) << more.error().ToString();
}

TEST(JobFile, TheWeightsOfARoundAreTogetherWhatASumTakes) {
  const std::string heaviest = "weighting = \"tokens\"\nmax_weight = 65536\n";
  EXPECT_TRUE(Make(256, heaviest).has_value());
  const auto heavy = Make(257, heaviest);
  ASSERT_FALSE(heavy.has_value());
  EXPECT_NE(heavy.error().message().find("max_weight 65536 of 257 sites"), std::string::npos)
      << heavy.error().message();
  EXPECT_TRUE(Make(257, heaviest + "sites_per_round = 256\n").has_value());
  EXPECT_TRUE(Make(1024, "weighting = \"tokens\"\n").has_value()) << "the default";
  EXPECT_TRUE(Make(1024, "max_weight = 65536\n").has_value()) << "each counts as one";
}

}  // namespace
}  // namespace tidegate::federation
