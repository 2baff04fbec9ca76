#include "corpus/tokenizer_files.h"

#include <nlohmann/json.hpp>

#include "model/tokenizer_bpe.h"

namespace tidegate::corpus {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string TextOf(const BpeVocabulary& vocabulary, uint32_t id) {
  const std::string& token = vocabulary.tokens[id];
  if (id < vocabulary.special_tokens) return token;
  std::string text;
  for (const char byte : token) text += model::ByteAlphabet()[static_cast<uint8_t>(byte)];
  return text;
}

ordered_json AddedToken(const std::string& content) {
  return {{"content", content}, {"single_word", false}, {"lstrip", false},
          {"rstrip", false},    {"normalized", false},  {"special", true}};
}

ordered_json ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

ordered_json PreTokenizer(SplitStyle style) {
  if (style == SplitStyle::kGpt2) return ByteLevel(true);
  const ordered_json split = {{"type", "Split"},
                              {"pattern", {{"Regex", kLlama3Pattern}}},
                              {"behavior", "Isolated"},
                              {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", {split, ByteLevel(false)}}};
}

}  // namespace

Result<SplitStyle> SplitStyleOf(std::string_view name) {
  if (name == "llama3") return SplitStyle::kLlama3;
  if (name == "gpt2") return SplitStyle::kGpt2;
  return InvalidArgument("\"{}\" is no way to cut text; there are llama3 and gpt2", name);
}

std::string_view PatternOf(SplitStyle style) {
  return style == SplitStyle::kGpt2 ? kGpt2Pattern : kLlama3Pattern;
}

std::string TokenizerJson(const BpeVocabulary& vocabulary, const TokenizerOptions& options) {
  ordered_json json;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = ordered_json::array();
  for (size_t id = 0; id < vocabulary.special_tokens; ++id) {
    ordered_json token = {{"id", id}};
    token.update(AddedToken(vocabulary.tokens[id]));
    json["added_tokens"].push_back(std::move(token));
  }
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = PreTokenizer(options.style);
  json["post_processor"] = nullptr;
  json["decoder"] = ByteLevel(true);
  ordered_json& model = json["model"];
  model = {{"type", "BPE"},
           {"dropout", nullptr},
           {"unk_token", nullptr},
           {"continuing_subword_prefix", nullptr},
           {"end_of_word_suffix", nullptr},
           {"fuse_unk", false},
           {"byte_fallback", false},
           {"ignore_merges", false}};
  // ordered_json looks each key up from its beginning: the members are put in as a list.
  auto& vocab = (model["vocab"] = ordered_json::object()).get_ref<ordered_json::object_t&>();
  vocab.reserve(vocabulary.tokens.size());
  std::vector<std::string> texts;
  for (uint32_t id = 0; id < vocabulary.tokens.size(); ++id) {
    texts.push_back(TextOf(vocabulary, id));
    vocab.emplace_back(texts.back(), id);
  }
  auto& merges = model["merges"] = ordered_json::array();
  for (const auto& [left, right] : vocabulary.merges) {
    merges.push_back(texts[left] + " " + texts[right]);
  }
  return json.dump(1) + "\n";
}

std::string TokenizerConfigJson(const BpeVocabulary& vocabulary, const TokenizerOptions& options) {
  ordered_json json;
  // Not a class of a model: those make the pre-tokenizer anew by their name.
  json["tokenizer_class"] = "PreTrainedTokenizerFast";
  json["bos_token"] = options.end_of_text;
  json["eos_token"] = options.end_of_text;
  json["clean_up_tokenization_spaces"] = false;
  if (options.model_max_length > 0) json["model_max_length"] = options.model_max_length;
  ordered_json& added = json["added_tokens_decoder"] = ordered_json::object();
  for (size_t id = 0; id < vocabulary.special_tokens; ++id) {
    added[std::to_string(id)] = AddedToken(vocabulary.tokens[id]);
  }
  return json.dump(1) + "\n";
}

}  // namespace tidegate::corpus
