#include "conformance.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/rng.h"

namespace tidegate::kernels {
namespace {

constexpr unsigned char kSentinel = 0xA5;

// The one table of tolerances. bf16 keeps 8 bits (2^-9 of rounding), and LoRA rounds an
// intermediate and its sum; float has 24 bits and sums of a few hundred products.
Tolerance ToleranceOf(Backend backend, DType dtype) {
  if (backend == Backend::kRef) return {1e-12, 1e-12};
  switch (dtype) {
    case DType::kF32:
      return {4e-6, 4e-6};
    case DType::kBF16:
      // On CUDA a layer and its low-rank branch are two products, and their sum is rounded twice.
      return {backend == Backend::kCuda ? 1.6e-2 : 1.2e-2, 8e-3};
    case DType::kF64:
      break;
  }
  return {0, 0};
}

uint16_t BF16Bits(double value) {
  const float f = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof(bits));
  if (std::isnan(f)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

double FromBF16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof(f));
  return f;
}

uint32_t Word(uint64_t seed, size_t i) {
  return RandomWords(seed, RngPurpose::kTest, 0, i / 4)[i % 4];
}

}  // namespace

Values Random(uint64_t seed, size_t count, double spread) {
  Values values(count);
  for (size_t i = 0; i < count; ++i) {
    values[i] = spread * (2 * static_cast<double>(UniformFloat(Word(seed, i))) - 1);
  }
  return values;
}

Values Integers(uint64_t seed, size_t count, int bound) {
  Values values(count);
  const uint32_t choices = static_cast<uint32_t>(2 * bound + 1);
  for (size_t i = 0; i < count; ++i) {
    values[i] = static_cast<double>(UniformBelow(Word(seed, i), choices)) - bound;
  }
  return values;
}

double RoundTo(DType dtype, double value) {
  if (dtype == DType::kF64) return value;
  if (dtype == DType::kF32) return static_cast<float>(value);
  return FromBF16(BF16Bits(value));
}

Values RoundTo(DType dtype, Values values) {
  for (double& value : values) value = RoundTo(dtype, value);
  return values;
}

const KernelTable& Reference() { return *TableFor(Backend::kRef, DType::kF64); }

std::vector<const KernelTable*> FastTables() {
  std::vector<const KernelTable*> tables;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const KernelTable* table = TestedTable(dtype);
    if (table != nullptr) tables.push_back(table);
  }
  return tables;
}

std::vector<const KernelTable*> AllTables() {
  std::vector<const KernelTable*> tables = FastTables();
  tables.insert(tables.begin(), &Reference());
  return tables;
}

std::string NameOf(const KernelTable& table) {
  const char* dtype = table.dtype == DType::kF64   ? "f64"
                      : table.dtype == DType::kF32 ? "f32"
                                                   : "bf16";
  const char* backend = table.backend == Backend::kRef   ? "ref "
                        : table.backend == Backend::kCpu ? "cpu "
                                                         : "cuda ";
  return std::string(backend) + dtype + " on " + table.isa;
}

Tolerance ToleranceOf(const KernelTable& table) { return ToleranceOf(table.backend, table.dtype); }

GuardedArray::GuardedArray(DType dtype, const Values& values)
    : dtype_(dtype),
      count_(values.size()),
      bytes_(2 * kGuard + (values.size() + 1) * SizeOf(dtype), kSentinel) {
  unsigned char* p = bytes_.data() + offset();
  for (size_t i = 0; i < count_; ++i) {
    if (dtype == DType::kF64) {
      std::memcpy(p + 8 * i, &values[i], 8);
    } else if (dtype == DType::kF32) {
      const float f = static_cast<float>(values[i]);
      std::memcpy(p + 4 * i, &f, 4);
    } else {
      const uint16_t half = BF16Bits(values[i]);
      std::memcpy(p + 2 * i, &half, 2);
    }
  }
}

Values GuardedArray::values() const {
  Values values(count_);
  const unsigned char* p = bytes_.data() + offset();
  for (size_t i = 0; i < count_; ++i) {
    if (dtype_ == DType::kF64) {
      std::memcpy(&values[i], p + 8 * i, 8);
    } else if (dtype_ == DType::kF32) {
      float f;
      std::memcpy(&f, p + 4 * i, 4);
      values[i] = f;
    } else {
      uint16_t half;
      std::memcpy(&half, p + 2 * i, 2);
      values[i] = FromBF16(half);
    }
  }
  return values;
}

bool GuardedArray::GuardsIntact() const {
  const size_t begin = offset();
  const size_t end = begin + count_ * SizeOf(dtype_);
  const auto intact = [](unsigned char byte) { return byte == kSentinel; };
  return std::all_of(bytes_.begin(), bytes_.begin() + static_cast<ptrdiff_t>(begin), intact) &&
         std::all_of(bytes_.begin() + static_cast<ptrdiff_t>(end), bytes_.end(), intact);
}

OpRun::OpRun(const KernelTable& table, DType input, int threads, bool aligned)
    : table_(table), input_(input), staging_(table, threads, aligned) {}

void* OpRun::Place(GuardedArray& array) {
  return staging_.Place(array.bytes().data(), array.bytes().size(), array.offset());
}

const void* OpRun::Input(DType held_as, DType given_as, const Values& values) {
  inputs_.emplace_back(held_as, RoundTo(given_as, values));
  copies_.push_back(inputs_.back());
  return Place(inputs_.back());
}

const void* OpRun::In(const Values& values) { return Input(table_.dtype, input_, values); }
const void* OpRun::InGrad(const Values& values) {
  return Input(GradType(table_.dtype), GradType(input_), values);
}
const float* OpRun::InFloat(const Values& values) {
  return static_cast<const float*>(Input(DType::kF32, DType::kF32, values));
}

WeightSource OpRun::Source(const Values& values, int64_t n, int64_t k) {
  const WeightFormat format = table_.dtype == DType::kF64   ? WeightFormat::kF64
                              : table_.dtype == DType::kF32 ? WeightFormat::kF32
                                                            : WeightFormat::kBF16;
  return {format, n, k, In(values)};
}

const PreparedWeights* OpRun::Weights(const Values& values, int64_t n, int64_t k,
                                      std::optional<WeightFormat> format) {
  WeightSource source = format ? WeightSource{*format, n, k, nullptr} : Source(values, n, k);
  if (format) {
    const Values rounded = RoundTo(input_, values);
    const std::vector<float> floats(rounded.begin(), rounded.end());
    auto& bytes = quantized_.emplace_back(QuantizedBytes(*format, n, k));
    Quantize(context().threads, *format, n, k, floats.data(), bytes.data());
    source.data = staging_.Array(bytes.data(), bytes.size());
  }
  weights_.push_back(table_.prepare_weights(source));
  return weights_.back().get();
}

void* OpRun::Output(const std::string& name, DType held_as, DType given_as, const Values& initial) {
  const auto [output, added] =
      outputs_.emplace(name, GuardedArray(held_as, RoundTo(given_as, initial)));
  EXPECT_TRUE(added) << "two outputs named " << name;
  return Place(output->second);
}

void* OpRun::Out(const std::string& name, const Values& initial) {
  return Output(name, table_.dtype, input_, initial);
}
void* OpRun::Out(const std::string& name, size_t count) {
  return Out(name, Values(count, std::numeric_limits<double>::quiet_NaN()));
}
void* OpRun::OutGrad(const std::string& name, const Values& initial) {
  return Output(name, GradType(table_.dtype), GradType(input_), initial);
}
void* OpRun::OutGrad(const std::string& name, size_t count) {
  return OutGrad(name, Values(count, std::numeric_limits<double>::quiet_NaN()));
}

const std::map<std::string, GuardedArray>& OpRun::Finish() {
  staging_.Fetch();
  for (size_t i = 0; i < inputs_.size(); ++i) {
    EXPECT_TRUE(inputs_[i].SameBytes(copies_[i])) << "input " << i << " was written to";
  }
  for (const auto& [name, output] : outputs_) {
    EXPECT_TRUE(output.GuardsIntact()) << "written outside of " << name;
  }
  return outputs_;
}

namespace {

double Rms(const Values& values) {
  double squares = 0;
  for (const double value : values) squares += value * value;
  return std::sqrt(squares / static_cast<double>(std::max<size_t>(values.size(), 1)));
}

void ExpectClose(const std::string& name, const Values& got, const Values& want, double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  const double rms = Rms(want);
  EXPECT_GT(rms, 0) << name << " is all zero in the reference: the case tests nothing";
  for (size_t i = 0; i < got.size(); ++i) {
    // Written so that a NaN fails.
    if (!(std::abs(got[i] - want[i]) <= tolerance * (std::abs(want[i]) + rms))) {
      ADD_FAILURE() << name << "[" << i << "] is " << got[i] << ", the reference has " << want[i]
                    << " (rms " << rms << ", tolerance " << tolerance << ")";
      return;
    }
  }
}

void ExpectOutputsClose(const KernelTable& table, OpRun& run, OpRun& reference, bool exactly) {
  const Tolerance tolerance = exactly ? Tolerance{0, 0} : ToleranceOf(table);
  const auto& want = reference.Finish();
  for (const auto& [name, output] : run.Finish()) {
    const bool activation = output.dtype() == table.dtype && table.dtype != DType::kF32;
    ExpectClose(name, output.values(), want.at(name).values(),
                activation ? tolerance.activation : tolerance.gradient);
  }
}

void ConformWithin(const std::string& what, const Op& op, bool exactly) {
  for (const KernelTable* table : FastTables()) {
    SCOPED_TRACE(what + " on " + NameOf(*table));
    OpRun reference(Reference(), table->dtype, 1);
    op(reference);
    OpRun first(*table, table->dtype, 1);
    op(first);
    ExpectOutputsClose(*table, first, reference, exactly);
    if (table->device != nullptr) {
      SCOPED_TRACE("aligned");
      OpRun aligned(*table, table->dtype, 1, true);
      op(aligned);
      ExpectOutputsClose(*table, aligned, reference, exactly);
    }
    if (!ThisProgram().repeats) continue;
    for (const int threads : {2, 3}) {
      OpRun again(*table, table->dtype, threads);
      op(again);
      for (const auto& [name, output] : again.Finish()) {
        EXPECT_TRUE(output.SameBytes(first.Finish().at(name)))
            << name << " differs between 1 and " << threads << " threads, or from run to run";
      }
    }
  }
}

}  // namespace

void Conform(const std::string& what, const Op& op) { ConformWithin(what, op, false); }
void ConformExactly(const std::string& what, const Op& op) { ConformWithin(what, op, true); }

std::map<std::string, Values> OnReference(const Op& op) {
  OpRun run(Reference(), DType::kF64, 1);
  op(run);
  std::map<std::string, Values> values;
  for (const auto& [name, output] : run.Finish()) values[name] = output.values();
  return values;
}

void ExpectGradient(const std::string& what, const Values& at,
                    const std::function<double(const Values&)>& loss, const Values& gradient) {
  ASSERT_EQ(at.size(), gradient.size());
  const double rms = Rms(gradient);
  EXPECT_GT(rms, 0) << what << " is all zero";
  const size_t stride = std::max<size_t>(1, at.size() / 48);
  for (size_t i = 0; i < at.size(); i += stride) {
    const double step = 1e-5;
    Values moved = at;
    moved[i] = at[i] + step;
    const double above = loss(moved);
    moved[i] = at[i] - step;
    const double slope = (above - loss(moved)) / (2 * step);
    EXPECT_NEAR(gradient[i], slope, 1e-6 * (rms + std::abs(slope))) << what << "[" << i << "]";
  }
}

double Dot(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace tidegate::kernels
