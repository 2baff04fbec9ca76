#include "federation/rounds/server_optimizer.h"

#include <algorithm>
#include <cmath>

#include "base/memory.h"
#include "federation/rounds/aggregate_add.h"
#include "federation/rounds/aggregate_threads.h"
#include "federation/shared/grid.h"

namespace tidegate::federation {
namespace {

using protocols::ServerOptimizer;

// A run of values that the round shares.
struct Slice {
  std::span<const float> parameters;
  std::span<const int64_t> sum;
  std::span<float> m, v, out;
};

// `step` gives the change of a parameter from its mean update; it may change m and v.
template <typename F>
[[gnu::always_inline]] inline void ForEach(const Slice& s, uint64_t total_weight, F&& step) {
  const auto total = static_cast<double>(total_weight);
  for (size_t i = 0; i < s.out.size(); ++i) {
    const double mean = static_cast<double>(s.sum[i]) / total * 0x1p-32;
    s.out[i] = SnapToGrid(static_cast<double>(s.parameters[i]) + step(mean, i));
  }
}

[[gnu::always_inline]] inline void StepEach(const ServerRule& rule, const Slice& s,
                                            uint64_t total_weight) {
  const double eta = rule.learning_rate, b1 = rule.beta1, b2 = rule.beta2, tau = rule.tau;
  switch (rule.optimizer) {
    case ServerOptimizer::kFedAvg:
      return ForEach(s, total_weight, [&](double d, size_t) { return eta * d; });
    case ServerOptimizer::kFedAvgM:
      return ForEach(s, total_weight, [&](double d, size_t i) {
        const double m = b1 * static_cast<double>(s.m[i]) + d;
        s.m[i] = static_cast<float>(m);
        return eta * m;
      });
    case ServerOptimizer::kFedAdam:
    case ServerOptimizer::kFedYogi:
      return ForEach(s, total_weight, [&](double d, size_t i) {
        const double m = b1 * static_cast<double>(s.m[i]) + (1 - b1) * d;
        const double old = static_cast<double>(s.v[i]), d2 = d * d;
        const double sign = old > d2 ? 1.0 : (old < d2 ? -1.0 : 0.0);
        const double v = rule.optimizer == ServerOptimizer::kFedAdam ? b2 * old + (1 - b2) * d2
                                                                     : old - (1 - b2) * d2 * sign;
        s.m[i] = static_cast<float>(m);
        s.v[i] = static_cast<float>(v);
        return eta * m / (std::sqrt(v) + tau);
      });
  }
}

// One text for each instruction set. This file is compiled without fused multiply-add, which rounds
// once where two operations round twice: the bits are the same.
[[gnu::flatten]] void StepBase(const ServerRule& rule, const Slice& s, uint64_t total_weight) {
  StepEach(rule, s, total_weight);
}

[[gnu::flatten, gnu::target("avx2,avx512f,avx512dq,avx512vl,prefer-vector-width=512")]] void
StepAvx512(const ServerRule& rule, const Slice& s, uint64_t total_weight) {
  StepEach(rule, s, total_weight);
}

void StepSlice(const ServerRule& rule, const Slice& s, uint64_t total_weight) {
  const bool wide = FastestAddLoop() == AddLoop::kAvx512;
  (wide ? StepAvx512 : StepBase)(rule, s, total_weight);
}

// Values of a slice, a task of one thread.
constexpr size_t kSliceValues = 64 * 1024;

Status OutOfRange(const char* name, double value, const char* range) {
  return InvalidArgument("{} {} is not in {}", name, value, range);
}

}  // namespace

bool HasM(ServerOptimizer optimizer) { return optimizer != ServerOptimizer::kFedAvg; }
bool HasV(ServerOptimizer optimizer) {
  return optimizer == ServerOptimizer::kFedAdam || optimizer == ServerOptimizer::kFedYogi;
}

ServerRule RuleOf(const protocols::JobManifest& job) {
  return {job.server_optimizer, job.server_learning_rate, job.server_beta1, job.server_beta2,
          job.server_tau};
}

Status CheckServerRule(const ServerRule& rule) {
  if (!(rule.learning_rate > 0 && rule.learning_rate <= 10)) {
    return OutOfRange("server_learning_rate", rule.learning_rate, "(0, 10]");
  }
  const bool has_m = HasM(rule.optimizer), has_v = HasV(rule.optimizer);
  if (has_m ? !(rule.beta1 >= 0 && rule.beta1 < 1) : rule.beta1 != 0) {
    return OutOfRange("server beta1", rule.beta1, has_m ? "[0, 1)" : "{0}: FedAvg has none");
  }
  if (has_v ? !(rule.beta2 >= 0 && rule.beta2 < 1) : rule.beta2 != 0) {
    return OutOfRange("server beta2", rule.beta2, has_v ? "[0, 1)" : "{0}: the optimizer has none");
  }
  if (has_v ? !(rule.tau >= 1e-9 && rule.tau <= 1) : rule.tau != 0) {
    return OutOfRange("server tau", rule.tau, has_v ? "[1e-9, 1]" : "{0}: the optimizer has none");
  }
  return OkStatus();
}

ServerMoments FirstMoments(const ServerRule& rule, size_t values) {
  ServerMoments moments;
  if (HasM(rule.optimizer)) moments.m.assign(values, 0.0f);
  if (HasV(rule.optimizer)) moments.v.assign(values, static_cast<float>(rule.tau * rule.tau));
  return moments;
}

Result<std::vector<float>> ServerStep(const ServerRule& rule, std::span<const float> parameters,
                                      std::span<const int64_t> sum, uint64_t total_weight,
                                      const protocols::Layout& layout, uint8_t groups,
                                      ServerMoments* moments, unsigned threads) {
  if (total_weight == 0) return FailedPrecondition("there is no update to average");
  const size_t count = parameters.size();
  if (sum.size() != count) {
    return InvalidArgument("{} parameters do not fit a sum of {}", count, sum.size());
  }
  if (moments->m.size() != (HasM(rule.optimizer) ? count : 0) ||
      moments->v.size() != (HasV(rule.optimizer) ? count : 0)) {
    return InvalidArgument("moments of {} and {} values do not fit {} parameters",
                           moments->m.size(), moments->v.size(), count);
  }
  std::vector<float> out;
  out.reserve(count);
  AdviseHugePages(out.data(), count * sizeof(float));
  out.assign(parameters.begin(), parameters.end());
  std::vector<Slice> slices;
  size_t at = 0;
  for (const protocols::LayoutTensor& t : layout.tensors.items) {
    const size_t n = static_cast<size_t>(t.rows) * t.cols;
    if (n > count - at) return InvalidArgument("a layout of more than {} values", count);
    const bool shared = (groups >> t.group & 1) != 0;
    for (size_t end = at + n; at < end;) {
      const size_t step = std::min(kSliceValues, end - at);
      const auto part = [&](auto& values) {
        return std::span(values).subspan(values.empty() ? 0 : at, values.empty() ? 0 : step);
      };
      if (shared) {
        slices.push_back({parameters.subspan(at, step), sum.subspan(at, step), part(moments->m),
                          part(moments->v), part(out)});
      }
      at += step;
    }
  }
  if (at != count) return InvalidArgument("a layout of {} values for {} parameters", at, count);
  OnThreads(threads, slices.size(), [&](size_t i) { StepSlice(rule, slices[i], total_weight); });
  return out;
}

}  // namespace tidegate::federation
