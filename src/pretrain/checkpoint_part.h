// The files of a sharded checkpoint, as JSON. Internal to the checkpoint's reader and writer.
// Thread-safety: values and pure functions.
#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "blocks/content.h"
#include "tensor/safetensors.h"
#include "train/state.h"

namespace tidegate::pretrain {

inline constexpr uint64_t kMaxPartBytes = 256u << 20;
inline constexpr int kMaxCheckpointParts = 65536;
inline constexpr std::array<const char*, 3> kKinds = {"parameters", "m", "v"};

// Elements [begin, end) of a tensor, from element `at` of each kind's content.
struct StoredSlice {
  std::string tensor;
  int64_t begin, end, at;
};

struct Part {
  int store = 0;                            // whose block store
  std::array<blocks::Content, 3> contents;  // of each kind, floats
  std::vector<StoredSlice> slices;
};

struct Index {
  int64_t step = 0;
  train::Identity identity;
  std::map<std::string, tensor::Shape> tensors;  // whole, whatever the parts hold of them
  std::vector<Digest> parts;                     // SHA-256 of each part's file
};

std::filesystem::path StepFolder(const std::filesystem::path& dir, int64_t step);
std::filesystem::path PartFile(const std::filesystem::path& dir, int64_t step, int rank);
std::filesystem::path IndexFile(const std::filesystem::path& dir, int64_t step);
std::filesystem::path StoreFolder(const std::filesystem::path& dir, int rank);

std::string EncodePart(const Part& part);
// kDataLoss, naming `name`, for what EncodePart did not write.
Result<Part> DecodePart(std::string_view text, std::string_view name);
std::string EncodeIndex(const Index& index);
Result<Index> DecodeIndex(std::string_view text, std::string_view name);

}  // namespace tidegate::pretrain
