// A copy of a golden model in a folder of its own, to be changed by a test.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "base/file.h"
#include "base/json.h"
#include "golden_model.h"

namespace tidegate::model {

class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "tg_model_XXXXXX").native();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline nlohmann::json ReadJson(const std::filesystem::path& path) {
  return nlohmann::json::parse(Must(ReadTextFile(path, 1 << 20)));
}

inline void WriteText(const std::filesystem::path& path, std::string_view text) {
  if (!WriteFileDurably(path, AsBytes(text)).ok()) throw std::runtime_error(path.string());
}

// Tensors by name, with owned bytes.
struct OwnedTensor {
  tensor::DType dtype = tensor::DType::kF32;
  tensor::Shape shape;
  Bytes bytes;
};
using Tensors = std::map<std::string, OwnedTensor>;

inline Tensors ReadTensors(const std::filesystem::path& path) {
  Tensors out;
  const auto file = Must(tensor::SafetensorsFile::Open(path));
  for (const auto& view : file.tensors()) {
    out[view.name] = {view.dtype, view.shape, {view.bytes.begin(), view.bytes.end()}};
  }
  return out;
}

inline void WriteTensors(const std::filesystem::path& path, const Tensors& tensors) {
  std::vector<tensor::TensorToWrite> list;
  for (const auto& [name, t] : tensors) list.push_back({name, t.dtype, t.shape, t.bytes});
  const Status status = tensor::WriteSafetensors(path, std::move(list), {{"format", "pt"}});
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

}  // namespace tidegate::model
