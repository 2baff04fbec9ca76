// model.safetensors.index.json over two good shards: what opens maps each name to its tensor.
#include "fuzz.h"
#include "tensor/safetensors.h"

namespace tidegate::fuzz {

Target Describe() {
  Target target;
  target.seeds = {
      R"({"metadata":{"total_size":24},"weight_map":{"w1":"model-00001-of-00002.safetensors",)"
      R"("w2":"model-00001-of-00002.safetensors","w3":"model-00002-of-00002.safetensors"}})",
      R"({"weight_map":{"w3":"./model-00002-of-00002.safetensors"}})",
      R"({"weight_map":{"w3":"../model-00002-of-00002.safetensors"}})"};
  return target;
}

namespace {

const Folder& Shards() {
  static const Folder folder;
  static const bool made = [] {
    static const uint8_t bytes[8] = {};
    const auto f32 = tensor::DType::kF32;
    folder.Put(
        "model-00001-of-00002.safetensors",
        Text(*tensor::EncodeSafetensors({{"w1", f32, {2}, bytes}, {"w2", f32, {2}, bytes}}, {})));
    folder.Put("model-00002-of-00002.safetensors",
               Text(*tensor::EncodeSafetensors({{"w3", f32, {1, 2}, bytes}}, {})));
    return true;
  }();
  Require(made, "there are shards");
  return folder;
}

}  // namespace
}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  const fuzz::Folder& shards = fuzz::Shards();
  shards.Put("model.safetensors.index.json", AsText({data, size}));
  const auto folder = tensor::SafetensorsFolder::Open(shards.path());
  if (!folder) return 0;
  for (const std::string& name : folder->names()) {
    const tensor::TensorView* view = folder->Find(name);
    fuzz::Require(view != nullptr && view->name == name, "a name of the index is a tensor");
  }
  return 0;
}
