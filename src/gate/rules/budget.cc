#include <algorithm>

#include "gate/review.h"

namespace tidegate::gate {

std::optional<Refusal> BudgetRule(const UpdateCase& c) {
  const Policy& p = c.policy;
  const auto refuse = [](std::string reason) { return Refusal{"budget", std::move(reason)}; };
  if (c.sealed_bytes >
      p.max_bytes_per_round - std::min(p.max_bytes_per_round, c.spent.bytes_of_round)) {
    return refuse(fmt::format("{} bytes after {} in this round are over max_bytes_per_round {}",
                              c.sealed_bytes, c.spent.bytes_of_round, p.max_bytes_per_round));
  }
  if (c.sealed_bytes > p.max_bytes_per_day - std::min(p.max_bytes_per_day, c.spent.bytes_today)) {
    return refuse(fmt::format("{} bytes after {} today are over max_bytes_per_day {}",
                              c.sealed_bytes, c.spent.bytes_today, p.max_bytes_per_day));
  }
  if (p.max_bytes_per_job != 0 &&
      c.sealed_bytes > p.max_bytes_per_job - std::min(p.max_bytes_per_job, c.spent.bytes_of_job)) {
    return refuse(
        fmt::format("{} bytes after {} for the job (all of its name, if policy allows it by that) "
                    "are over max_bytes_per_job {}",
                    c.sealed_bytes, c.spent.bytes_of_job, p.max_bytes_per_job));
  }
  const double bits = UpdateBits(c);
  const auto over = [bits](double spent, uint64_t limit) {
    return limit != 0 && spent + bits > static_cast<double>(limit);
  };
  if (over(c.spent.bits_of_round, p.max_bits_per_round)) {
    return refuse(
        fmt::format("{:.0f} bits after {:.0f} in this round are over max_bits_per_round {}", bits,
                    c.spent.bits_of_round, p.max_bits_per_round));
  }
  if (over(c.spent.bits_of_job, p.max_bits_per_job)) {
    return refuse(
        fmt::format("{:.0f} bits after {:.0f} for the job (all of its name, if policy allows it by "
                    "that) are over max_bits_per_job {}",
                    bits, c.spent.bits_of_job, p.max_bits_per_job));
  }
  if (c.spent.exports_of_round >= p.max_exports_per_round) {
    return refuse(fmt::format("{} exports were made in the round, max_exports_per_round is {}",
                              c.spent.exports_of_round, p.max_exports_per_round));
  }
  if (c.spent.exports_today >= p.max_exports_per_day) {
    return refuse(fmt::format("{} exports were made today, max_exports_per_day is {}",
                              c.spent.exports_today, p.max_exports_per_day));
  }
  if (c.spent.exports_of_job >= p.max_exports_per_job) {
    return refuse(
        fmt::format("{} exports were made for the job (all of its name, if policy allows it by "
                    "that), max_exports_per_job is {}",
                    c.spent.exports_of_job, p.max_exports_per_job));
  }
  return std::nullopt;
}

}  // namespace tidegate::gate
