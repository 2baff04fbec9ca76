// Bad files, one row each: the command must end with its exit code, name the file, the field and
// the limit, and leave the run that was there as it was.
#include <cmath>
#include <cstring>

#include "base/bytes.h"
#include "tests/model/gguf_builder.h"
#include "verb_fixture.h"

namespace tidegate::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct Row {
  const char* what;
  std::vector<std::string> command;
  int exit_code;
  std::vector<std::string> told;
};

using Edit = std::function<std::string(std::string)>;

Edit CutTo(size_t bytes) {
  return [bytes](std::string file) { return file.substr(0, bytes); };
}
Edit Instead(const std::string& text) {
  return [text](const std::string&) { return text; };
}
Edit Change(const std::function<void(json&)>& change) {
  return [change](const std::string& file) {
    json root = json::parse(file);
    change(root);
    return root.dump();
  };
}
Edit Set(const std::string& key, const json& value) {
  return Change([key, value](json& root) { root[key] = value; });
}
// The JSON header of a safetensors file, as text.
Edit Header(const std::function<std::string(json)>& change) {
  return [change](const std::string& file) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(file.data());
    const uint64_t size = LoadLe64(bytes);
    std::string header = change(json::parse(file.substr(8, size)));
    header.resize((header.size() + 7) / 8 * 8, ' ');
    uint8_t prefix[8];
    StoreLe64(prefix, header.size());
    return std::string(prefix, prefix + 8) + header + file.substr(8 + size);
  };
}
Edit HeaderOf(const std::string& tensor, const std::string& key, const json& value) {
  return Header([=](json header) {
    header[tensor][key] = value;
    return header.dump();
  });
}
Edit HeaderSize(uint64_t size) {
  return [size](std::string file) {
    uint8_t prefix[8];
    StoreLe64(prefix, size);
    return std::string(prefix, prefix + 8) + file.substr(8);
  };
}
// Element `index` of an F32 tensor.
Edit Element(const std::string& tensor, size_t index, float value) {
  return [=](std::string file) {
    const uint64_t size = LoadLe64(reinterpret_cast<const uint8_t*>(file.data()));
    const json header = json::parse(file.substr(8, size));
    const size_t at = 8 + size + header[tensor]["data_offsets"][0].get<size_t>() + 4 * index;
    std::memcpy(&file.at(at), &value, sizeof(value));
    return file;
  };
}

constexpr const char* kUp = "model.layers.1.mlp.up_proj.weight";
constexpr const char* kLoraA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

class BadInput : public VerbFixture {
 protected:
  void SetUp() override {
    VerbFixture::SetUp();
    good_ = Records("good.jsonl", 4);
  }

  // The tiny base with one file changed.
  std::string Base(const std::string& file, const Edit& edit) {
    const std::string name = "base" + std::to_string(++made_);
    CopyBase(name);
    Write(name + "/" + file, edit(Read(root_ / name / file)));
    return At(name);
  }
  std::string Adapter(const std::string& file, const Edit& edit) {
    const std::string name = "adapter" + std::to_string(++made_);
    fs::copy(kTinyBase / "adapter_in", root_ / name);
    Write(name + "/" + file, edit(Read(root_ / name / file)));
    return At(name);
  }
  std::string Gguf(const Bytes& bytes) {
    return Write("model" + std::to_string(++made_) + ".gguf", AsText(bytes));
  }
  // Goes on with the good run that Judge makes.
  std::vector<std::string> Tune(const std::string& base, const std::string& data,
                                const std::vector<std::string>& more = {}) const {
    return With({"finetune", "--base", base, "--data", data, "--out", At("out"), "--resume",
                 "--max-steps", "1", "--max-length", "128", "--threads", "1"},
                more);
  }
  std::vector<std::string> OnBase(const std::string& file, const Edit& edit) {
    return Tune(Base(file, edit), good_);
  }
  std::vector<std::string> OnTemplate(const std::string& text) {
    return OnBase("tokenizer_config.json", Set("chat_template", text));
  }
  std::vector<std::string> OnData(const std::string& text) {
    return Tune(kTinyBase.native(), Write("bad" + std::to_string(++made_) + ".jsonl", text));
  }
  std::vector<std::string> OnAdapter(const std::string& dir) {
    return Tune(kTinyBase.native(), good_, {"--adapter", dir});
  }

  void Judge(const std::vector<Row>& rows) {
    const RunResult run = Tidegate(Tune(kTinyBase.native(), good_));
    ASSERT_EQ(run.exit_code, 0) << run.err;
    const auto before = Snapshot(root_ / "out");
    for (const Row& row : rows) {
      SCOPED_TRACE(row.what);
      const RunResult bad = Tidegate(With(row.command, {"--format", "json"}));
      EXPECT_EQ(bad.exit_code, row.exit_code) << bad.err;
      EXPECT_EQ(bad.out, "");
      // The error is the last line; a machine without all walls warns before it.
      const std::string text = bad.err.substr(0, bad.err.find_last_not_of('\n') + 1);
      const json error = Parsed(text.substr(text.rfind('\n') + 1));
      const std::string message = error["error"].value("message", "");
      for (const std::string& part : row.told) {
        EXPECT_NE(message.find(part), std::string::npos) << part << " is not in: " << message;
      }
    }
    EXPECT_TRUE(Snapshot(root_ / "out") == before) << "the good run is not as it was";
  }

  std::string good_;
  int made_ = 0;
};

TEST_F(BadInput, Weights) {
  const std::string file = "model.safetensors";
  const size_t size = fs::file_size(kTinyBase / file);
  std::vector<Row> rows = {
      {"empty", OnBase(file, CutTo(0)), 8, {file, "0 bytes", "at least 8"}},
      {"cut in its header", OnBase(file, CutTo(500)), 8, {file}},
      {"cut in its tensors", OnBase(file, CutTo(size / 2)), 8, {file, "974592", "cut or damaged"}},
      {"a byte too many", OnBase(file, CutTo(size - 1)), 8, {file, "cut or damaged"}},
      {"a header of 2^64 bytes",
       OnBase(file, HeaderSize(UINT64_MAX)),
       8,
       {file, "18446744073709551615 bytes", "the limit is 100000000"}},
      {"no JSON",
       OnBase(file, Header([](json) { return "{\"a\":"; })),
       8,
       {file, "(header): malformed JSON"}},
      {"nested",
       OnBase(file, Header([](json) { return std::string(200'000, '['); })),
       8,
       {file, "the header is not a JSON object"}},
      {"a tensor twice",
       OnBase(file, Header([](json header) {
                return "{\"" + std::string(kUp) + "\":" + header[kUp].dump() + "," +
                       header.dump().substr(1);
              })),
       8,
       {file, std::string("the key \"") + kUp + "\" appears twice"}},
      {"offsets below 0",
       OnBase(file, HeaderOf(kUp, "data_offsets", {-4, 4})),
       8,
       {file, kUp, "must be a whole number"}},
      {"offsets over another", OnBase(file, HeaderOf(kUp, "data_offsets", {0, 61440})), 8, {file}},
      {"a shape that overflows",
       OnBase(file, HeaderOf(kUp, "shape", {1ll << 62, 1ll << 62})),
       8,
       {file, kUp, "does not fill its offsets"}},
      {"an unknown type",
       OnBase(file, HeaderOf(kUp, "dtype", "F6")),
       12,
       {file, kUp, "has dtype F6, which is not supported; convert it to F32"}},
      {"without a tensor",
       OnBase(file, Header([](json header) {
                header["model.layers.1.mlp.up_prj.weight"] = header[kUp];
                header.erase(kUp);
                return header.dump();
              })),
       2,
       {std::string("no tensor \"") + kUp}},
      {"NaN", OnBase(file, Element(kUp, 10, NAN)), 1, {kUp, "NaN or Inf", "fetch it again"}},
      {"Inf in f32",
       OnBase(file, Element("model.norm.weight", 95, INFINITY)),
       1,
       {"model.norm.weight", "NaN or Inf"}},
  };
  rows.back().command.insert(rows.back().command.end(), {"--dtype", "f32"});
  rows.push_back({"inspected", {"base", "inspect", Base(file, CutTo(size / 2))}, 8, {file}});
  Judge(rows);
}

TEST_F(BadInput, ConfigurationAndTokenizer) {
  const std::string file = "config.json";
  Judge({
      {"cut", OnBase(file, CutTo(100)), 1, {file, "malformed JSON"}},
      {"nested", OnBase(file, Instead(std::string(5000, '['))), 1, {file, "deeper than 64"}},
      {"a key twice",
       OnBase(file, Instead("{\"vocab_size\":1,\"vocab_size\":2}")),
       1,
       {file, "vocab_size"}},
      {"too long", OnBase(file, Instead(std::string(2 << 20, ' '))), 5, {file, "the limit is"}},
      {"a size of 2^40",
       OnBase(file, Set("hidden_size", 1ll << 40)),
       1,
       {file, "hidden_size is 1099511627776, allowed are 1 to 65536"}},
      {"more layers than weights",
       OnBase(file, Set("num_hidden_layers", 512)),
       2,
       {"no tensor \"model.layers.3."}},
      {"less than nothing",
       OnBase(file, Set("num_hidden_layers", -1)),
       1,
       {file, "num_hidden_layers is -1"}},
      {"no whole number", OnBase(file, Set("vocab_size", 3.5)), 1, {file, "vocab_size"}},
      {"another shape",
       OnBase(file, Set("intermediate_size", 161)),
       1,
       {"gate_proj.weight has shape [160, 96], config.json says [161, 96]"}},
      {"another architecture",
       OnBase(file, Set("model_type", "mamba")),
       12,
       {file, "\"mamba\"", "llama"}},
      {"a vocabulary that is too small",
       OnBase(file, Set("vocab_size", 300)),
       1,
       {"the tokenizer has 323 ids", "300"}},
      {"a tokenizer that is cut",
       OnBase("tokenizer.json", CutTo(1000)),
       1,
       {"tokenizer.json", "malformed JSON"}},
      {"a tokenizer of another kind",
       OnBase("tokenizer.json", Change([](json& root) { root["model"]["type"] = "Unigram"; })),
       12,
       {"tokenizer.json", "\"Unigram\"", "BPE"}},
      {"tokenizer settings that are cut",
       OnBase("tokenizer_config.json", CutTo(50)),
       1,
       {"tokenizer_config.json", "malformed JSON"}},
  });
}

TEST_F(BadInput, ChatTemplates) {
  const std::string file = "tokenizer_config.json";
  std::string doubling = "{% set x = 'aaaaaaaaaaaaaaaa' %}";
  for (int i = 0; i < 16; ++i) doubling += "{% set x = x ~ x ~ x ~ x %}";
  json many = json::array();
  for (int i = 0; i < 200; ++i) many.push_back({{"role", "user"}, {"content", "q"}});
  const std::string long_chat = Write("long.jsonl", json{{"messages", many}}.dump() + "\n");
  const std::string cubed =
      "{% for a in messages %}{% for b in messages %}{% for c in messages %}x{% endfor %}"
      "{% endfor %}{% endfor %}";
  Judge({
      {"syntax", OnTemplate("{% for m in messages %}\n{{ m.content }"), 1, {file, "line 2"}},
      {"nested",
       OnTemplate("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}"),
       1,
       {file, "nested more than 100 deep"}},
      {"too long",
       OnTemplate(std::string((1 << 20) + 1, 'a')),
       1,
       {file, "1048577 bytes", "at most 1048576"}},
      {"grows without end", OnTemplate(doubling + "{{ x }}"), 5, {file, "more than 67108864"}},
      {"runs without end",
       Tune(Base(file, Set("chat_template", cubed)), long_chat),
       5,
       {file, "4000000"}},
      {"asks for Python", OnTemplate("{{ ''.__class__.__mro__ }}"), 1, {file, "'__mro__'"}},
      {"a filter that is not built",
       OnTemplate("{{ messages | attr('x') }}"),
       12,
       {file, "the filter 'attr' is not supported", "trim"}},
      {"refuses the conversation",
       OnTemplate("{{ raise_exception('no users here') }}"),
       1,
       {good_, "line 1", "no users here"}},
      {"leaves the answer out",
       OnTemplate("always the same"),
       4,
       {good_, "line 1", "leaves out the content of message 2", "{% generation %}"}},
  });
}

TEST_F(BadInput, Records) {
  const std::string good = Chat("q", "a");
  std::string long_record;
  for (int i = 0; i < 400; ++i) long_record += "x y ";
  fs::create_directory(root_ / "folder.jsonl");
  std::vector<Row> rows = {
      {"empty", OnData(""), 1, {".jsonl has no record; one JSON object a line"}},
      {"cut in a line", OnData(good + good.substr(0, 30)), 1, {".jsonl line 2", "strict JSON"}},
      {"no UTF-8", OnData(good + "{\"text\":\"\xff\"}\n"), 1, {".jsonl line 2", "UTF-8"}},
      {"a key twice",
       OnData(good + "{\"text\":\"a\",\"text\":\"b\"}\n"),
       1,
       {"line 2", "key twice"}},
      {"packed", OnData(std::string("\x1f\x8b\x08\x00 gzip", 9)), 1, {".jsonl line 1"}},
      {"an array of records",
       OnData("[" + good.substr(0, good.size() - 1) + "]\n"),
       1,
       {".jsonl line 1: is not a JSON object"}},
      {"nested", OnData("{\"text\":" + std::string(100'000, '[') + "\n"), 1, {".jsonl line 1"}},
      {"an unknown role",
       OnData("{\"messages\":[{\"role\":\"root\",\"content\":\"x\"}]}\n"),
       1,
       {"line 1", "system, user, assistant, tool"}},
      {"nothing to train",
       OnData("{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}\n"),
       1,
       {"none of 1 records has a token to train", "max_length", "--assistant_only_loss false"}},
      {"over the context",
       OnData(good + "{\"text\":\"" + long_record + "\"}\n"),
       1,
       {".jsonl line 2", "max_position_embeddings) is 256", "shorten or split the record"}},
      {"a line over the limit",
       OnData("{\"text\":\"" + std::string(17u << 20, 'a') + "\"}\n"),
       5,
       {".jsonl line 1", "the limit of 16777216 bytes"}},
      {"a folder",
       Tune(kTinyBase.native(), At("folder.jsonl")),
       1,
       {"folder.jsonl is not a regular file; give the path of a JSONL file"}},
      {"held-out records",
       Tune(kTinyBase.native(), good_, {"--eval_data", Write("held.jsonl", good + "{}\n")}),
       1,
       {"held.jsonl line 2"}},
      {"measured",
       {"eval", "--base", kTinyBase.native(), "--data", At("held.jsonl")},
       1,
       {"held.jsonl line 2", "has none of \"messages\""}},
      {"asked without an answer",
       {"eval", "--base", kTinyBase.native(), "--data", Write("text.jsonl", "{\"text\":\"a b\"}\n"),
        "--exact_match", "--threads", "1"},
       1,
       {"text.jsonl", "line 1 asks nothing"}},
  };
  Judge(rows);
}

TEST_F(BadInput, Adapters) {
  const std::string file = "adapter_model.safetensors", config = "adapter_config.json";
  const std::string base = kUntiedBase.native(), other = (kTinyBase / "adapter_in").native();
  const char* shape = "has shape [4, 96], expected [4, 128] for this base and rank";
  const std::string cut = Adapter(file, CutTo(3000));
  Judge({
      {"of another base", Tune(base, good_, {"--adapter", other}), 1, {file, kLoraA, shape}},
      {"of another base, to answer",
       {"generate", "--base", base, "--adapter", other, "--prompt", "x"},
       1,
       {file, kLoraA, shape}},
      {"of another base, to measure",
       {"eval", "--base", base, "--adapter", other, "--data", good_},
       1,
       {file, kLoraA, shape}},
      {"of a base with fewer layers",
       OnAdapter((kUntiedBase / "adapter_in").native()),
       12,
       {config, "q_proj in 2 of the 3 layers"}},
      {"cut", OnAdapter(cut), 8, {file}},
      {"cut, inspected", {"adapter", "inspect", cut, "--base", kTinyBase.native()}, 8, {file}},
      {"NaN",
       OnAdapter(Adapter(file, Element(kLoraA, 3, NAN))),
       1,
       {file, kLoraA, "NaN or Inf", "damaged"}},
      {"without a tensor",
       OnAdapter(Adapter(file, Header([](json header) {
                           header["base_model.model.stray.weight"] = header[kLoraA];
                           header.erase(kLoraA);
                           return header.dump();
                         }))),
       1,
       {file}},
      {"DoRA", OnAdapter(Adapter(config, Set("use_dora", true))), 12, {config, "use_dora"}},
      {"a rank of 0", OnAdapter(Adapter(config, Set("r", 0))), 1, {config, "r"}},
      {"a rank of a million", OnAdapter(Adapter(config, Set("r", 1'000'000))), 1, {config}},
      {"no number for alpha",
       OnAdapter(Adapter(config, Set("lora_alpha", "much"))),
       1,
       {config, "lora_alpha"}},
      {"a configuration that is cut",
       OnAdapter(Adapter(config, CutTo(40))),
       1,
       {config, "malformed JSON"}},
  });
}

TEST_F(BadInput, GgufFiles) {
  const Bytes whole = model::SmallLlama().Build();
  const auto import = [&](Bytes bytes) {
    return std::vector<std::string>{"base", "import", Gguf(bytes), At("imported")};
  };
  const auto with = [&](size_t at, uint64_t value) {
    Bytes bytes = whole;
    StoreLe64(&bytes.at(at), value);
    return import(bytes);
  };
  model::GgufBuilder not_a_number = model::SmallLlama(), no_layers = not_a_number;
  not_a_number.Values("blk.0.ffn_up.weight")[5] = NAN;
  no_layers.SetUnsigned("llama.block_count", 0);
  const auto cut = [&](size_t bytes) {
    return import(Bytes(whole.begin(), whole.begin() + bytes));
  };
  Judge({
      {"empty", import({}), 8, {".gguf"}},
      {"cut in its keys", cut(300), 8, {".gguf", "the file is cut"}},
      {"cut in its tensors", cut(whole.size() - 64), 8, {".gguf", "the file is cut"}},
      {"another format", with(0, 0x4d4c4747), 8, {".gguf is not a GGUF file"}},
      {"2^64 tensors", with(8, UINT64_MAX), 8, {".gguf claims 18446744073709551615 tensors"}},
      {"a key of 2^63 bytes", with(24, 1ull << 63), 8, {".gguf", "9223372036854775808"}},
      {"NaN", import(not_a_number.Build()), 8, {".gguf", "blk.0.ffn_up.weight", "not finite"}},
      {"no layers",
       import(no_layers.Build()),
       1,
       {".gguf", "num_hidden_layers is 0, allowed are 1 to"}},
  });
  EXPECT_FALSE(fs::exists(root_ / "imported")) << "nothing of a bad file is left";
}

}  // namespace
}  // namespace tidegate::cli
