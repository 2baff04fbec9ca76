// What this machine's CPU can do, as cpuid and DNNL_MAX_CPU_ISA together say.
#pragma once

#include <cstdint>

namespace tidegate::kernels {

enum class CpuIsa : uint8_t { kSse4 = 0, kAvx2 = 1, kAvx512 = 2, kAvx512BF16 = 3, kAmxBF16 = 4 };

// Found out once. oneDNN honours DNNL_MAX_CPU_ISA, and so do our own loops: a machine without
// AVX-512 can be had on any machine.
CpuIsa DetectCpuIsa();
const char* CpuIsaName(CpuIsa isa);

}  // namespace tidegate::kernels
