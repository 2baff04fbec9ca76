#include "federation/rounds/server_optimizer.h"

#include <algorithm>
#include <cmath>
#include <functional>

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

// Values of a slice, a task of one thread; a multiple of update.h's kRun. Their sums stay in a
// cache.
constexpr size_t kSliceValues = 16 * 1024;

// Where a slice is: `begin` values into the tensor whose first has the flat position `first`.
struct Place {
  size_t first = 0, begin = 0, count = 0;
  size_t flat() const { return first + begin; }
};

// Gives the sums of a slice, perhaps in `room`.
using SumsOf = std::function<std::span<const int64_t>(const Place& place, std::span<int64_t> room)>;

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

namespace {

Result<std::vector<float>> StepAll(const ServerRule& rule, std::span<const float> parameters,
                                   const SumsOf& sums, uint64_t total_weight,
                                   const protocols::Layout& layout, uint8_t groups,
                                   ServerMoments* moments, unsigned threads) {
  if (total_weight == 0) return FailedPrecondition("there is no update to average");
  const size_t count = parameters.size();
  if (moments->m.size() != (HasM(rule.optimizer) ? count : 0) ||
      moments->v.size() != (HasV(rule.optimizer) ? count : 0)) {
    return InvalidArgument("moments of {} and {} values do not fit {} parameters",
                           moments->m.size(), moments->v.size(), count);
  }
  std::vector<Place> places;
  size_t at = 0;
  for (const protocols::LayoutTensor& t : layout.tensors.items) {
    const size_t n = static_cast<size_t>(t.rows) * t.cols;
    if (n > count - at) return InvalidArgument("a layout of more than {} values", count);
    const bool shared = (groups >> t.group & 1) != 0;
    for (size_t begin = 0; shared && begin < n; begin += kSliceValues) {
      places.push_back({at, begin, std::min(kSliceValues, n - begin)});
    }
    at += n;
  }
  if (at != count) return InvalidArgument("a layout of {} values for {} parameters", at, count);
  std::vector<float> out;
  out.reserve(count);
  AdviseHugePages(out.data(), count * sizeof(float));
  out.assign(parameters.begin(), parameters.end());
  OnThreads(threads, places.size(), [&](size_t i) {
    const Place& place = places[i];
    std::vector<int64_t> room(kSliceValues);
    const auto part = [&place](auto values) {
      return values.empty() ? values : values.subspan(place.flat(), place.count);
    };
    StepSlice(rule,
              {part(parameters), sums(place, room), part(std::span(moments->m)),
               part(std::span(moments->v)), part(std::span(out))},
              total_weight);
  });
  return out;
}

}  // namespace

Result<std::vector<float>> ServerStep(const ServerRule& rule, std::span<const float> parameters,
                                      std::span<const int64_t> sum, uint64_t total_weight,
                                      const protocols::Layout& layout, uint8_t groups,
                                      ServerMoments* moments, unsigned threads) {
  if (sum.size() != parameters.size()) {
    return InvalidArgument("{} parameters do not fit a sum of {}", parameters.size(), sum.size());
  }
  const auto sums = [sum](const Place& place, std::span<int64_t>) {
    return sum.subspan(place.flat(), place.count);
  };
  return StepAll(rule, parameters, sums, total_weight, layout, groups, moments, threads);
}

Result<std::vector<float>> ServerStep(const ServerRule& rule, std::span<const float> parameters,
                                      std::span<const WeightedSum::Contribution> updates,
                                      const protocols::Layout& layout, uint8_t groups,
                                      ServerMoments* moments, unsigned threads) {
  TG_RETURN_IF_ERROR(WeightedSum::Check(updates, parameters.size()));
  uint64_t total_weight = 0;
  for (const auto& update : updates) total_weight += update.weight;
  const AddLoop loop = FastestAddLoop();
  const auto sums = [updates, loop](const Place& place, std::span<int64_t> room) {
    for (const auto& update : updates) {
      const auto& tensors = update.update->tensors();
      const auto tensor =
          std::partition_point(tensors.begin(), tensors.end(),
                               [&place](const auto& t) { return t.first_value < place.first; });
      if (tensor == tensors.end() || tensor->first_value != place.first) continue;
      AddValues(loop, *tensor, place.begin, place.begin + place.count, update.weight, room.data());
    }
    return std::span<const int64_t>(room.first(place.count));
  };
  return StepAll(rule, parameters, sums, total_weight, layout, groups, moments, threads);
}

}  // namespace tidegate::federation
