#include "tensor/gguf.h"

#include <gtest/gtest.h>

#include <bit>
#include <filesystem>

namespace tidegate::tensor {
namespace {

// Builds a GGUF file byte by byte.
class Builder {
 public:
  Builder& U32(uint32_t v) {
    out_.resize(out_.size() + 4);
    StoreLe32(out_.data() + out_.size() - 4, v);
    return *this;
  }
  Builder& U64(uint64_t v) {
    out_.resize(out_.size() + 8);
    StoreLe64(out_.data() + out_.size() - 8, v);
    return *this;
  }
  Builder& Text(std::string_view text) {
    U64(text.size());
    out_.insert(out_.end(), text.begin(), text.end());
    return *this;
  }
  Builder& Raw(const Bytes& bytes) {
    out_.insert(out_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  Builder& Head(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    return U32(0x46554747).U32(version).U64(tensors).U64(keys);
  }
  Builder& Align(size_t n) {
    out_.resize((out_.size() + n - 1) / n * n);
    return *this;
  }
  const Bytes& bytes() const { return out_; }

 private:
  Bytes out_;
};

Builder Good() {
  Builder b;
  b.Head(2, 7);
  b.Text("arch").U32(8).Text("llama");
  b.Text("n").U32(4).U32(30);
  b.Text("signed").U32(5).U32(static_cast<uint32_t>(-3));
  b.Text("eps").U32(6).U32(std::bit_cast<uint32_t>(0.5f));
  b.Text("flag").U32(7).Raw({1});
  b.Text("words").U32(9).U32(8).U64(2).Text("x").Text("yz");
  b.Text("ints").U32(9).U32(1).U64(3).Raw({1, 0xff, 0x80});
  b.Text("b.weight").U32(2).U64(2).U64(3).U32(0).U64(0);
  b.Text("a.weight").U32(1).U64(32).U32(8).U64(32);
  b.Align(32);
  Bytes floats(24), q8(34);
  for (int i = 0; i < 6; ++i) {
    StoreLe32(floats.data() + 4 * i, std::bit_cast<uint32_t>(static_cast<float>(i)));
  }
  q8[0] = static_cast<uint8_t>(FloatToHalf(0.5f));
  q8[1] = static_cast<uint8_t>(FloatToHalf(0.5f) >> 8);
  for (int i = 0; i < 32; ++i) q8[2 + i] = static_cast<uint8_t>(i - 16);
  b.Raw(floats).Align(32).Raw(q8);
  return b;
}

TEST(Gguf, ReadsValuesAndTensors) {
  const Builder good = Good();
  const auto file = GgufFile::Parse(good.bytes(), "f");
  ASSERT_TRUE(file) << file.error().ToString();
  EXPECT_EQ(*file->GetString("arch"), "llama");
  EXPECT_EQ(*file->GetUnsigned("n"), 30u);
  EXPECT_EQ(file->GetUnsigned("signed").error().code(), Code::kDataLoss);
  EXPECT_EQ(*file->GetFloat("eps"), 0.5);
  EXPECT_TRUE(*file->GetBool("flag"));
  EXPECT_EQ(*file->GetStrings("words"), (std::vector<std::string_view>{"x", "yz"}));
  EXPECT_EQ(*file->GetIntegers("ints"), (std::vector<int64_t>{1, -1, -128}));
  EXPECT_EQ(file->GetIntegers("words").error().code(), Code::kDataLoss);
  EXPECT_EQ(file->GetString("none").error().code(), Code::kNotFound);
  EXPECT_EQ(file->Find("b.weight")->shape, (Shape{3, 2})) << "slowest dimension first";
  std::vector<float> values(32);
  ASSERT_TRUE(Dequantize(**file->Get("a.weight"), 0, values).ok());
  EXPECT_EQ(values[0], -8.0f);
  EXPECT_EQ(values[31], 7.5f);
  EXPECT_FALSE(Dequantize(**file->Get("a.weight"), 1, std::span(values).first(1)).ok());
  EXPECT_FALSE(Dequantize(**file->Get("a.weight"), 32, values).ok());
}

TEST(Gguf, EveryTruncationIsRefused) {
  const Builder good = Good();
  for (size_t size = 0; size < good.bytes().size(); ++size) {
    const Bytes cut(good.bytes().begin(), good.bytes().begin() + static_cast<long>(size));
    ASSERT_FALSE(GgufFile::Parse(cut, "f")) << size;
  }
}

TEST(Gguf, AbsurdCountsAndUnknownTypesAreRefusedBeforeAllocation) {
  const auto code = [](const Builder& b) { return GgufFile::Parse(b.bytes(), "f").error().code(); };
  EXPECT_EQ(code(Builder().U32(1)), Code::kDataLoss);
  EXPECT_EQ(code(Builder().Head(0, 0, 1)), Code::kUnsupported);
  EXPECT_EQ(code(Builder().Head(0, 0, 0x03000000)), Code::kUnsupported) << "big-endian";
  EXPECT_EQ(code(Builder().Head(UINT64_MAX, 0)), Code::kDataLoss);
  EXPECT_EQ(code(Builder().Head(0, UINT64_MAX)), Code::kDataLoss);
  EXPECT_EQ(code(Builder().Head(0, 1).U64(UINT64_MAX)), Code::kDataLoss);
  EXPECT_EQ(code(Builder().Head(0, 1).Text("k").U32(13)), Code::kDataLoss);
  EXPECT_EQ(code(Builder().Head(0, 1).Text("k").U32(9).U32(8).U64(UINT64_MAX)), Code::kDataLoss);
  EXPECT_EQ(code(Builder().Head(0, 1).Text("k").U32(9).U32(10).U64(1 << 24)), Code::kDataLoss);
  EXPECT_EQ(code(Builder().Head(0, 1).Text("k").U32(9).U32(9).U64(1)), Code::kUnsupported);
  EXPECT_EQ(code(Builder().Head(0, 1).Text("k").U32(7).Raw({2})), Code::kDataLoss);
  EXPECT_EQ(code(Builder().Head(0, 2).Text("k").U32(7).Raw({1}).Text("k").U32(7).Raw({1})),
            Code::kDataLoss);
  const auto tensor = [](uint64_t dim, uint32_t type, uint64_t offset, uint32_t rank = 1) {
    Builder b;
    b.Head(1, 0).Text("t").U32(rank).U64(dim).U32(type).U64(offset).Align(32).Raw(Bytes(64));
    return b;
  };
  EXPECT_TRUE(GgufFile::Parse(tensor(16, 0, 0).bytes(), "f"));
  EXPECT_EQ(code(tensor(17, 0, 0)), Code::kDataLoss);
  EXPECT_EQ(code(tensor(16, 0, 32)), Code::kDataLoss);
  EXPECT_EQ(code(tensor(4, 0, 4)), Code::kDataLoss) << "unaligned";
  EXPECT_EQ(code(tensor(4, 0, UINT64_MAX - 31)), Code::kDataLoss);
  EXPECT_EQ(code(tensor(33, 8, 0)), Code::kDataLoss) << "not whole blocks";
  EXPECT_EQ(code(tensor(4, 2000, 0)), Code::kUnsupported);
  EXPECT_EQ(code(tensor(0, 0, 0)), Code::kDataLoss);
  EXPECT_EQ(code(tensor(4, 0, 0, 5)), Code::kDataLoss);
  EXPECT_EQ(code(Builder().Head(0, 1).Text("general.alignment").U32(4).U32(24)), Code::kDataLoss);
  EXPECT_EQ(code(Builder().Head(0, 1).Text("general.alignment").U32(4).U32(0)), Code::kDataLoss);
}

TEST(Gguf, BlocksDecodeAsGgufPyDecodesThem) {
  const auto golden = SafetensorsFile::Open(std::filesystem::path(TIDEGATE_SOURCE_DIR) /
                                            "tests/golden/formats/tensors.safetensors");
  ASSERT_TRUE(golden) << golden.error().ToString();
  const std::pair<std::string, GgmlType> types[] = {{"Q4_0", GgmlType::kQ4_0},
                                                    {"Q4_1", GgmlType::kQ4_1},
                                                    {"Q8_0", GgmlType::kQ8_0},
                                                    {"Q4_K", GgmlType::kQ4_K},
                                                    {"Q6_K", GgmlType::kQ6_K}};
  for (const auto& [name, type] : types) {
    const TensorView& expected = **golden->Get(name + ".f32");
    std::vector<float> want(expected.num_elements()), got(want.size());
    ASSERT_TRUE(ReadFloats(expected, want).ok());
    GgufTensor tensor;
    tensor.name = name;
    tensor.type = type;
    tensor.shape = {static_cast<int64_t>(want.size())};
    tensor.bytes = (*golden->Get(name + ".raw"))->bytes;
    ASSERT_EQ(tensor.num_elements(), static_cast<int64_t>(want.size()));
    ASSERT_TRUE(Dequantize(tensor, 0, got).ok());
    EXPECT_EQ(got, want) << name;
  }
}

}  // namespace
}  // namespace tidegate::tensor
