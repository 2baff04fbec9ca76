// A safetensors file: what is accepted covers the file exactly, and its floats can be read.
#include <vector>

#include "fuzz.h"
#include "tensor/safetensors.h"

namespace tidegate::fuzz {
namespace {

std::string Small() {
  static const uint8_t bytes[64] = {1, 2, 3};
  const ByteSpan all(bytes);
  return Text(*tensor::EncodeSafetensors({{"a.weight", tensor::DType::kF32, {2, 3}, all.first(24)},
                                          {"b", tensor::DType::kBF16, {4}, all.first(8)},
                                          {"c", tensor::DType::kF16, {1, 1, 2}, all.first(4)},
                                          {"none", tensor::DType::kI64, {0, 7}, {}},
                                          {"scalar", tensor::DType::kBool, {}, all.first(1)}},
                                         {{"format", "pt"}, {"k", "v"}}));
}

}  // namespace

Target Describe() {
  Target target;
  target.seeds = {Small(), Text(*tensor::EncodeSafetensors({}, {})),
                  SourceFile("tests/golden/formats/tensors.safetensors").substr(0, 4096)};
  target.memory_per_byte = 256;
  return target;
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  const auto file = tensor::SafetensorsFile::Parse({data, size}, "input");
  if (!file) return 0;
  size_t sum = 0;
  for (const tensor::TensorView& view : file->tensors()) {
    fuzz::Require(view.bytes.empty() || (view.bytes.data() >= data &&
                                         view.bytes.data() + view.bytes.size() <= data + size),
                  "a tensor lies in the file");
    int64_t elements = 1;
    for (const int64_t n : view.shape) elements *= n;
    fuzz::Require(elements == view.num_elements(), "a tensor has the bytes of its shape");
    fuzz::Require(file->Find(view.name) == &view, "a tensor is found by its name");
    sum += view.bytes.size();
    std::vector<float> floats(static_cast<size_t>(view.num_elements()));
    const Status read = tensor::ReadFloats(view, floats);
    const bool plain = view.dtype == tensor::DType::kF32 || view.dtype == tensor::DType::kF16 ||
                       view.dtype == tensor::DType::kBF16;
    fuzz::Require(read.ok() == plain, "floats can be read, and nothing else as floats");
  }
  fuzz::Require(sum + 8 <= size, "tensors do not overlap");
  return 0;
}
