// What this machine offers to training, read from /proc, /sys and the CPU itself.
// Thread-safety: functions without shared state; IdlePercent sleeps.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/status.h"

namespace tidegate::cli {

// "avx2", "avx512f", "avx512_bf16", "amx_bf16", ...: those that matter to our kernels and that the
// CPU and the kernel both allow.
std::vector<std::string> CpuFeatures();

// "Intel(R) Xeon(R) ..." or "unknown".
std::string CpuModel();

// CPUs this process may run on (its affinity).
int UsableCpus();

// CPUs' worth of time that the control group allows, or 0 for no limit.
double CgroupCpus();

// How idle the usable CPUs were over `millis`, 0 to 100. Sleeps that long.
Result<double> IdlePercent(int millis);

// "4.3.4" of the libzmq that would be loaded and whether it has CURVE; kUnavailable if there is
// none. Loads the library, opens no socket.
struct ZmqFacts {
  std::string version;
  bool curve = false;
};
Result<ZmqFacts> FindZmq();

// The walls that trainer, gate and link can each raise here and what their self-test finds, tried
// in children (under uid 65534 where this is root, for separate_uids). An array of {"role",
// "walls":
// [{"name", "state", "demanded" by default, "reason", "remedy"}], "tries": {"refused", "absent",
// "open": [names]}, "statement": text}, and "error" where the role cannot start. A wall without a
// meaning for the role is left out; reason and remedy are those of a wall that does not stand. Call
// with one thread.
Result<nlohmann::ordered_json> ProbeWalls();

}  // namespace tidegate::cli
