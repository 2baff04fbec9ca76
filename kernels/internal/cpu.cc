#include "kernels/internal/cpu.h"

#include <cpuid.h>

#include <dnnl.hpp>

#include "kernels/internal/simd_ops.h"

namespace tidegate::kernels {
namespace {

bool CpuHasAmxBF16() {
  constexpr unsigned kBF16 = 1u << 22, kTile = 1u << 24;
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kBF16) != 0 && (d & kTile) != 0;
}

CpuIsa Detect() {
  const auto has = [effective =
                        static_cast<unsigned>(dnnl::get_effective_cpu_isa())](dnnl::cpu_isa isa) {
    const unsigned wanted = static_cast<unsigned>(isa);
    return (effective & wanted) == wanted;
  };
  if (!has(dnnl::cpu_isa::avx2) || !__builtin_cpu_supports("avx2") ||
      !__builtin_cpu_supports("fma")) {
    return CpuIsa::kSse4;
  }
  const bool avx512 = has(dnnl::cpu_isa::avx512_core) && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  if (!avx512) return CpuIsa::kAvx2;
  if (!has(dnnl::cpu_isa::avx512_core_bf16) || !__builtin_cpu_supports("avx512bf16")) {
    return CpuIsa::kAvx512;
  }
  // Every CPU with AMX has AVX512-bf16 too. oneDNN has also asked the kernel for the tiles' state.
  const bool amx = has(dnnl::cpu_isa::avx512_core_amx) && CpuHasAmxBF16();
  return amx ? CpuIsa::kAmxBF16 : CpuIsa::kAvx512BF16;
}

}  // namespace

CpuIsa DetectCpuIsa() {
  static const CpuIsa isa = Detect();
  return isa;
}

const char* CpuIsaName(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kSse4:
      return "sse4";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
    case CpuIsa::kAvx512BF16:
      return "avx512bf16";
    case CpuIsa::kAmxBF16:
      return "amx-bf16";
  }
  return "unknown";
}

const SimdOps& SimdF32() {
  switch (DetectCpuIsa()) {
    case CpuIsa::kSse4:
      return kSimdSse4F32;
    case CpuIsa::kAvx2:
      return kSimdAvx2F32;
    default:
      return kSimdAvx512F32;
  }
}

}  // namespace tidegate::kernels
