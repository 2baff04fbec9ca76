// Writes GGUF version 3, little-endian, for tensors that fit in memory. Byte-stable: the file
// depends on what was added alone. Not thread-safe.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "tensor/safetensors.h"

namespace tidegate::tensor {

class GgufBuilder {
 public:
  void SetText(const std::string& key, std::string_view value);
  void SetFloat(const std::string& key, float value);
  // F32; the shape slowest dimension first. Tensors lie in the order in which they are added.
  void AddTensor(std::string name, Shape shape, std::vector<float> values);

  Bytes Build() const;

 private:
  struct Tensor {
    std::string name;
    Shape shape;
    std::vector<float> values;
  };
  std::map<std::string, Bytes> values_;  // type and value as the file has them
  std::vector<Tensor> tensors_;
};

}  // namespace tidegate::tensor
