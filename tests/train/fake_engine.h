// A small differentiable stand-in for the transformer: one linear unit whose features are a hash of
// the token before the target. Its gradients depend on the parameters, the batch and the dropout
// key, so a wrong window, order, key or denominator changes bits.
#pragma once

#include <cmath>
#include <vector>

#include "base/rng.h"
#include "model/transformer.h"

namespace tidegate::train {

class FakeEngine final : public model::Engine {
 public:
  explicit FakeEngine(size_t parameters, double dropout = 0.0)
      : parameters_(parameters), sums_(parameters), dropout_(dropout) {}

  void SetParameters(std::span<const float> parameters) override {
    parameters_.assign(parameters.begin(), parameters.end());
  }

  Result<model::LossSum> ForwardBackward(const tokens::PackedBatch& batch, uint64_t seed,
                                         uint32_t micro_step) override {
    ++forward_backward_calls;
    seen.insert(seen.end(), batch.sequence_indices.begin(), batch.sequence_indices.end());
    return Run(batch, [&](size_t t, std::span<const double> x, double error) {
      for (size_t i = 0; i < x.size(); ++i) {
        const auto word = RandomWords(seed, RngPurpose::kDropout, micro_step, t * 64 + i)[0];
        if (dropout_ > 0 && UniformFloat(word) < dropout_) continue;
        sums_[i] += poison ? NAN : error * x[i];
      }
    });
  }

  void TakeGradients(double factor, std::span<float> out) override {
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = factor == 0 ? 0.0f : static_cast<float>(sums_[i] * factor);
      sums_[i] = 0;
    }
  }

  Result<model::LossSum> Evaluate(const tokens::PackedBatch& batch) override {
    return Run(batch, [](size_t, std::span<const double>, double) {});
  }
  Result<std::vector<double>> TokenLosses(const tokens::PackedBatch&) override {
    return Unsupported("not needed by these tests");
  }
  model::KvCache NewCache() const override { return {model::ModelConfig(), kernels::DType::kF32}; }
  Result<std::span<float>> Append(model::KvCache&, std::span<const int32_t>) override {
    return Unsupported("not needed by these tests");
  }
  Result<std::span<float>> Step(std::span<model::KvCache* const>,
                                std::span<const int32_t>) override {
    return Unsupported("not needed by these tests");
  }

  int forward_backward_calls = 0;
  bool poison = false;
  std::vector<uint32_t> seen;  // sequences in the order they were trained on

 private:
  template <typename Visit>
  model::LossSum Run(const tokens::PackedBatch& batch, Visit visit) {
    model::LossSum sum;
    std::vector<double> x(parameters_.size());
    for (size_t t = 0; t < batch.targets.size(); ++t) {
      if (batch.targets[t] < 0) continue;
      double predicted = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        const auto word = RandomWords(7, RngPurpose::kTest, static_cast<uint32_t>(batch.ids[t]), i);
        x[i] = UniformFloat(word[0]) - 0.5;
        predicted += x[i] * static_cast<double>(parameters_[i]);
      }
      const double error = predicted - 0.1 * batch.targets[t];
      sum.loss += 0.5 * error * error;
      ++sum.targets;
      visit(t, x, error);
    }
    return sum;
  }

  std::vector<float> parameters_;
  std::vector<double> sums_;
  double dropout_;
};

// `count` sequences of ragged lengths, every token after the first a target.
inline std::vector<tokens::TokenSequence> RaggedSequences(uint32_t count) {
  std::vector<tokens::TokenSequence> out(count);
  for (uint32_t s = 0; s < count; ++s) {
    const uint32_t length = 2 + UniformBelow(RandomWords(11, RngPurpose::kTest, 0, s)[0], 9);
    for (uint32_t i = 0; i < length; ++i) {
      const auto word = RandomWords(12, RngPurpose::kTest, s, i)[0];
      out[s].ids.push_back(static_cast<int32_t>(UniformBelow(word, 50)));
      out[s].loss_mask.push_back(i > 0);
    }
  }
  return out;
}

inline std::vector<float> SomeParameters(size_t count) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) {
    out[i] = UniformFloat(RandomWords(13, RngPurpose::kTest, 0, i)[0]) - 0.5f;
  }
  return out;
}

}  // namespace tidegate::train
