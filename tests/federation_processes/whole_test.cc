// A job of two sites that nobody disturbs.
#include <gtest/gtest.h>

#include <csignal>

#include "books.h"
#include "federation.h"
#include "model/adapter.h"
#include "model/config.h"

namespace tidegate::federation_processes {
namespace {

TEST(WholeFederation, AJobOfTwoSitesEndsWithOneAdapterAndEachExportOnce) {
  Federation federation({{.name = "north", .heldout = true}, {.name = "south"}},
                        {.keys = "rounds = 3\ndeadline_seconds = 600\n"});
  TIDEGATE_RUNS(federation, federation.Provision());
  TIDEGATE_RUNS(federation, federation.Begin());
  TIDEGATE_RUNS(federation, federation.RunToTheEnd(kJobMillis));
  const auto result = federation.poc().Collect();
  ASSERT_TRUE(result.has_value()) << result.error().ToString() << federation.Logs();
  ASSERT_TRUE(federation.Stop().ok());

  const auto coordinator = ReadCoordinator(federation.poc().coordinator_dir());
  ASSERT_TRUE(coordinator.has_value()) << coordinator.error().ToString();
  ASSERT_EQ(coordinator->versions.size(), 4u);
  EXPECT_EQ(coordinator->equivocations, 0u);
  for (size_t version = 1; version < 4; ++version) {
    EXPECT_NE(coordinator->parameters[version], coordinator->parameters[version - 1]);
    EXPECT_EQ(coordinator->versions[version].final, version == 3);
  }
  for (size_t i = 0; i < 2; ++i) {
    const std::string& name = result->sites[i].name;
    const auto books = ReadSite(federation.poc().site_dir(i));
    ASSERT_TRUE(books.has_value()) << books.error().ToString();
    EXPECT_EQ(coordinator->Counted(name), (std::vector<uint32_t>{1, 2, 3}));
    ExpectExactlyOnce(*coordinator, *books, name, {1, 2, 3});
    ExpectFinalAdapter(*coordinator, *books, name);
    EXPECT_EQ(books->adapters.size(), 4u) << name << ": versions 0 to 3, each once";
    EXPECT_TRUE(result->sites[i].ledger_verified) << name;
    EXPECT_EQ(result->sites[i].exports, 3);
  }
  // What the operator exports is that adapter, as PEFT reads it.
  const auto base = model::LoadHfConfig(TinyBase() / "config.json");
  ASSERT_TRUE(base.has_value());
  const auto exported = model::LoadPeft(result->adapter, *base);
  ASSERT_TRUE(exported.has_value()) << exported.error().ToString();
  const auto parameters = exported->parameters();
  EXPECT_EQ(std::vector<float>(parameters.begin(), parameters.end()), coordinator->Final());
  // The site with held-out records keeps the best one it has seen.
  EXPECT_TRUE(
      model::LoadPeft(federation.poc().site_dir(0) / "trainer" / "adapter", *base).has_value());
}

}  // namespace
}  // namespace tidegate::federation_processes
