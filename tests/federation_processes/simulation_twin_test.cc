// One job definition, played twice: by the processes of a federation, with keys, walls, gates and
// the wire between them, and by `tidegate simulate` in one process. The versions have the same
// bits.
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/subprocess.h"
#include "books.h"
#include "federation.h"
#include "model/adapter.h"

namespace tidegate::federation_processes {
namespace {

class SimulationTwin : public testing::TestWithParam<const char*> {};

TEST_P(SimulationTwin, EndsWithTheFederationsAdapterBitForBit) {
  Federation federation({{.name = "north"}, {.name = "south", .heldout = true}},
                        {fmt::format("rounds = 3\ndeadline_seconds = 600\n{}", GetParam())});
  TIDEGATE_RUNS(federation, federation.Provision());
  TIDEGATE_RUNS(federation, federation.Begin());
  TIDEGATE_RUNS(federation, federation.RunToTheEnd(kJobMillis));
  ASSERT_TRUE(federation.Stop().ok());
  const auto books = ReadCoordinator(federation.poc().coordinator_dir());
  ASSERT_TRUE(books.has_value()) << books.error().ToString();

  // The job file as poc wrote it, and the records as the sites have them.
  const std::filesystem::path out = federation.dir() / "simulated";
  std::vector<std::string> command = {TIDEGATE_BIN_DIR "/tidegate",
                                      "simulate",
                                      (federation.dir() / "poc.toml").native(),
                                      "--dtype",
                                      "f32",
                                      "--out",
                                      out.native(),
                                      "--format",
                                      "json"};
  for (size_t site : {0u, 1u}) {
    command.insert(command.end(), {"--site", fmt::format("{}={}", site == 0 ? "north" : "south",
                                                         federation.records(site).native())});
  }
  const auto printed = RunCommandOk(command, static_cast<int>(kJobMillis));
  ASSERT_TRUE(printed.has_value()) << printed.error().ToString();
  const auto base = model::LoadHfConfig(TinyBase() / "config.json");
  ASSERT_TRUE(base.has_value());
  const auto adapter = model::LoadPeft(out / "adapter", *base);
  ASSERT_TRUE(adapter.has_value()) << adapter.error().ToString();
  const auto& last = books->Final();
  ASSERT_EQ(adapter->parameters().size(), last.size());
  EXPECT_TRUE(std::equal(last.begin(), last.end(), adapter->parameters().begin()));
  EXPECT_NE(last, books->parameters[0]);
}

INSTANTIATE_TEST_SUITE_P(
    Jobs, SimulationTwin,
    testing::Values("weighting = \"tokens\"\n",
                    "strategy = \"rolora\"\nserver_optimizer = \"fedadam\"\nproximal_mu = 0.01\n"));

}  // namespace
}  // namespace tidegate::federation_processes
