#include "model/base_import.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "base/file.h"
#include "base/json.h"
#include "crypto/hash.h"
#include "gguf_builder.h"
#include "model/tokenizer.h"
#include "model/transformer.h"

namespace tidegate::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class BaseImport : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tg_import_XXXXXX").native();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }

  Result<ImportReport> Import(const GgufBuilder& builder,
                              tensor::DType dtype = tensor::DType::kF32) {
    EXPECT_TRUE(WriteFileDurably(root_ / "model.gguf", builder.Build()).ok());
    return ImportGguf(root_ / "model.gguf", root_ / "out", {.dtype = dtype});
  }
  // The refusal, after which neither the folder nor a piece of it may be there.
  Status Refused(const GgufBuilder& builder, tensor::DType dtype = tensor::DType::kF32) {
    const auto result = Import(builder, dtype);
    EXPECT_FALSE(result.has_value());
    int entries = 0;
    for (const auto& entry : fs::directory_iterator(root_)) entries += entry.exists();
    EXPECT_EQ(entries, 1) << "only model.gguf";
    return result ? OkStatus() : result.error();
  }
  json Json(const char* name) {
    const auto text = ReadTextFile(root_ / "out" / name, 1 << 20);
    return text ? json::parse(*text) : json();
  }
  std::vector<float> Weights(const std::string& name) {
    const auto file = tensor::SafetensorsFile::Open(root_ / "out" / "model.safetensors");
    const tensor::TensorView* view = file ? file->Find(name) : nullptr;
    if (view == nullptr) return {};
    std::vector<float> out(static_cast<size_t>(view->num_elements()));
    EXPECT_TRUE(tensor::ReadFloats(*view, out).ok());
    return out;
  }

  fs::path root_;
};

TEST_F(BaseImport, UndoesTheRowOrderOfQueriesAndKeysOnly) {
  GgufBuilder b = SmallLlama();
  ASSERT_TRUE(Import(b));
  const auto expect = [&](const char* name, const char* from, std::vector<int> rows) {
    const std::vector<float> out = Weights(name), in = b.Values(from);
    ASSERT_EQ(out.size(), in.size()) << name;
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(out[i], in[static_cast<size_t>(rows[i / 16]) * 16 + i % 16]) << name << " " << i;
    }
  };
  // Even places of a head are its first half.
  expect("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight",
         {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15});
  expect("model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", {0, 2, 4, 6, 1, 3, 5, 7});
  expect("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight", {0, 1, 2, 3, 4, 5, 6, 7});
  EXPECT_EQ(Weights("model.layers.0.mlp.down_proj.weight"), b.Values("blk.0.ffn_down.weight"));
  EXPECT_EQ(Weights("model.norm.weight"), b.Values("output_norm.weight"));
}

TEST_F(BaseImport, WritesWhatTransformersReads) {
  const auto report = Import(SmallLlama(), tensor::DType::kBF16);
  ASSERT_TRUE(report) << report.error().ToString();
  EXPECT_EQ(report->tensors, 11);
  EXPECT_EQ(report->weights, report->config.num_parameters());
  EXPECT_EQ(report->source_types, (std::map<std::string, int64_t>{{"F32", 11}}));
  EXPECT_EQ(report->tokens, 5);
  const json config = Json("config.json");
  EXPECT_EQ(config["torch_dtype"], "bfloat16");
  EXPECT_EQ(config["rms_norm_eps"].dump(), "1e-05") << "not 9.999999747378752e-06";
  EXPECT_EQ(config["rope_theta"], 100000.0);
  EXPECT_TRUE(config["tie_word_embeddings"]);
  EXPECT_TRUE(LoadHfConfig(root_ / "out" / "config.json"));
  const json tokenizer = Json("tokenizer_config.json");
  EXPECT_EQ(tokenizer["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_EQ(tokenizer["chat_template"], "{{ messages[0]['content'] }}");
  EXPECT_EQ(tokenizer["bos_token"], "<s>");
  EXPECT_FALSE(tokenizer.contains("pad_token"));
  EXPECT_EQ(Json("special_tokens_map.json"), (json{{"bos_token", "<s>"}, {"eos_token", "<s>"}}));
  EXPECT_EQ(Json("generation_config.json")["eos_token_id"], 0);
  const json added = Json("tokenizer.json")["added_tokens"];
  ASSERT_EQ(added.size(), 2u);
  EXPECT_TRUE(added[0]["special"]) << "control";
  EXPECT_FALSE(added[1]["special"]) << "user-defined";
  const auto file = tensor::SafetensorsFile::Open(root_ / "out" / "model.safetensors");
  ASSERT_TRUE(file);
  EXPECT_EQ(file->metadata(), (tensor::Metadata{{"format", "pt"}}));
  EXPECT_EQ(file->Find("model.norm.weight")->dtype, tensor::DType::kBF16);
}

TEST_F(BaseImport, APreTokenizerKeepsItsWayWithDigits) {
  const std::pair<const char*, std::vector<int32_t>> cases[] = {
      {"smollm", {1, 2}}, {"gpt-2", {3}}, {"llama-bpe", {3}}, {"qwen2", {1, 2}}};
  for (const auto& [pre, ids] : cases) {
    GgufBuilder b = SmallLlama();
    b.SetText("tokenizer.ggml.pre", pre);
    ASSERT_TRUE(Import(b)) << pre;
    const auto tokenizer = Tokenizer::Load(root_ / "out" / "tokenizer.json");
    ASSERT_TRUE(tokenizer);
    EXPECT_EQ(tokenizer->Encode("12")->ids, ids) << pre;
    // Only Llama-3 puts its beginning of sequence before a text by itself.
    const auto with = tokenizer->Encode("12", {.add_special_tokens = true})->ids;
    EXPECT_EQ(with.size(), ids.size() + (std::string_view(pre) == "llama-bpe")) << pre;
    fs::remove_all(root_ / "out");
  }
}

// Their rows of q and k are in transformers' order already.
TEST_F(BaseImport, QwensHaveBiasesOrNormsAndTheirRowsStay) {
  GgufBuilder qwen2 = SmallModel("qwen2"), qwen3 = SmallModel("qwen3");
  qwen2.SetTensor("blk.0.attn_q.bias", {16}, std::vector<float>(16, 0.5f));
  for (const char* name : {"blk.0.attn_k.bias", "blk.0.attn_v.bias"}) {
    qwen2.SetTensor(name, {8}, std::vector<float>(8, 0.25f));
  }
  for (const char* name : {"blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight"}) {
    qwen3.SetTensor(name, {8}, std::vector<float>(8, 0.75f));
  }
  for (GgufBuilder* b : {&qwen2, &qwen3}) {
    b->SetText("tokenizer.ggml.pre", "qwen2");
    const auto report = Import(*b);
    ASSERT_TRUE(report) << report.error().ToString();
    EXPECT_EQ(report->weights, report->config.num_parameters());
    EXPECT_EQ(Weights("model.layers.0.self_attn.q_proj.weight"), b->Values("blk.0.attn_q.weight"));
    EXPECT_EQ(Json("tokenizer.json")["normalizer"]["type"], "NFC");
    const auto base = Base::Load(root_ / "out", {});
    EXPECT_TRUE(base) << base.error().ToString();
    if (b == &qwen2) {
      EXPECT_EQ(Weights("model.layers.0.self_attn.q_proj.bias"), std::vector<float>(16, 0.5f));
    } else {
      EXPECT_EQ(Weights("model.layers.0.self_attn.k_norm.weight"), std::vector<float>(8, 0.75f));
    }
    fs::remove_all(root_ / "out");
  }
  GgufBuilder without = SmallModel("qwen2");
  EXPECT_THAT(Import(without).error().message(), testing::HasSubstr("blk.0.attn_q.bias"));
  GgufBuilder llama = SmallLlama();
  llama.SetTensor("blk.0.attn_q.bias", {16}, std::vector<float>(16, 0.5f));
  EXPECT_THAT(Import(llama).error().message(), testing::HasSubstr("\"blk.0.attn_q.bias\" is not"));
}

TEST_F(BaseImport, AHeadOfItsOwnIsNotTied) {
  GgufBuilder b = SmallLlama();
  b.SetTensor("output.weight", {5, 16}, std::vector<float>(80, 2.5f));
  b.SetText("llama.rope.scaling.type", "linear");
  b.SetFloat("llama.rope.scaling.factor", 4.0f);
  const auto report = Import(b);
  ASSERT_TRUE(report) << report.error().ToString();
  EXPECT_FALSE(report->config.tied);
  EXPECT_EQ(report->config.rope.type, RopeType::kLinear);
  EXPECT_EQ(report->config.rope.factor, 4.0);
  EXPECT_EQ(Weights("lm_head.weight"), std::vector<float>(80, 2.5f));
}

TEST_F(BaseImport, WhatIsNotBuiltIsRefusedByName) {
  const auto refused = [&](auto change, const char* name) {
    GgufBuilder b = SmallLlama();
    change(b);
    const Status status = Refused(b);
    EXPECT_EQ(status.code(), Code::kUnsupported) << status.ToString();
    EXPECT_NE(status.message().find(name), std::string::npos) << status.ToString();
  };
  refused([](auto& b) { b.SetText("general.architecture", "mamba"); }, "\"mamba\"");
  refused([](auto& b) { b.SetText("general.type", "adapter"); }, "of type \"adapter\", not of a");
  refused([](auto& b) { b.SetText("tokenizer.ggml.model", "llama"); }, "\"llama\"");
  refused([](auto& b) { b.SetText("tokenizer.ggml.pre", "tekken"); }, "\"tekken\"");
  refused([](auto& b) { b.SetUnsigned("llama.expert_count", 8); }, "8 experts");
  refused([](auto& b) { b.SetUnsigned("llama.rope.dimension_count", 4); }, "4 rotated");
  refused([](auto& b) { b.SetText("llama.rope.scaling.type", "yarn"); }, "\"yarn\"");
  refused(
      [](auto& b) {
        b.SetTensor("rope_freqs.weight", {4}, {1, 1, 8, 8});
      },
      "rope_freqs.weight");
  refused([](auto& b) { b.SetTensor("blk.0.attn_q.bias", {16}, std::vector<float>(16)); },
          "blk.0.attn_q.bias");
  refused(
      [](auto& b) {
        b.SetIntegers("tokenizer.ggml.token_type", {3, 1, 6, 1, 4});
      },
      "token 2 is of type 6");
}

TEST_F(BaseImport, ADamagedFileIsRefused) {
  const auto refused = [&](auto change, Code code) {
    GgufBuilder b = SmallLlama();
    change(b);
    const Status status = Refused(b);
    EXPECT_EQ(status.code(), code) << status.ToString();
  };
  refused([](auto& b) { b.RemoveTensor("blk.0.ffn_up.weight"); }, Code::kNotFound);
  refused([](auto& b) { b.Remove("llama.block_count"); }, Code::kNotFound);
  refused([](auto& b) { b.SetUnsigned("llama.feed_forward_length", 32); }, Code::kDataLoss);
  refused(
      [](auto& b) {
        b.SetUnsigned("llama.attention.head_count", 0);
        b.Remove("llama.rope.dimension_count");
      },
      Code::kInvalidArgument);
  refused([](auto& b) { b.SetUnsigned("llama.block_count", UINT32_MAX); }, Code::kInvalidArgument);
  refused([](auto& b) { b.SetUnsigned("tokenizer.ggml.eos_token_id", 5); }, Code::kInvalidArgument);
  refused([](auto& b) { b.SetUnsigned("tokenizer.ggml.unknown_token_id", 5); }, Code::kDataLoss);
  refused([](auto& b) { b.SetIntegers("tokenizer.ggml.token_type", {3, 1}); }, Code::kDataLoss);
  refused(
      [](auto& b) {
        b.SetTexts("tokenizer.ggml.tokens", {"<s>", "1", "1", "12", "x"});
      },
      Code::kDataLoss);
  refused(
      [](auto& b) {
        b.SetTexts("tokenizer.ggml.tokens", {"<s>", "1", "\xff", "12", "x"});
      },
      Code::kDataLoss);
  refused([](auto& b) { b.SetTexts("tokenizer.ggml.merges", {"1 2 1"}); }, Code::kInvalidArgument);
  refused([](auto& b) { b.Values("blk.0.attn_k.weight")[7] = NAN; }, Code::kDataLoss);
}

TEST_F(BaseImport, AWeightThatTheTypeCannotHoldIsRefused) {
  GgufBuilder b = SmallLlama();
  EXPECT_EQ(Refused(b, tensor::DType::kI8).code(), Code::kInvalidArgument);
  b.Values("blk.0.ffn_up.weight")[3] = 65520.0f;
  const Status status = Refused(b, tensor::DType::kF16);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("blk.0.ffn_up.weight"), std::string::npos) << status.ToString();
  b.Values("blk.0.ffn_up.weight")[3] = 65519.0f;
  ASSERT_TRUE(Import(b, tensor::DType::kF16));
  EXPECT_EQ(Weights("model.layers.0.mlp.up_proj.weight")[3], 65504.0f);
}

TEST_F(BaseImport, NothingThatIsThereIsReplaced) {
  fs::create_directories(root_ / "out");
  ASSERT_TRUE(Import(SmallLlama())) << "an empty folder may be filled";
  const auto again = Import(SmallLlama());
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code(), Code::kAlreadyExists);
  EXPECT_EQ(ImportGguf(root_ / "model.gguf", root_ / "model.gguf", {}).error().code(),
            Code::kAlreadyExists);
}

// The model that the documentation uses, where scripts/fetch_smollm2.sh has put it.
fs::path CachedSmolLm2() {
  const char* cache = std::getenv("TIDEGATE_CACHE");
  const char* home = std::getenv("HOME");
  const fs::path dir = cache != nullptr ? fs::path(cache)
                                        : fs::path(home != nullptr ? home : "") / ".cache/tidegate";
  return dir / "smollm2-135m-instruct-q4_1.gguf";
}

TEST_F(BaseImport, SmolLm2HasTheWeightsAndIdsOfTransformers) {
  const fs::path gguf = CachedSmolLm2();
  if (!fs::exists(gguf)) GTEST_SKIP() << "no " << gguf << "; scripts/fetch_smollm2.sh fetches it";
  const auto report = ImportGguf(gguf, root_ / "out", {.dtype = tensor::DType::kF32});
  ASSERT_TRUE(report) << report.error().ToString();
  const auto text = ReadTextFile(TIDEGATE_SOURCE_DIR "/tests/golden/smollm2/import.json", 16 << 20);
  ASSERT_TRUE(text);
  const json golden = json::parse(*text);

  const auto file = tensor::SafetensorsFile::Open(root_ / "out" / "model.safetensors");
  ASSERT_TRUE(file);
  crypto::Sha256 hash;
  for (const tensor::TensorView& view : file->tensors()) {
    const uint8_t zero = 0;
    hash.Update(AsBytes(view.name)).Update({&zero, 1}).Update(view.bytes);
  }
  EXPECT_EQ(ToHex(hash.Finish()), golden["weights_sha256"]);

  const auto tokenizer = Tokenizer::Load(root_ / "out" / "tokenizer.json");
  ASSERT_TRUE(tokenizer) << tokenizer.error().ToString();
  ASSERT_GE(golden["lines"].size(), 1000u);
  for (const json& line : golden["lines"]) {
    const auto encoding = tokenizer->Encode(line["text"].get<std::string>());
    ASSERT_TRUE(encoding) << encoding.error().ToString();
    ASSERT_EQ(encoding->ids, line["ids"].get<std::vector<int32_t>>()) << line["text"];
  }
}

}  // namespace
}  // namespace tidegate::model
