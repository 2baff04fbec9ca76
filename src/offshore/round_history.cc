#include "offshore/round_history.h"

#include <algorithm>

#include "base/clock.h"

namespace tidegate::offshore {
namespace {

nlohmann::ordered_json Mean(uint64_t sum_milli, uint64_t told) {
  if (told == 0) return nullptr;
  const double milli = static_cast<double>(sum_milli) / static_cast<double>(told);
  return static_cast<double>(static_cast<int64_t>(milli + 0.5)) / 1000.0;
}

}  // namespace

RoundHistory::Round& RoundHistory::At(uint32_t round) {
  for (auto it = rounds_.rbegin(); it != rounds_.rend(); ++it) {
    if (it->round == round) return *it;
  }
  if (rounds_.size() == kRemembered) rounds_.pop_front();
  rounds_.emplace_back().round = round;
  return rounds_.back();
}

void RoundHistory::Opened(uint32_t round, int64_t unix_millis) { At(round).opened = unix_millis; }

void RoundHistory::Took(const federation::StoredUpdate& update, uint64_t bytes) {
  Round& round = At(update.key.round);
  ++round.updates;
  round.bytes += bytes;
  round.last = std::max(round.last, update.accepted_unix_millis);
  if (update.train_loss_milli > 0) {
    round.train_sum += update.train_loss_milli;
    ++round.train_told;
  }
  if (update.heldout_loss_milli > 0) {
    round.heldout_sum += update.heldout_loss_milli;
    ++round.heldout_told;
  }
}

nlohmann::ordered_json RoundHistory::ToJson() const {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Round& round : rounds_) {
    nlohmann::ordered_json one = {{"round", round.round},
                                  {"opened", FormatUtc(round.opened)},
                                  {"seconds", nullptr},
                                  {"updates", round.updates},
                                  {"bytes", round.bytes},
                                  {"train_loss", Mean(round.train_sum, round.train_told)},
                                  {"heldout_loss", Mean(round.heldout_sum, round.heldout_told)}};
    if (round.last > 0) one["seconds"] = static_cast<double>(round.last - round.opened) / 1000.0;
    list.push_back(std::move(one));
  }
  return list;
}

}  // namespace tidegate::offshore
