// cuBLASLt for emulated kernels: the real library's descriptions, read back and multiplied in
// double. So the way from row-major products to cuBLASLt's column-major ones is tested without a
// GPU.
#include <cstdlib>
#include <string>
#include <vector>

#include "emulator.h"
#include "kernels/internal/cuda_lt.h"
#include "kernels/internal/simt.h"

namespace tidegate::kernels {
namespace {

using simt::SimtError;

constexpr size_t kScratch = 4096;  // asked for so that the way of the workspace is tested

struct Matrix {
  cudaDataType_t type;
  uint64_t rows, columns;
  int64_t stride;

  double At(const void* data, int64_t row, int64_t column) const {
    const int64_t i = column * stride + row;
    if (type == CUDA_R_32F) return static_cast<const float*>(data)[i];
    return simt::FloatOf(static_cast<uint32_t>(static_cast<const uint16_t*>(data)[i]) << 16);
  }
  // All values by row, of the transpose if so asked.
  std::vector<double> Rows(const void* data, bool transposed) const {
    const int64_t m = static_cast<int64_t>(transposed ? columns : rows);
    const int64_t n = static_cast<int64_t>(transposed ? rows : columns);
    std::vector<double> values;
    values.reserve(static_cast<size_t>(m * n));
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j)
        values.push_back(transposed ? At(data, j, i) : At(data, i, j));
    }
    return values;
  }
  void Set(void* data, int64_t row, int64_t column, double value) const {
    const int64_t i = column * stride + row;
    const float narrow = static_cast<float>(value);
    if (type == CUDA_R_32F) {
      static_cast<float*>(data)[i] = narrow;
    } else {
      static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(simt::RoundToBF16(narrow));
    }
  }
};

const LtApi& Real() {
  const LtApi* api = LoadCublasLt();
  if (api == nullptr) throw SimtError("libcublasLt is not installed");
  return *api;
}

void Check(bool holds, const char* what) {
  if (!holds) throw SimtError(std::string("cuBLASLt was asked for a product whose ") + what);
}

template <typename T>
T Of(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t name) {
  T value = {};
  size_t written = 0;
  Check(Real().layout_get(layout, name, &value, sizeof(value), &written) == CUBLAS_STATUS_SUCCESS,
        "matrix has no such attribute");
  return value;
}
template <typename T>
T Of(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t name) {
  T value = {};
  size_t written = 0;
  Check(Real().desc_get(desc, name, &value, sizeof(value), &written) == CUBLAS_STATUS_SUCCESS,
        "description has no such attribute");
  return value;
}

Matrix MatrixOf(cublasLtMatrixLayout_t layout) {
  const Matrix matrix = {
      static_cast<cudaDataType_t>(Of<uint32_t>(layout, CUBLASLT_MATRIX_LAYOUT_TYPE)),
      Of<uint64_t>(layout, CUBLASLT_MATRIX_LAYOUT_ROWS),
      Of<uint64_t>(layout, CUBLASLT_MATRIX_LAYOUT_COLS),
      Of<int64_t>(layout, CUBLASLT_MATRIX_LAYOUT_LD)};
  Check(Of<int32_t>(layout, CUBLASLT_MATRIX_LAYOUT_ORDER) == CUBLASLT_ORDER_COL,
        "order is not by column");
  Check(matrix.stride >= static_cast<int64_t>(matrix.rows), "columns overlap");
  return matrix;
}

cublasStatus_t Create(cublasLtHandle_t* handle) {
  static char here;
  *handle = reinterpret_cast<cublasLtHandle_t>(&here);
  return CUBLAS_STATUS_SUCCESS;
}

// None for matrices that lie off multiples of four bytes, so that the plain kernel is tested too.
cublasStatus_t Heuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t a,
                         cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t,
                         cublasLtMatmulPreference_t preference, int,
                         cublasLtMatmulHeuristicResult_t results[], int* count) {
  *count = 0;
  for (const auto name :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    uint32_t bytes = 0;
    size_t written = 0;
    Real().preference_get(preference, name, &bytes, sizeof(bytes), &written);
    if (bytes < 4) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  for (const cublasLtMatrixLayout_t layout : {a, b, c}) {
    const Matrix matrix = MatrixOf(layout);
    if (matrix.type == CUDA_R_16BF && matrix.stride % 2 != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  results[0] = {};
  results[0].state = CUBLAS_STATUS_SUCCESS;
  results[0].workspaceSize = kScratch;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t Multiply(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha,
                        const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                        cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                        cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                        const cublasLtMatmulAlgo_t*, void* workspace, size_t workspace_bytes,
                        cudaStream_t stream) {
  const Matrix left = MatrixOf(a_layout), right = MatrixOf(b_layout);
  const Matrix in = MatrixOf(c_layout), out = MatrixOf(d_layout);
  const bool turn_left = Of<int32_t>(desc, CUBLASLT_MATMUL_DESC_TRANSA) == CUBLAS_OP_T;
  const bool turn_right = Of<int32_t>(desc, CUBLASLT_MATMUL_DESC_TRANSB) == CUBLAS_OP_T;
  const uint64_t depth = turn_left ? left.rows : left.columns;
  Check(out.rows == (turn_left ? left.columns : left.rows), "result has other rows than a");
  Check(out.columns == (turn_right ? right.rows : right.columns),
        "result has other columns than b");
  Check(depth == (turn_right ? right.columns : right.rows), "operands don't fit");
  Check(in.rows == out.rows && in.columns == out.columns, "c is not like d");
  Check(workspace_bytes == kScratch && reinterpret_cast<uintptr_t>(workspace) % 256 == 0,
        "workspace is not what was chosen with");
  const bool biased = Of<uint32_t>(desc, CUBLASLT_MATMUL_DESC_EPILOGUE) == CUBLASLT_EPILOGUE_BIAS;
  const void* bias = nullptr;
  Matrix bias_vector = {CUDA_R_32F, out.rows, 1, static_cast<int64_t>(out.rows)};
  if (biased) {
    bias = Of<const void*>(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
    bias_vector.type =
        static_cast<cudaDataType_t>(Of<int32_t>(desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE));
    Check(bias_vector.type == out.type, "bias has another type than d");
  }
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  simt::EnqueueWork(stream, [=] {
    std::memset(workspace, 0xff, workspace_bytes);
    const int64_t rows = static_cast<int64_t>(out.rows), length = static_cast<int64_t>(depth);
    const int64_t columns = static_cast<int64_t>(out.columns);
    const std::vector<double> of_left = left.Rows(a, turn_left),
                              of_right = right.Rows(b, !turn_right);
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t i = 0; i < rows; ++i) {
        const double* x = &of_left[static_cast<size_t>(i * length)];
        const double* y = &of_right[static_cast<size_t>(j * length)];
        // Four sums, as one alone would wait for each addition.
        double sums[4] = {};
        for (int64_t l = 0; l < length; ++l) sums[l % 4] += x[l] * y[l];
        double sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        sum *= static_cast<double>(scale);
        if (keep != 0.0f) sum += static_cast<double>(keep) * in.At(c, i, j);
        if (bias != nullptr) sum += bias_vector.At(bias, i, 0);
        out.Set(d, i, j, sum);
      }
    }
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

const LtApi* Lt() {
  static const LtApi api = [] {
    LtApi made = Real();
    made.create = Create;
    made.heuristic = Heuristic;
    made.matmul = Multiply;
    made.most_workspace = kScratch;
    return made;
  }();
  return &api;
}

}  // namespace tidegate::kernels
