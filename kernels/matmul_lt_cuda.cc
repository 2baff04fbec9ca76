// Row-major products as cuBLASLt's column-major ones: a row-major matrix is the column-major of its
// transpose, so c = a·b is asked for as cᵀ = bᵀ·aᵀ.
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "kernels/internal/cuda_device.h"
#include "kernels/internal/cuda_lt.h"
#include "kernels/internal/cuda_matmul.h"

namespace tidegate::kernels {
namespace {

constexpr size_t kMostPlans = 1024;  // a thread

void Check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  if (status == CUBLAS_STATUS_ALLOC_FAILED) throw std::bad_alloc();
  throw DeviceError(std::string("cuBLASLt: ") + what + ": status " + std::to_string(status));
}

// Two threads may use one handle at once.
cublasLtHandle_t Handle() {
  static const cublasLtHandle_t handle = [] {
    cublasLtHandle_t made = nullptr;
    Check(Lt()->create(&made), "starting");
    return made;
  }();
  return handle;
}

uint32_t AlignmentOf(const void* p) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(p);
  return static_cast<uint32_t>(at % 16 == 0 ? 16 : at & (~at + 1));
}

// All that the choice of a kernel depends on.
struct Key {
  DType input, output;
  bool transpose_a, transpose_b, adds, biased;
  uint32_t align_a, align_b, align_c, align_d, align_bias;
  int64_t m, n, k, a_row, b_row, c_row;
  auto operator<=>(const Key&) const = default;
};

struct Plan {
  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (desc != nullptr) Lt()->desc_destroy(desc);
    for (const cublasLtMatrixLayout_t layout : {a, b, c}) {
      if (layout != nullptr) Lt()->layout_destroy(layout);
    }
  }
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;  // as cuBLASLt names them
  cublasLtMatmulAlgo_t algo = {};
  size_t workspace = 0;
  bool found = false;  // else cuBLASLt has no kernel for it
};

cudaDataType_t TypeOf(DType dtype) { return dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F; }

template <typename V>
void Set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t name, const V& value) {
  Check(Lt()->desc_set(desc, name, &value, sizeof(value)), "describing a product");
}

template <typename V>
void Prefer(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t name,
            const V& value) {
  Check(Lt()->preference_set(preference, name, &value, sizeof(value)), "stating a preference");
}

cublasLtMatrixLayout_t Layout(DType dtype, int64_t rows, int64_t columns, int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  Check(Lt()->layout_create(&layout, TypeOf(dtype), static_cast<uint64_t>(rows),
                            static_cast<uint64_t>(columns), stride),
        "describing a matrix");
  return layout;
}

void Choose(const Key& key, Plan& plan) {
  cublasLtMatmulPreference_t preference = nullptr;
  Check(Lt()->preference_create(&preference), "making a preference");
  const std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>,
                        decltype(Lt()->preference_destroy)>
      owner(preference, Lt()->preference_destroy);
  Prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, Lt()->most_workspace);
  // Sums of split products in float, in order: the others would round them or take them as they
  // come.
  const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  Prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes);
  Prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.align_b);
  Prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.align_a);
  Prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.align_c);
  Prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.align_d);
  cublasLtMatmulHeuristicResult_t result = {};
  int count = 0;
  const cublasStatus_t status = Lt()->heuristic(Handle(), plan.desc, plan.a, plan.b, plan.c, plan.c,
                                                preference, 1, &result, &count);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return;
  Check(status, "choosing a kernel");
  if (count == 0 || result.state != CUBLAS_STATUS_SUCCESS) return;
  plan.algo = result.algo;
  plan.workspace = result.workspaceSize;
  plan.found = true;
}

void Make(const Key& key, Plan& plan) {
  Check(Lt()->desc_create(&plan.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
  const cublasOperation_t op_b = key.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t op_a = key.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  Set(plan.desc, CUBLASLT_MATMUL_DESC_TRANSA, op_b);
  Set(plan.desc, CUBLASLT_MATMUL_DESC_TRANSB, op_a);
  if (key.biased) {
    Set(plan.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    Set(plan.desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, TypeOf(key.input));
  }
  plan.a = key.transpose_b ? Layout(key.input, key.k, key.n, key.b_row)
                           : Layout(key.input, key.n, key.k, key.b_row);
  plan.b = key.transpose_a ? Layout(key.input, key.m, key.k, key.a_row)
                           : Layout(key.input, key.k, key.m, key.a_row);
  plan.c = Layout(key.output, key.n, key.m, key.c_row);
  Choose(key, plan);
}

// Plans are a thread's own: the bias is set into the description for each call.
Plan& PlanFor(const Key& key) {
  thread_local std::map<Key, Plan> plans;
  const auto known = plans.find(key);
  if (known != plans.end()) return known->second;
  if (plans.size() >= kMostPlans) plans.clear();
  Plan& plan = plans[key];
  Make(key, plan);
  return plan;
}

}  // namespace

void CudaMatmul(const Context& context, const CudaMatmulSpec& spec, const void* a, const void* b,
                void* c, const void* residual, const void* bias) {
  if (spec.m == 0 || spec.n == 0) return;
  const void* added = spec.accumulate ? c : residual;
  const auto row = [](int64_t given, int64_t length) { return given == 0 ? length : given; };
  const int64_t a_row = row(spec.a_row, spec.transpose_a ? spec.m : spec.k);
  const int64_t b_row = row(spec.b_row, spec.transpose_b ? spec.k : spec.n);
  const int64_t c_row = row(spec.c_row, spec.n);
  const Key key = {spec.input,
                   spec.output,
                   spec.transpose_a,
                   spec.transpose_b,
                   added != nullptr,
                   bias != nullptr,
                   AlignmentOf(a),
                   AlignmentOf(b),
                   AlignmentOf(added == nullptr ? c : added),
                   AlignmentOf(c),
                   AlignmentOf(bias),
                   spec.m,
                   spec.n,
                   spec.k,
                   a_row,
                   b_row,
                   c_row};
  Plan& plan = PlanFor(key);
  if (!plan.found) return PlainMatmul(context, spec, a, b, c, residual, bias);
  if (bias != nullptr) Set(plan.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  const Workspace::Scope scope(*context.workspace);
  // The same for all products, so that the workspace doesn't depend on what was chosen.
  void* scratch = context.workspace->Allocate(Lt()->most_workspace + 256);
  const float alpha = 1, beta = added != nullptr ? 1 : 0;
  void* aligned = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(scratch) + 255) / 256 * 256);
  const cublasStatus_t status = Lt()->matmul(
      Handle(), plan.desc, &alpha, b, plan.a, a, plan.b, &beta, added == nullptr ? c : added,
      plan.c, c, plan.c, &plan.algo, aligned, plan.workspace, StreamOf(context));
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) {
    // What was chosen is refused after all, as a bias off its alignment is.
    plan.found = false;
    return PlainMatmul(context, spec, a, b, c, residual, bias);
  }
  Check(status, "multiplying");
}

}  // namespace tidegate::kernels
