#include "tensor/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "tensor/limits.h"

namespace tidegate::tensor {
namespace {

Bytes File(std::string header, size_t data_bytes, size_t pad_to = 1) {
  while (header.size() % pad_to != 0) header += ' ';
  Bytes out(8);
  StoreLe64(out.data(), header.size());
  out.insert(out.end(), header.begin(), header.end());
  out.resize(out.size() + data_bytes, 0x5a);
  return out;
}

Status ParseStatus(const std::string& header, size_t data_bytes) {
  const Bytes file = File(header, data_bytes);
  const auto parsed = SafetensorsFile::Parse(file, "f");
  return parsed ? OkStatus() : parsed.error();
}

std::filesystem::path TempDir() {
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  const auto dir = std::filesystem::path(testing::TempDir()) /
                   (std::string("tg_") + info->test_suite_name() + "_" + info->name());
  std::filesystem::remove_all(dir);
  std::filesystem::create_directories(dir);
  return dir;
}

TEST(Safetensors, GoodHeaderIsRead) {
  const Bytes file =
      File(R"({"b":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
           R"("a":{"dtype":"I8","shape":[],"data_offsets":[8,9]},)"
           R"("z":{"dtype":"F16","shape":[0,7],"data_offsets":[9,9]},"__metadata__":{"k":"v"}})",
           9, 8);
  const auto parsed = SafetensorsFile::Parse(file, "f");
  ASSERT_TRUE(parsed) << parsed.error().ToString();
  EXPECT_EQ(parsed->names(), (std::vector<std::string>{"a", "b", "z"}));
  EXPECT_EQ(parsed->Find("b")->shape, (Shape{2, 1}));
  EXPECT_EQ(parsed->Find("a")->num_elements(), 1);
  EXPECT_EQ(parsed->Find("z")->num_elements(), 0);
  EXPECT_EQ(parsed->Find("c"), nullptr);
  EXPECT_EQ(parsed->metadata().at("k"), "v");
  EXPECT_EQ(parsed->Get("c").error().code(), Code::kNotFound);
}

TEST(Safetensors, DamageIsRefusedAndNamed) {
  const auto one = [](const std::string& fields) { return "{\"a\":{" + fields + "}}"; };
  const std::string ok = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";
  ASSERT_TRUE(ParseStatus(one(ok), 8).ok());
  struct Case {
    std::string header;
    size_t data;
    std::string says;
  };
  const std::vector<Case> cases = {
      {one(ok), 7, "cut"},
      {one(ok), 9, "cut or damaged"},
      {"{\"a\":{" + ok + "},\"a\":{" + ok + "}}", 8, "twice"},
      {one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"dtype":"F32")"), 8, "twice"},
      {one(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), 8, "does not fill"},
      {one(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), 8, "does not fill"},
      {one(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), 8, "whole number"},
      {one(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), 8, "whole number"},
      {one(R"("dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,8])"), 8, "fill"},
      {one(R"("dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4])"), 4, "fill"},
      {one(R"("dtype":"F32","shape":[2],"data_offsets":[4,12])"), 12, "begins at 4"},
      {one(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])"), 4, "rank 9"},
      {one(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), 8, "wrong type"},
      {one(R"("dtype":"F32","shape":[2])"), 8, "nothing else"},
      {R"({"__metadata__":{"k":1}})", 0, "not a string"},
      {R"([1])", 0, "not a JSON object"},
      {R"( {})", 0, "not a JSON object"},
      {R"({} x)", 0, "malformed"},
      {"", 0, "not a JSON object"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       4, "begins at 0"},
  };
  for (const Case& c : cases) {
    const Status status = ParseStatus(c.header, c.data);
    EXPECT_EQ(status.code(), Code::kDataLoss) << c.header;
    EXPECT_NE(status.message().find(c.says), std::string::npos) << c.header << "\n"
                                                                << status.message();
  }
  EXPECT_EQ(ParseStatus(one(R"("dtype":"F4","shape":[2],"data_offsets":[0,1])"), 1).code(),
            Code::kUnsupported);
}

TEST(Safetensors, ImpossibleHeaderLengthsAreRefusedBeforeReading) {
  for (const uint64_t length : {uint64_t{9}, kMaxSafetensorsHeaderBytes + 1, UINT64_MAX}) {
    Bytes file(16, ' ');
    StoreLe64(file.data(), length);
    EXPECT_EQ(SafetensorsFile::Parse(file, "f").error().code(), Code::kDataLoss) << length;
  }
  EXPECT_EQ(SafetensorsFile::Parse(Bytes(7), "f").error().code(), Code::kDataLoss);
}

TEST(Safetensors, WrittenFileIsByteStableSortedAndPadded) {
  const std::vector<float> floats = {1, 2, 3};
  const Bytes f(reinterpret_cast<const uint8_t*>(floats.data()),
                reinterpret_cast<const uint8_t*>(floats.data()) + 12);
  const Bytes h = {1, 2};
  const auto a = EncodeSafetensors(
      {{"z", DType::kF32, {3}, f}, {"a", DType::kBF16, {1}, h}, {"b", DType::kF32, {3, 1}, f}},
      {{"format", "pt"}});
  const auto b = EncodeSafetensors(
      {{"a", DType::kBF16, {1}, h}, {"b", DType::kF32, {3, 1}, f}, {"z", DType::kF32, {3}, f}},
      {{"format", "pt"}});
  ASSERT_TRUE(a);
  EXPECT_EQ(*a, *b);
  EXPECT_EQ(LoadLe64(a->data()) % 8, 0u);
  const std::string_view header = AsText(ByteSpan(*a).subspan(8));
  EXPECT_LT(header.find("\"b\""), header.find("\"z\""));
  EXPECT_LT(header.find("\"z\""), header.find("\"a\"")) << "wider elements come first";
  const auto parsed = SafetensorsFile::Parse(*a, "f");
  ASSERT_TRUE(parsed) << parsed.error().ToString();
  std::vector<float> back(3);
  ASSERT_TRUE(ReadFloats(*parsed->Find("b"), back).ok());
  EXPECT_EQ(back, floats);
}

TEST(Safetensors, PiecewiseWritingGivesTheSameBytes) {
  const auto dir = TempDir();
  const Bytes data = {1, 2, 3, 4, 5, 6, 7, 8};
  ASSERT_TRUE(WriteSafetensors(dir / "whole",
                               {{"x", DType::kF32, {2}, data}, {"e", DType::kF32, {0}, {}}},
                               {{"k", "v"}})
                  .ok());
  {
    auto writer = SafetensorsWriter::Create(
        dir / "pieces", {{"x", DType::kF32, {2}}, {"e", DType::kF32, {0}}}, {{"k", "v"}});
    ASSERT_TRUE(writer) << writer.error().ToString();
    EXPECT_EQ(writer->Append("y", data).code(), Code::kFailedPrecondition);
    ASSERT_TRUE(writer->Append("x", ByteSpan(data).first(3)).ok());
    EXPECT_EQ(writer->Finish().code(), Code::kFailedPrecondition);
    EXPECT_EQ(writer->Append("x", data).code(), Code::kFailedPrecondition);
    EXPECT_FALSE(std::filesystem::exists(dir / "pieces"));
    ASSERT_TRUE(writer->Append("x", ByteSpan(data).subspan(3)).ok());
    ASSERT_TRUE(writer->Finish().ok());
  }
  EXPECT_EQ(*ReadFile(dir / "whole", 4096), *ReadFile(dir / "pieces", 4096));
  {
    auto abandoned = SafetensorsWriter::Create(dir / "abandoned", {{"x", DType::kF32, {2}}}, {});
    ASSERT_TRUE(abandoned);
    EXPECT_TRUE(std::filesystem::exists(dir / "abandoned.tmp"));
  }
  EXPECT_FALSE(std::filesystem::exists(dir / "abandoned.tmp"));
}

TEST(Safetensors, WriterRefusesBadTensors) {
  const Bytes four(4);
  EXPECT_FALSE(EncodeSafetensors({{"a", DType::kF32, {2}, four}}, {}));
  EXPECT_FALSE(EncodeSafetensors({{"", DType::kF32, {1}, four}}, {}));
  EXPECT_FALSE(
      EncodeSafetensors({{"a", DType::kF32, {1}, four}, {"a", DType::kF16, {2}, four}}, {}));
  EXPECT_FALSE(EncodeSafetensors({{"a", DType::kF32, {-1}, four}}, {}));
}

TEST(Safetensors, ForeignWriterAndTorchConversionsAgree) {
  const auto file = SafetensorsFile::Open(std::filesystem::path(TIDEGATE_SOURCE_DIR) /
                                          "tests/golden/formats/tensors.safetensors");
  ASSERT_TRUE(file) << file.error().ToString();
  EXPECT_EQ(file->metadata().at("made_by"), "make_formats.py");
  EXPECT_TRUE(file->Find("scalar")->shape.empty());
  const TensorView& floats = *file->Find("convert.f32");
  std::vector<float> values(floats.num_elements());
  ASSERT_TRUE(ReadFloats(floats, values).ok());
  ASSERT_GT(values.size(), 4000u);
  const uint8_t* half = file->Find("convert.f16")->bytes.data();
  const uint8_t* bf16 = file->Find("convert.bf16")->bytes.data();
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(FloatToHalf(values[i]), LoadLe16(half + 2 * i)) << values[i];
    ASSERT_EQ(FloatToBf16(values[i]), LoadLe16(bf16 + 2 * i)) << values[i];
  }
  EXPECT_EQ(ReadFloats(*file->Find("Q4_0.raw"), values).code(), Code::kUnsupported);
}

TEST(DType, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto word = static_cast<uint16_t>(i);
    if ((word & 0x7fff) > 0x7c00) {
      ASSERT_TRUE(std::isnan(HalfToFloat(word)) &&
                  std::isnan(HalfToFloat(FloatToHalf(HalfToFloat(word)))));
    } else {
      ASSERT_EQ(FloatToHalf(HalfToFloat(word)), word);
    }
    if ((word & 0x7fff) > 0x7f80) {
      ASSERT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(Bf16ToFloat(word)))));
    } else {
      ASSERT_EQ(FloatToBf16(Bf16ToFloat(word)), word);
    }
  }
}

TEST(SafetensorsFolder, ShardsAreJoinedAndBadIndexesRefused) {
  const auto dir = TempDir();
  const Bytes four(4);
  ASSERT_TRUE(WriteSafetensors(dir / "m-1.safetensors", {{"a", DType::kF32, {1}, four}}, {}).ok());
  ASSERT_TRUE(WriteSafetensors(dir / "m-2.safetensors", {{"b", DType::kF32, {1}, four}}, {}).ok());
  const auto open = [&](std::string_view index) {
    EXPECT_TRUE(WriteFileDurably(dir / "model.safetensors.index.json", AsBytes(index)).ok());
    return SafetensorsFolder::Open(dir);
  };
  const auto good = open(R"({"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}})");
  ASSERT_TRUE(good) << good.error().ToString();
  EXPECT_EQ(good->names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ((*good->Get("b"))->name, "b");
  EXPECT_EQ(good->Get("c").error().code(), Code::kNotFound);
  EXPECT_EQ(open(R"({"weight_map":{"a":"../m-1.safetensors"}})").error().code(),
            Code::kPermissionDenied);
  EXPECT_EQ(open(R"({"weight_map":{"a":"/m-1.safetensors"}})").error().code(),
            Code::kPermissionDenied);
  EXPECT_EQ(open(R"({"weight_map":{"b":"m-1.safetensors"}})").error().code(), Code::kDataLoss);
  EXPECT_EQ(open(R"({"weight_map":{"a":"m-3.safetensors"}})").error().code(), Code::kNotFound);
  EXPECT_EQ(open(R"({})").error().code(), Code::kDataLoss);
  ASSERT_TRUE(WriteSafetensors(dir / "m-2.safetensors",
                               {{"a", DType::kF32, {1}, four}, {"b", DType::kF32, {1}, four}}, {})
                  .ok());
  EXPECT_NE(open(R"({"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}})")
                .error()
                .message()
                .find("two shards"),
            std::string::npos);
}

}  // namespace
}  // namespace tidegate::tensor
