#include "kernels/geglu.h"

#include <cmath>

#include "conformance.h"

namespace tidegate::kernels {
namespace {

struct GegluCase {
  Values gate, up, dact;
};

Op ForwardOf(const GegluCase& c) {
  return [&c](OpRun& run) {
    const int64_t count = static_cast<int64_t>(c.gate.size());
    run.table().geglu_forward(run.context(),
                              {count, run.In(c.gate), run.In(c.up), run.Out("act", c.gate.size())});
  };
}

Op BackwardOf(const GegluCase& c, bool with_act) {
  return [&c, with_act](OpRun& run) {
    const size_t count = c.gate.size();
    run.table().geglu_backward(
        run.context(), {static_cast<int64_t>(count), run.In(c.gate), run.In(c.up), run.In(c.dact),
                        run.Out("dgate", count), run.Out("dup", count),
                        with_act ? run.Out("act", count) : nullptr});
  };
}

TEST(Geglu, AgreesWithTheReference) {
  for (const size_t count : {1, 17, 1000, 40007}) {
    if (TooLargeHere(1e3 * static_cast<double>(count))) continue;
    const GegluCase c{Random(1, count, 6), Random(2, count), Random(3, count)};
    const std::string size = std::to_string(count);
    Conform("geglu " + size, ForwardOf(c));
    Conform("geglu gradient " + size, BackwardOf(c, false));
    Conform("geglu gradient with act " + size, BackwardOf(c, true));
  }
}

TEST(Geglu, ReferenceGradientsAreTheSlopes) {
  const GegluCase c{Random(1, 20, 4), Random(2, 20), Random(3, 20)};
  const auto gradients = OnReference(BackwardOf(c, true));
  const auto loss_of = [&c](Values GegluCase::*member) {
    return [&c, member](const Values& at) {
      GegluCase moved = c;
      moved.*member = at;
      return Dot(c.dact, OnReference(ForwardOf(moved)).at("act"));
    };
  };
  ExpectGradient("dgate", c.gate, loss_of(&GegluCase::gate), gradients.at("dgate"));
  ExpectGradient("dup", c.up, loss_of(&GegluCase::up), gradients.at("dup"));
  EXPECT_EQ(gradients.at("act"), OnReference(ForwardOf(c)).at("act"));
}

// torch.nn.functional.gelu(x, approximate="tanh") in double.
TEST(Geglu, IsTheTanhFormOfTorch) {
  const GegluCase c{{-3, -1, -0.5, 0, 0.5, 1, 3}, Values(7, 1), {}};
  const Values want = {-0.00363739208, -0.15880800939, -0.15428599017, 0,
                       0.34571400983,  0.84119199061,  2.99636260792};
  const Values got = OnReference(ForwardOf(c)).at("act");
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-10);
}

TEST(Geglu, ExtremeGatesStayFiniteAndNaNStaysNaN) {
  const GegluCase c{{-1e30, -1000, 0, 1000, 1e30, std::nan("")}, Values(6, 1), Values(6, 1)};
  for (const KernelTable* table : FastTables()) {
    OpRun run(*table, table->dtype, 1);
    BackwardOf(c, true)(run);
    for (const auto& [name, output] : run.Finish()) {
      const Values values = output.values();
      for (size_t i = 0; i < 5; ++i) EXPECT_TRUE(std::isfinite(values[i])) << name << i;
      EXPECT_TRUE(std::isnan(values[5])) << name << " on " << NameOf(*table);
    }
    EXPECT_EQ(run.Finish().at("act").values()[3], 1000);
  }
}

}  // namespace
}  // namespace tidegate::kernels
