// What an update says of itself: the same whoever trained it. Pure.
#pragma once

#include <cstdint>
#include <string>

#include "onshore/ipc/messages.h"
#include "protocols/update.h"

namespace tidegate::trainer {

struct TrainedWith {
  uint32_t weight = 1;
  uint32_t train_loss_milli = 0, heldout_loss_milli = 0;
};

// A loss that the gate does not let go along is left out.
protocols::UpdateHeader HeaderOf(const protocols::JobManifest& job, const protocols::Id16& id,
                                 const std::string& site, const onshore::RoundStart& start,
                                 const TrainedWith& with);

// Of stochastic rounding: each site and job rounds by numbers of its own.
uint64_t RoundingKey(const protocols::JobManifest& job, const protocols::Id16& id,
                     const std::string& site);

}  // namespace tidegate::trainer
