#include <cmath>

#include "base/rng.h"
#include "conformance.h"

namespace tidegate::kernels {
namespace {

struct DropoutCase {
  double p;
  DropoutKey key;
  Values x, dx;
};

Op Forward(const DropoutCase& c) {
  return [&c](OpRun& run) {
    run.table().dropout_forward(run.context(), {static_cast<int64_t>(c.x.size()), c.p, c.key,
                                                run.In(c.x), run.Out("y", c.x.size())});
  };
}

Op Backward(const DropoutCase& c) {
  return [&c](OpRun& run) {
    run.table().dropout_backward(run.context(), {static_cast<int64_t>(c.x.size()), c.p, c.key,
                                                 run.In(c.x), run.Out("dx", c.dx)});
  };
}

TEST(Dropout, AgreesWithTheReference) {
  const DropoutKey key{0x0123456789abcdefu, 77, 9};
  for (const size_t count : {17, 31, 33, 1001, 70003}) {
    if (TooLargeHere(1e3 * static_cast<double>(count))) continue;
    for (const double p : {0.0, 0.05, 0.5}) {
      const DropoutCase c{p, key, Random(1, count), Random(2, count)};
      Conform("dropout", Forward(c));
      Conform("dropout gradient", Backward(c));
    }
  }
}

// The answers of the generator's authors for counter 0, key 0: a share of exactly word/2^32 keeps
// the element, the next larger one drops it.
TEST(Dropout, MaskIsThePublishedPhilox) {
  const uint32_t words[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  for (const KernelTable* table : AllTables()) {
    for (size_t i = 0; i < 4; ++i) {
      for (const uint32_t more : {0u, 1u}) {
        const double p = (static_cast<double>(words[i]) + more) * 0x1p-32;
        const DropoutCase c{p, {0, 0, 0}, Values(4, 1), {}};
        OpRun run(*table, table->dtype, 1);
        Forward(c)(run);
        const double y = run.Finish().at("y").values()[i];
        if (more == 1) {
          EXPECT_EQ(y, 0) << NameOf(*table) << i;
        } else {
          EXPECT_NEAR(y, 1 / (1 - p), 0.01 / (1 - p)) << NameOf(*table) << i;
        }
      }
    }
  }
}

TEST(Dropout, MaskUsesEveryPartOfTheKey) {
  const DropoutKey key{0x9876543210fedcbau, 3, 4};
  const size_t count = 5000;
  const DropoutCase c{0.25, key, Values(count, 1), {}};
  const Values y = OnReference(Forward(c)).at("y");
  size_t kept = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto words =
        Philox({static_cast<uint32_t>(i / 4), 0, key.step, key.stream},
               {static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32)});
    EXPECT_EQ(y[i] != 0, words[i % 4] >= 0x40000000u);
    kept += y[i] != 0;
  }
  EXPECT_NEAR(static_cast<double>(kept) / static_cast<double>(count), 0.75, 0.03);
  for (const DropoutKey& other :
       {DropoutKey{key.seed + 1, 3, 4}, DropoutKey{key.seed ^ (uint64_t{1} << 63), 3, 4},
        DropoutKey{key.seed, 4, 4}, DropoutKey{key.seed, 3, 5}}) {
    const DropoutCase d{0.25, other, Values(count, 1), {}};
    EXPECT_NE(OnReference(Forward(d)).at("y"), y);
  }
}

TEST(Dropout, AShareNextToOneDropsEverything) {
  const DropoutCase c{std::nextafter(1.0, 0.0), {1, 2, 3}, Values(1000, 1), Values(1000, 5)};
  for (const KernelTable* table : AllTables()) {
    OpRun forward(*table, table->dtype, 2), backward(*table, table->dtype, 2);
    Forward(c)(forward);
    Backward(c)(backward);
    EXPECT_EQ(forward.Finish().at("y").values(), Values(1000, 0)) << NameOf(*table);
    EXPECT_EQ(backward.Finish().at("dx").values(), c.dx) << NameOf(*table);
  }
}

}  // namespace
}  // namespace tidegate::kernels
