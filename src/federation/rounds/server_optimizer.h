// From the weighted sum of a round to the next version of the shared adapter.
//
// With Δ the mean of the updates, weighted, and θ the parameters, for each value that the round's
// phase shares (the others keep parameter and moments):
//   FedAvg             θ += η Δ
//   FedAvgM            m = β1 m + Δ;                                        θ += η m
//   FedAdam            m = β1 m + (1 − β1) Δ;  v = β2 v + (1 − β2) Δ²;      θ += η m / (√v + τ)
//   FedYogi            m likewise;  v = v − (1 − β2) Δ² sign(v − Δ²);       θ += η m / (√v + τ)
// (Reddi et al., arXiv 2003.00295, algorithm 2, without bias correction; m starts at 0, v at τ².
// FedAvgM: Hsu et al., arXiv 1909.06335.) Computed in double; θ is snapped to the parameter grid,
// m and v are kept as float32. One value at a time: memory is that of the buffers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "federation/rounds/aggregate.h"
#include "protocols/documents.h"

namespace tidegate::federation {

struct ServerRule {
  protocols::ServerOptimizer optimizer = protocols::ServerOptimizer::kFedAvg;
  double learning_rate = 1.0;
  double beta1 = 0, beta2 = 0, tau = 0;
};
ServerRule RuleOf(const protocols::JobManifest& job);
// Names the number that is out of its range, or that the optimizer does not have.
Status CheckServerRule(const ServerRule& rule);

// Which moments an optimizer has.
bool HasM(protocols::ServerOptimizer optimizer);
bool HasV(protocols::ServerOptimizer optimizer);

// What the optimizer remembers between rounds, of the whole layout; empty where it has none.
struct ServerMoments {
  std::vector<float> m, v;
  bool operator==(const ServerMoments&) const = default;
};
ServerMoments FirstMoments(const ServerRule& rule, size_t values);

// One round. `sum`: the updates times their weights in steps of 2^-32, of the whole layout (see
// aggregate.h); `groups`: bits of the layout's groups that the round shares. Moments change
// in place. On so many threads; the bits are the same for any number, and with any instruction set.
// kFailedPrecondition without an update, kInvalidArgument for sizes that differ.
Result<std::vector<float>> ServerStep(const ServerRule& rule, std::span<const float> parameters,
                                      std::span<const int64_t> sum, uint64_t total_weight,
                                      const protocols::Layout& layout, uint8_t groups,
                                      ServerMoments* moments, unsigned threads = 1);
// The same from the updates themselves, a piece at a time, without their sum in memory; errors of
// WeightedSum::Add too. `groups` are those of each update.
Result<std::vector<float>> ServerStep(const ServerRule& rule, std::span<const float> parameters,
                                      std::span<const WeightedSum::Contribution> updates,
                                      const protocols::Layout& layout, uint8_t groups,
                                      ServerMoments* moments, unsigned threads = 1);

}  // namespace tidegate::federation
