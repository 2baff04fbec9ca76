// The frame of the conformance program: runs an op on every table that this machine has and holds
// the results against the reference in double.
//
// An op is described once, as a function that binds its arguments through a OpRun:
//
//   Conform("swiglu", [&](OpRun& run) {
//     SwigluForwardArgs args{count, run.In(gate), run.In(up), run.Out("act", count)};
//     run.table().swiglu_forward(run.context(), args);
//   });
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/quantize.h"
#include "kernels/table.h"
#include "tests/kernels/staging.h"
#include "tests/kernels/tested.h"

namespace tidegate::kernels {

using Values = std::vector<double>;

// Numbers around zero with the given spread, a pure function of the seed. Integers: whole numbers
// in
// [-bound, bound].
Values Random(uint64_t seed, size_t count, double spread = 1);
Values Integers(uint64_t seed, size_t count, int bound);

// The nearest value (ties to even) that the type holds.
double RoundTo(DType dtype, double value);
Values RoundTo(DType dtype, Values values);

// The reference and every fast table that this machine has.
std::vector<const KernelTable*> FastTables();
std::vector<const KernelTable*> AllTables();
const KernelTable& Reference();
std::string NameOf(const KernelTable& table);

// How far a result may be from the reference, as a share of (its size + the rms of all results).
struct Tolerance {
  double activation;  // results in the activation type
  double gradient;    // results in GradType
};
Tolerance ToleranceOf(const KernelTable& table);

// Array elements of one type between two guard zones, off alignment by one element.
class GuardedArray {
 public:
  GuardedArray(DType dtype, const Values& values);
  void* data() { return bytes_.data() + offset(); }
  // All of it, guards included, and where the first element is in it.
  std::vector<unsigned char>& bytes() { return bytes_; }
  size_t offset() const { return kGuard + SizeOf(dtype_); }
  Values values() const;
  DType dtype() const { return dtype_; }
  bool GuardsIntact() const;
  bool SameBytes(const GuardedArray& other) const { return bytes_ == other.bytes_; }

 private:
  static constexpr size_t kGuard = 192;
  DType dtype_;
  size_t count_;
  std::vector<unsigned char> bytes_;
};

// One run of an op on a table. Inputs are rounded to what `input` activations hold before they are
// given to the table, so that the reference sees the same numbers as the table it judges.
class OpRun {
 public:
  // `aligned`: on a device, whether arrays begin at multiples of 16 bytes.
  OpRun(const KernelTable& table, DType input, int threads, bool aligned = false);

  const KernelTable& table() const { return table_; }
  const Context& context() const { return staging_.context(); }

  const void* In(const Values& values);      // activation type
  const void* InGrad(const Values& values);  // GradType
  const float* InFloat(const Values& values);
  // As it is; it must outlive the run.
  void* Place(GuardedArray& array);
  // Kept as they are now.
  const int32_t* InIds(const std::vector<int32_t>& ids) {
    ids_.push_back(ids);
    return staging_.Array(ids_.back().data(), ids.size());
  }
  const float* InFloats(const std::vector<float>& values) {
    floats_.push_back(values);
    return staging_.Array(floats_.back().data(), values.size());
  }
  double* OutDouble(double* value) {
    return static_cast<double*>(staging_.Place(value, sizeof(double)));
  }
  WeightSource Source(const Values& values, int64_t n, int64_t k);
  // With a quantized format, quantized from the values as floats: the same codes for every table.
  const PreparedWeights* Weights(const Values& values, int64_t n, int64_t k,
                                 std::optional<WeightFormat> format = std::nullopt);

  // Outputs begin as NaN, or as `initial` for those that are added to.
  void* Out(const std::string& name, size_t count);
  void* Out(const std::string& name, const Values& initial);
  void* OutGrad(const std::string& name, size_t count);
  void* OutGrad(const std::string& name, const Values& initial);

  // After the op: checks guard zones and that inputs are as they were; the outputs by name.
  const std::map<std::string, GuardedArray>& Finish();

 private:
  const void* Input(DType held_as, DType given_as, const Values& values);
  void* Output(const std::string& name, DType held_as, DType given_as, const Values& initial);

  const KernelTable& table_;
  DType input_;
  std::deque<GuardedArray> inputs_, copies_;
  std::vector<std::unique_ptr<PreparedWeights>> weights_;
  std::deque<std::vector<unsigned char>> quantized_;
  std::deque<std::vector<int32_t>> ids_;
  std::deque<std::vector<float>> floats_;
  std::map<std::string, GuardedArray> outputs_;
  Staging staging_;  // ends before what it refers to
};

using Op = std::function<void(OpRun&)>;

// Runs the op on every fast table with 1, 2 and 3 threads: each output is within tolerance of the
// reference, not all zero, the same bits for all thread counts, and nothing else was written.
void Conform(const std::string& what, const Op& op);

// As Conform, for ops whose results must be exact on every table.
void ConformExactly(const std::string& what, const Op& op);

// The outputs of the op on the reference (inputs as given).
std::map<std::string, Values> OnReference(const Op& op);

// Holds `gradient` against central differences of `loss` at `at`, in up to 48 of its places.
void ExpectGradient(const std::string& what, const Values& at,
                    const std::function<double(const Values&)>& loss, const Values& gradient);

double Dot(const Values& a, const Values& b);

}  // namespace tidegate::kernels
