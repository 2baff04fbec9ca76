// cuBLASLt behind a table of its functions: loaded when the first CUDA table is asked for, so that
// no other process pays for it (some 200 MB and 60 ms); tests put an interpreter in its place.
#pragma once

#include <cublasLt.h>

namespace tidegate::kernels {

struct LtApi {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatmulDescGetAttribute) desc_get;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatrixLayoutGetAttribute) layout_get;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulPreferenceGetAttribute) preference_get;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmul) matmul;
  size_t most_workspace;  // that a product may ask for
};

// Null where the library isn't there.
const LtApi* LoadCublasLt();

// What products go through: LoadCublasLt's, or the tests' interpreter.
const LtApi* Lt();

}  // namespace tidegate::kernels
