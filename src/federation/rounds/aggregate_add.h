// The inner loop of the sum: one text, compiled for each instruction set that x86-64 machines have,
// chosen at run time. Integers: each gives the same bits.
#pragma once

#include <cstdint>

#include "protocols/update.h"

namespace tidegate::federation {

enum class AddLoop : uint8_t { kBase, kAvx2, kAvx512 };

bool MachineRuns(AddLoop loop);
AddLoop FastestAddLoop();

// sum[i] += weight · (value begin + i of the tensor, rounded to 2^-32, ties to even), up to `end`.
// `begin` is a multiple of kRun. The tensor is one that UpdateView::Parse took.
void AddValues(AddLoop loop, const protocols::UpdateTensor& tensor, uint64_t begin, uint64_t end,
               uint32_t weight, int64_t* sum);

}  // namespace tidegate::federation
