// Which backend a program of these tests is about: the same files make several programs.
#pragma once

#include "kernels/table.h"

namespace tidegate::kernels {

struct Tested {
  Backend backend;
  bool repeats;  // whether an op is run again to see that its bits stay
  bool small;    // whether the backend is so slow here that large cases are left out
};

// Defined by tested_cpu.cc, tested_gpu.cc or simt/tested_emulated.cc.
const Tested& ThisProgram();

// Null where this machine has none.
inline const KernelTable* TestedTable(DType dtype) {
  return TableFor(ThisProgram().backend, dtype);
}

// For cases of more than some `work`, in multiplications or so.
inline bool TooLargeHere(double work) { return ThisProgram().small && work > 4e6; }

}  // namespace tidegate::kernels
