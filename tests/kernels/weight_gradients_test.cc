#include "kernels/weight_gradients.h"

#include <cmath>

#include "conformance.h"

namespace tidegate::kernels {
namespace {

size_t Count(int64_t a, int64_t b) { return static_cast<size_t>(a * b); }

struct Shape {
  int64_t m, n, k;
};

// Nothing whole in vectors, more rows than one product takes, more columns than a thread's share,
// more words and more rows than a tile of a GPU's head.
const std::vector<Shape> kShapes = {{1, 1, 1},    {3, 7, 33},   {70, 65, 130}, {600, 30, 48},
                                    {9, 700, 96}, {5, 4100, 8}, {2051, 9, 8}};

std::string Describe(const char* op, const Shape& s) {
  return std::string(op) + " " + std::to_string(s.m) + "x" + std::to_string(s.n) + "x" +
         std::to_string(s.k);
}

TEST(WeightGradients, OfLinearLayersAgreeWithTheReference) {
  for (const Shape& s : kShapes) {
    if (TooLargeHere(static_cast<double>(s.m * s.m))) continue;
    const Values x = Random(1, Count(s.m, s.k)), dy = Random(2, Count(s.m, s.n));
    const Values dw = Random(3, Count(s.n, s.k)), db = Random(4, Count(1, s.n));
    for (const bool biased : {false, true}) {
      Conform(Describe(biased ? "linear with bias" : "linear", s), [&](OpRun& run) {
        run.table().linear_gradient(run.context(),
                                    {s.m, s.n, s.k, run.In(x), run.In(dy), run.OutGrad("dw", dw),
                                     biased ? run.OutGrad("db", db) : nullptr});
      });
    }
  }
}

TEST(WeightGradients, OfNormsAgreeWithTheReference) {
  for (const Shape& s : kShapes) {
    if (TooLargeHere(static_cast<double>(s.m * s.m))) continue;
    const Values x = Random(1, Count(s.m, s.k)), dy = Random(2, Count(s.m, s.k));
    Values rstd = Random(3, Count(1, s.m));
    for (double& value : rstd) value = 1 + 0.5 * value;
    Conform(Describe("norm", s), [&](OpRun& run) {
      run.table().rmsnorm_gradient(run.context(),
                                   {s.m, s.k, run.In(x), run.InGrad(rstd), run.In(dy),
                                    run.OutGrad("dw", Random(4, Count(1, s.k)))});
    });
  }
}

std::vector<int32_t> Ids(int64_t count, int64_t vocab) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((i * i + 3 * i) % vocab));
  return ids;
}

// Ids repeat: their rows add up.
TEST(WeightGradients, OfEmbeddingsAgreeWithTheReference) {
  for (const Shape& s : kShapes) {
    if (TooLargeHere(static_cast<double>(s.m * s.m))) continue;
    const auto ids = Ids(s.m, s.n);
    Conform(Describe("embedding", s), [&](OpRun& run) {
      run.table().embedding_gradient(run.context(),
                                     {s.m, s.k, run.InIds(ids), run.In(Random(1, Count(s.m, s.k))),
                                      run.OutGrad("dtable", Random(2, Count(s.n, s.k)))});
    });
  }
}

struct HeadCase {
  Shape shape;
  Values h, w;
  std::vector<int32_t> targets;
  std::vector<float> weights;
};

HeadCase MakeHeadCase(const Shape& s) {
  HeadCase c{s, Random(1, Count(s.m, s.k)), Random(2, Count(s.n, s.k), 0.5), Ids(s.m, s.n), {}};
  for (int64_t i = 0; i < s.m; ++i) c.weights.push_back(0.25f * static_cast<float>(i % 5));
  return c;
}

Op HeadGradientOf(const HeadCase& c, bool weighted) {
  return [&c, weighted](OpRun& run) {
    const auto& [m, n, k] = c.shape;
    const float* weights = weighted ? run.InFloats(c.weights) : nullptr;
    const int32_t* targets = run.InIds(c.targets);
    const PreparedWeights* w = run.Weights(c.w, n, k);
    const void* h = run.In(c.h);
    void* lse = run.OutGrad("lse", Count(1, m));
    run.table().head_loss(
        run.context(), {w, m, h, targets, weights, run.OutGrad("loss", Count(1, m)), nullptr, lse});
    run.table().head_gradient(run.context(), {w, m, h, targets, weights, lse,
                                              run.OutGrad("dw", Values(Count(n, k), 0.0))});
  };
}

TEST(WeightGradients, OfTheHeadAgreeWithTheReference) {
  for (const Shape& s : kShapes) {
    if (TooLargeHere(static_cast<double>(s.m * s.m))) continue;
    if (s.n == 1) continue;  // one word alone is certain: there is no slope
    const HeadCase c = MakeHeadCase(s);
    Conform(Describe("head", s), HeadGradientOf(c, false));
    if (s.m > 1) Conform(Describe("weighted head", s), HeadGradientOf(c, true));
  }
}

TEST(WeightGradients, OfTheHeadAreTheLossesSlope) {
  const HeadCase c = MakeHeadCase({5, 11, 6});
  const auto loss = [&c](const Values& w) {
    HeadCase moved = c;
    moved.w = w;
    const Values losses = OnReference(HeadGradientOf(moved, true)).at("loss");
    double sum = 0;
    for (size_t i = 0; i < losses.size(); ++i) {
      sum += static_cast<double>(c.weights[i]) * losses[i];
    }
    return sum;
  };
  ExpectGradient("dw", c.w, loss, OnReference(HeadGradientOf(c, true)).at("dw"));
}

TEST(WeightGradients, OfLinearLayersAreTheProductsSlope) {
  const Shape s{4, 3, 5};
  const Values x = Random(1, 20), w = Random(2, 15), dy = Random(3, 12);
  const auto loss = [&](const Values& moved) {
    const Values y =
        OnReference([&](OpRun& run) {
          run.table().linear_forward(run.context(), {run.Weights(moved, s.n, s.k), s.m, run.In(x),
                                                     nullptr, run.Out("y", Count(s.m, s.n))});
        }).at("y");
    return Dot(y, dy);
  };
  const Values dw =
      OnReference([&](OpRun& run) {
        run.table().linear_gradient(run.context(), {s.m, s.n, s.k, run.In(x), run.In(dy),
                                                    run.OutGrad("dw", Values(15, 0.0)), nullptr});
      }).at("dw");
  ExpectGradient("dw", w, loss, dw);
}

}  // namespace
}  // namespace tidegate::kernels
