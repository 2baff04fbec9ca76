// A sharded checkpoint's two files. The first byte says which. What decodes holds only slices that
// lie in its contents, and encodes to a text that decodes to the same.
#include "fuzz.h"
#include "pretrain/checkpoint_part.h"
#include "protocols/limits.h"

namespace tidegate::fuzz {
namespace {

Digest Filled(uint8_t value) {
  Digest digest;
  digest.fill(value);
  return digest;
}

std::string SamplePart() {
  pretrain::Part part;
  part.store = 3;
  for (size_t kind = 0; kind < part.contents.size(); ++kind) {
    part.contents[kind].bytes = protocols::kBlockBytes + 400;
    part.contents[kind].blocks = {Filled(static_cast<uint8_t>(kind)), Filled(9)};
  }
  part.slices = {{"model.embed_tokens.weight", 64, 164, 0}, {"model.norm.weight", 0, 32, 100}};
  return pretrain::EncodePart(part);
}

std::string SampleIndex() {
  pretrain::Index index;
  index.step = 120;
  index.identity = {{"data", "7"}, {"seed", "5"}, {"about kernels", "avx2"}};
  index.tensors = {{"model.embed_tokens.weight", {500, 64}}, {"model.norm.weight", {64}}};
  index.parts = {Filled(1), Filled(2)};
  return pretrain::EncodeIndex(index);
}

void Part(std::string_view text) {
  const auto part = pretrain::DecodePart(text, "part");
  if (!part) return;
  Require(part->store >= 0 && part->store < pretrain::kMaxCheckpointParts, "a store has a number");
  const uint64_t elements = part->contents[0].bytes / sizeof(float);
  for (const blocks::Content& content : part->contents) {
    Require(content.bytes / sizeof(float) == elements, "kinds are of one size");
    Require(content.bytes <= content.blocks.size() * uint64_t{protocols::kBlockBytes},
            "a content has blocks for its bytes");
  }
  for (const pretrain::StoredSlice& slice : part->slices) {
    Require(slice.begin >= 0 && slice.begin <= slice.end && slice.at >= 0, "a slice goes forward");
    const auto count = static_cast<uint64_t>(slice.end - slice.begin);
    Require(count <= elements && static_cast<uint64_t>(slice.at) <= elements - count,
            "a slice lies in its content");
  }
  const std::string once = pretrain::EncodePart(*part);
  const auto again = pretrain::DecodePart(once, "encoded");
  Require(again && pretrain::EncodePart(*again) == once, "a part has one encoding");
}

void Index(std::string_view text) {
  const auto index = pretrain::DecodeIndex(text, "index");
  if (!index) return;
  Require(index->step >= 0, "a step is no less than 0");
  for (const auto& [name, shape] : index->tensors) {
    for (const int64_t size : shape) Require(size >= 0, "a shape has sizes");
  }
  Require(!index->parts.empty(), "a checkpoint has parts");
  const std::string once = pretrain::EncodeIndex(*index);
  const auto again = pretrain::DecodeIndex(once, "encoded");
  Require(again && pretrain::EncodeIndex(*again) == once, "an index has one encoding");
}

}  // namespace

Target Describe() {
  Target target;
  target.seeds = {'\0' + SamplePart(), '\1' + SampleIndex()};
  target.memory_per_byte = 512;
  return target;
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text = tidegate::AsText({data + 1, size - 1});
  data[0] % 2 == 0 ? tidegate::fuzz::Part(text) : tidegate::fuzz::Index(text);
  return 0;
}
