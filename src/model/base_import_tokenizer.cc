#include <nlohmann/json.hpp>
#include <vector>

#include "base/limits.h"
#include "base/utf8.h"
#include "model/base_import_parts.h"
#include "model/tokenizer.h"

namespace tidegate::model {
namespace {

using nlohmann::json;

// ggml's token types.
constexpr int64_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5;

constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

json ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

// As Llama-3's, but every digit is alone.
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct PreTokenizer {
  json steps;
  bool ignore_merges = false;
  json normalizer = nullptr;
};

json SplitBy(std::string_view pattern) {
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", pattern}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", json::array({split, ByteLevel(false)})}};
}

// What llama.cpp's converter calls a pre-tokenizer, as Hugging Face tokenizers spell it.
Result<PreTokenizer> FindPreTokenizer(std::string_view pre, std::string_view what) {
  if (pre == "gpt-2") return PreTokenizer{ByteLevel(true)};
  if (pre == "smollm") {
    const json digits = {{"type", "Digits"}, {"individual_digits", true}};
    return PreTokenizer{
        {{"type", "Sequence"}, {"pretokenizers", json::array({digits, ByteLevel(true)})}}};
  }
  if (pre == "llama-bpe") return PreTokenizer{SplitBy(kLlama3Pattern), true};
  if (pre == "qwen2") return PreTokenizer{SplitBy(kQwen2Pattern), false, {{"type", "NFC"}}};
  return Unsupported(
      "{}: the pre-tokenizer \"{}\" is not known; known are gpt-2, smollm, llama-bpe and qwen2. "
      "Import "
      "the model's Hugging Face folder if there is one",
      what, pre);
}

Status CheckText(std::string_view text, std::string_view kind, size_t index, size_t limit,
                 std::string_view what) {
  if (text.empty() || text.size() > limit) {
    return DataLoss("{}: {} {} has {} bytes, allowed are 1 to {}", what, kind, index, text.size(),
                    limit);
  }
  if (ValidUtf8Prefix(text) != text.size()) {
    return DataLoss("{}: {} {} is not UTF-8", what, kind, index);
  }
  return OkStatus();
}

json AddedToken(int64_t id, std::string_view content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

struct Vocabulary {
  std::vector<std::string_view> tokens;
  json vocab = json::object();
  json added = json::array();
};

Result<Vocabulary> ReadVocabulary(const tensor::GgufFile& gguf, const ModelConfig& config,
                                  std::string_view what) {
  Vocabulary out;
  TG_ASSIGN_OR_RETURN(out.tokens, gguf.GetStrings("tokenizer.ggml.tokens"));
  TG_ASSIGN_OR_RETURN(const auto types, gguf.GetIntegers("tokenizer.ggml.token_type"));
  if (types.size() != out.tokens.size() ||
      out.tokens.size() > static_cast<size_t>(config.vocab_size)) {
    return DataLoss("{}: {} tokens, {} token types and {} rows of embeddings do not fit together",
                    what, out.tokens.size(), types.size(), config.vocab_size);
  }
  for (size_t id = 0; id < out.tokens.size(); ++id) {
    // The converter fills the gaps of a padded vocabulary with unused tokens.
    if (types[id] == kUnused) continue;
    const std::string_view token = out.tokens[id];
    TG_RETURN_IF_ERROR(CheckText(token, "token", id, kMaxTokenBytes, what));
    if (types[id] < kNormal || types[id] > kUserDefined) {
      return Unsupported("{}: token {} is of type {}, which byte-level BPE does not have", what, id,
                         types[id]);
    }
    if (!out.vocab.emplace(std::string(token), id).second) {
      return DataLoss("{}: tokens {} and {} are the same text", what,
                      out.vocab[std::string(token)].dump(), id);
    }
    if (types[id] != kNormal) {
      out.added.push_back(AddedToken(static_cast<int64_t>(id), token,
                                     types[id] == kControl || types[id] == kUnknown));
    }
  }
  return out;
}

Result<json> ReadMerges(const tensor::GgufFile& gguf, std::string_view what) {
  TG_ASSIGN_OR_RETURN(const auto merges, gguf.GetStrings("tokenizer.ggml.merges"));
  if (merges.size() > kMaxMerges) {
    return ResourceExhausted("{}: {} merges, the limit is {}", what, merges.size(), kMaxMerges);
  }
  json out = json::array();
  for (size_t i = 0; i < merges.size(); ++i) {
    TG_RETURN_IF_ERROR(CheckText(merges[i], "merge", i, 2 * kMaxTokenBytes + 1, what));
    out.push_back(merges[i]);
  }
  return out;
}

// The tokens with a role: {"bos_token": "<|im_start|>", ...}.
Result<json> SpecialTokens(const tensor::GgufFile& gguf, const Vocabulary& vocabulary,
                           std::string_view what) {
  json out = json::object();
  for (const auto& [name, key] : {std::pair{"bos_token", "bos"},
                                  {"eos_token", "eos"},
                                  {"pad_token", "padding"},
                                  {"unk_token", "unknown"}}) {
    const std::string full = fmt::format("tokenizer.ggml.{}_token_id", key);
    if (!gguf.Has(full)) continue;
    TG_ASSIGN_OR_RETURN(const uint64_t id, gguf.GetUnsigned(full));
    if (id >= vocabulary.tokens.size() ||
        !vocabulary.vocab.contains(std::string(vocabulary.tokens[id]))) {
      return DataLoss("{}: {} is {}, which is not a token", what, full, id);
    }
    out[name] = vocabulary.tokens[id];
  }
  return out;
}

json PostProcessor(std::string_view bos, int64_t bos_id) {
  const json first = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
  const json second = {{"SpecialToken", {{"id", bos}, {"type_id", 1}}}};
  const json a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json b = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  json special = json::object();
  special[std::string(bos)] = {
      {"id", bos}, {"ids", json::array({bos_id})}, {"tokens", json::array({bos})}};
  return {{"type", "TemplateProcessing"},
          {"single", json::array({first, a})},
          {"pair", json::array({first, a, second, b})},
          {"special_tokens", special}};
}

std::string Dump(const json& value) {
  return value.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

// Does the tokenizer put the beginning of sequence before a text?
Result<bool> AddsBos(const tensor::GgufFile& gguf, std::string_view pre, const json& special) {
  constexpr std::string_view kKey = "tokenizer.ggml.add_bos_token";
  if (!special.contains("bos_token")) return false;
  if (!gguf.Has(kKey)) return pre == "llama-bpe";
  return gguf.GetBool(kKey);
}

Result<json> TokenizerConfig(const tensor::GgufFile& gguf, const ModelConfig& config,
                             const json& special, std::string_view what) {
  json out = special;
  out["add_prefix_space"] = false;
  out["clean_up_tokenization_spaces"] = false;
  out["model_max_length"] = config.max_positions;
  // Not the model's own class: in transformers 5 that one rebuilds the pre-tokenizer from its name
  // and forgets what tokenizer.json says.
  out["tokenizer_class"] = "PreTrainedTokenizerFast";
  constexpr std::string_view kTemplate = "tokenizer.chat_template";
  if (gguf.Has(kTemplate)) {
    TG_ASSIGN_OR_RETURN(const std::string_view text, gguf.GetString(kTemplate));
    TG_RETURN_IF_ERROR(CheckText(text, "chat template", 0, kMaxTemplateBytes, what));
    out["chat_template"] = text;
  }
  return out;
}

}  // namespace

Result<TokenizerFiles> GgufTokenizer(const tensor::GgufFile& gguf, const ModelConfig& config,
                                     std::string_view what) {
  TG_ASSIGN_OR_RETURN(const std::string_view kind, gguf.GetString("tokenizer.ggml.model"));
  if (kind != "gpt2") {
    return Unsupported("{}: the tokenizer \"{}\" is not supported; \"gpt2\", byte-level BPE, is",
                       what, kind);
  }
  TG_ASSIGN_OR_RETURN(const std::string_view pre, gguf.GetString("tokenizer.ggml.pre"));
  TG_ASSIGN_OR_RETURN(const PreTokenizer pre_tokenizer, FindPreTokenizer(pre, what));
  TG_ASSIGN_OR_RETURN(Vocabulary vocabulary, ReadVocabulary(gguf, config, what));
  TG_ASSIGN_OR_RETURN(json merges, ReadMerges(gguf, what));
  TG_ASSIGN_OR_RETURN(const json special, SpecialTokens(gguf, vocabulary, what));
  TG_ASSIGN_OR_RETURN(const bool adds_bos, AddsBos(gguf, pre, special));
  TG_ASSIGN_OR_RETURN(const json tokenizer_config, TokenizerConfig(gguf, config, special, what));
  json post_processor = nullptr;
  if (adds_bos) {
    const std::string bos = special["bos_token"];
    post_processor = PostProcessor(bos, vocabulary.vocab[bos].get<int64_t>());
  }
  json model = {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", nullptr},
                {"continuing_subword_prefix", nullptr},
                {"end_of_word_suffix", nullptr},
                {"fuse_unk", false},
                {"byte_fallback", false},
                {"ignore_merges", pre_tokenizer.ignore_merges}};
  model["vocab"] = std::move(vocabulary.vocab);
  model["merges"] = std::move(merges);
  json root = {{"version", "1.0"},           {"truncation", nullptr},
               {"padding", nullptr},         {"normalizer", pre_tokenizer.normalizer},
               {"decoder", ByteLevel(true)}, {"pre_tokenizer", pre_tokenizer.steps}};
  root["added_tokens"] = std::move(vocabulary.added);
  root["post_processor"] = std::move(post_processor);
  root["model"] = std::move(model);
  TokenizerFiles out;
  out.tokenizer_json = Dump(root);
  out.tokenizer_config_json = Dump(tokenizer_config);
  out.special_tokens_map_json = Dump(special);
  out.has_chat_template = tokenizer_config.contains("chat_template");
  // What is written must be what this project reads, so its reader judges it now.
  TG_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::FromJson(out.tokenizer_json, what));
  out.tokens = tokenizer.vocab_size();
  return out;
}

}  // namespace tidegate::model
