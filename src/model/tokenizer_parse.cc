#include <algorithm>

#include "base/json.h"
#include "base/limits.h"
#include "base/utf8.h"
#include "model/tokenizer_impl.h"

namespace tidegate::model {
namespace {

using nlohmann::json;

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// A member, null where it is absent; everything below works on objects.
const json& Member(const json& object, std::string_view key) {
  static const json& null = *new json();
  if (!object.is_object()) return null;
  const auto it = object.find(key);
  return it == object.end() ? null : *it;
}

std::string Text(const json& object, std::string_view key) {
  const json& value = Member(object, key);
  return value.is_string() ? value.get<std::string>() : std::string();
}

bool Flag(const json& object, std::string_view key, bool fallback) {
  const json& value = Member(object, key);
  return value.is_boolean() ? value.get<bool>() : fallback;
}

class Parser {
 public:
  Parser(const json& root, std::string_view what, Tokenizer::Impl& impl)
      : root_(root), what_(what), impl_(impl) {}

  Status Parse() {
    if (!root_.is_object()) return InvalidArgument("{} is not a JSON object", what_);
    TG_RETURN_IF_ERROR(ParseModel(Member(root_, "model")));
    TG_RETURN_IF_ERROR(ParseNormalizer(Member(root_, "normalizer")));
    TG_RETURN_IF_ERROR(ParsePreTokenizer());
    TG_RETURN_IF_ERROR(ParseDecoder(Member(root_, "decoder")));
    TG_RETURN_IF_ERROR(ParseAddedTokens(Member(root_, "added_tokens")));
    TG_RETURN_IF_ERROR(ParsePostProcessor(Member(root_, "post_processor")));
    return FillTokenBytes();
  }

 private:
  Error Refuse(std::string_view component, std::string_view type) const {
    return Unsupported("{}: the {} \"{}\" is not supported; byte-level BPE tokenizers are", what_,
                       component, type);
  }
  Error Malformed(std::string_view component) const {
    return InvalidArgument("{}: {} is missing or malformed", what_, component);
  }

  Status ParseModel(const json& model) {
    if (Text(model, "type") != "BPE") return Refuse("model", Text(model, "type"));
    for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!Text(model, key).empty()) return Refuse("BPE option", key);
    }
    if (Flag(model, "byte_fallback", false)) return Refuse("BPE option", "byte_fallback");
    const json& dropout = Member(model, "dropout");
    if (dropout.is_number() && dropout.get<double>() != 0) return Refuse("BPE option", "dropout");
    const json& vocab = Member(model, "vocab");
    if (!vocab.is_object()) return Malformed("model.vocab");
    std::vector<std::pair<std::string, int64_t>> tokens;
    tokens.reserve(vocab.size());
    for (const auto& [token, id] : vocab.items()) {
      if (!id.is_number_integer()) return Malformed("model.vocab");
      tokens.emplace_back(token, id.get<int64_t>());
    }
    Status status = impl_.bpe.SetVocabulary(tokens);
    if (status.ok()) status = ParseMerges(Member(model, "merges"));
    const std::string unknown = Text(model, "unk_token");
    if (status.ok() && !unknown.empty()) {
      status = impl_.bpe.SetUnknown(unknown, Flag(model, "fuse_unk", false));
    }
    impl_.bpe.set_ignore_merges(Flag(model, "ignore_merges", false));
    return status.ok() ? status : status.WithContext(what_);
  }

  Status ParseMerges(const json& merges) {
    if (!merges.is_array()) return Malformed("model.merges");
    for (const json& merge : merges) {
      if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        TG_RETURN_IF_ERROR(impl_.bpe.AddMerge(merge[0].get_ref<const std::string&>(),
                                              merge[1].get_ref<const std::string&>()));
        continue;
      }
      if (!merge.is_string()) return Malformed("model.merges");
      const std::string& text = merge.get_ref<const std::string&>();
      if (text.starts_with("#version")) continue;
      const size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        return InvalidArgument("the merge \"{}\" is not two tokens with a space between", text);
      }
      TG_RETURN_IF_ERROR(impl_.bpe.AddMerge(std::string_view(text).substr(0, space),
                                            std::string_view(text).substr(space + 1)));
    }
    return OkStatus();
  }

  Status ParseNormalizer(const json& normalizer) {
    if (normalizer.is_null()) return OkStatus();
    const std::string type = Text(normalizer, "type");
    if (type == "NFC") {
      impl_.nfc = true;
      return OkStatus();
    }
    if (type != "Sequence") return Refuse("normalizer", type);
    const json& list = Member(normalizer, "normalizers");
    if (!list.is_array()) return Malformed("normalizer.normalizers");
    for (const json& item : list) {
      if (Text(item, "type") != "NFC") return Refuse("normalizer", Text(item, "type"));
      impl_.nfc = true;
    }
    return OkStatus();
  }

  Status ParsePreTokenizer() {
    const json& root = Member(root_, "pre_tokenizer");
    std::vector<const json*> steps;
    if (Text(root, "type") == "Sequence") {
      const json& list = Member(root, "pretokenizers");
      if (!list.is_array() || list.size() > 16) return Malformed("pre_tokenizer.pretokenizers");
      for (const json& item : list) steps.push_back(&item);
    } else if (!root.is_null()) {
      steps.push_back(&root);
    }
    if (steps.empty() || Text(*steps.back(), "type") != "ByteLevel") {
      return Refuse("pre_tokenizer without ByteLevel at its end", Text(root, "type"));
    }
    for (const json* step : steps) {
      TG_RETURN_IF_ERROR(ParseStep(*step, step == steps.back()));
    }
    return OkStatus();
  }

  Status ParseStep(const json& step, bool last) {
    const std::string type = Text(step, "type");
    if (type == "ByteLevel") {
      if (!last) return Refuse("pre_tokenizer before another", type);
      if (Flag(step, "add_prefix_space", true)) return Refuse("ByteLevel", "add_prefix_space");
      if (!Flag(step, "use_regex", true)) return OkStatus();
      return AddStep(Pattern::Compile(kGpt2Pattern), false, false);
    }
    if (type == "Digits") {
      const bool single = Flag(step, "individual_digits", false);
      return AddStep(Pattern::Compile(single ? R"(\p{N})" : R"(\p{N}+)"), false, false);
    }
    if (type != "Split") return Refuse("pre_tokenizer", type);
    const std::string behavior = Text(step, "behavior");
    if (behavior != "Isolated" && behavior != "Removed") return Refuse("Split behavior", behavior);
    const json& pattern = Member(step, "pattern");
    const bool regex = Member(pattern, "Regex").is_string();
    const std::string text = Text(pattern, regex ? "Regex" : "String");
    return AddStep(regex ? Pattern::Compile(text) : Pattern::Literal(text), behavior == "Removed",
                   Flag(step, "invert", false));
  }

  Status AddStep(Result<Pattern> pattern, bool removed, bool invert) {
    if (!pattern) return pattern.error().WithContext(what_);
    impl_.steps.push_back({std::move(*pattern), removed, invert});
    return OkStatus();
  }

  Status ParseDecoder(const json& decoder) {
    const std::string type = Text(decoder, "type");
    if (type == "ByteLevel") return OkStatus();
    const json& list = Member(decoder, "decoders");
    if (type == "Sequence" && list.is_array() && list.size() == 1) return ParseDecoder(list[0]);
    return Refuse("decoder", type);
  }

  Status ParseAddedTokens(const json& list) {
    if (list.is_null()) return OkStatus();
    if (!list.is_array() || list.size() > kMaxAddedTokens) return Malformed("added_tokens");
    for (const json& item : list) {
      const json& id = Member(item, "id");
      AddedToken token;
      token.content = Text(item, "content");
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxVocabulary ||
          token.content.empty() || token.content.size() > kMaxTokenBytes) {
        return Malformed("an entry of added_tokens");
      }
      token.id = id.get<int32_t>();
      token.single_word = Flag(item, "single_word", false);
      token.lstrip = Flag(item, "lstrip", false);
      token.rstrip = Flag(item, "rstrip", false);
      token.normalized = Flag(item, "normalized", false);
      token.special = Flag(item, "special", false);
      TG_RETURN_IF_ERROR(AddToken(std::move(token)));
    }
    return OkStatus();
  }

  Status AddToken(AddedToken token) {
    const auto known = impl_.bpe.Id(token.content);
    const auto& tokens = impl_.bpe.tokens();
    const auto slot = static_cast<size_t>(token.id);
    const bool taken =
        slot < tokens.size() && !tokens[slot].empty() && tokens[slot] != token.content;
    if ((known && *known != token.id) || taken ||
        !impl_.added_ids.emplace(token.content, token.id).second ||
        !impl_.added_index.emplace(token.id, impl_.added.size()).second) {
      return InvalidArgument("{}: the added token \"{}\" of id {} clashes with another token",
                             what_, token.content, token.id);
    }
    if (token.normalized && impl_.nfc) {
      AddedToken normal = token;
      TG_ASSIGN_OR_RETURN(Normalized content, NormalizeNfc(token.content));
      normal.content = std::move(content.text);
      impl_.normalized_matcher.Add(normal);
    } else {
      (token.normalized ? impl_.normalized_matcher : impl_.raw_matcher).Add(token);
    }
    impl_.added.push_back(std::move(token));
    return OkStatus();
  }

  Status ParsePostProcessor(const json& processor) {
    const std::string type = Text(processor, "type");
    if (processor.is_null() || type == "ByteLevel") return OkStatus();
    if (type == "Sequence") {
      const json& list = Member(processor, "processors");
      if (!list.is_array()) return Malformed("post_processor.processors");
      for (const json& item : list) {
        if (Text(item, "type") == "Sequence") return Refuse("nested post_processor", "Sequence");
        TG_RETURN_IF_ERROR(ParsePostProcessor(item));
      }
      return OkStatus();
    }
    if (type != "TemplateProcessing") return Refuse("post_processor", type);
    const json& single = Member(processor, "single");
    if (!single.is_array()) return Malformed("post_processor.single");
    bool after = false;
    for (const json& item : single) {
      if (item.is_object() && item.contains("Sequence")) {
        after = true;
        continue;
      }
      const std::string name = Text(Member(item, "SpecialToken"), "id");
      const json& ids = Member(Member(Member(processor, "special_tokens"), name), "ids");
      if (name.empty() || !ids.is_array()) return Malformed("post_processor.special_tokens");
      for (const json& id : ids) {
        if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxVocabulary) {
          return Malformed("post_processor.special_tokens");
        }
        (after ? impl_.suffix_ids : impl_.prefix_ids).push_back(id.get<int32_t>());
      }
    }
    return OkStatus();
  }

  Status FillTokenBytes() {
    impl_.token_bytes.reserve(impl_.bpe.tokens().size());
    for (const std::string& token : impl_.bpe.tokens()) {
      impl_.token_bytes.push_back(BytesOfAlphabetText(token).value_or(token));
    }
    for (const AddedToken& token : impl_.added) {
      const auto slot = static_cast<size_t>(token.id);
      if (slot >= impl_.token_bytes.size()) impl_.token_bytes.resize(slot + 1);
      impl_.token_bytes[slot] = token.content;
    }
    for (const auto* ids : {&impl_.prefix_ids, &impl_.suffix_ids}) {
      for (const int32_t id : *ids) {
        if (static_cast<size_t>(id) >= impl_.token_bytes.size()) {
          return InvalidArgument("{}: the post_processor adds the unknown token {}", what_, id);
        }
      }
    }
    return OkStatus();
  }

  const json& root_;
  std::string what_;
  Tokenizer::Impl& impl_;
};

}  // namespace

Status ParseTokenizerJson(std::string_view json_text, std::string_view what,
                          Tokenizer::Impl& impl) {
  TG_ASSIGN_OR_RETURN(const json root,
                      ParseStrictJson(json_text, {.max_bytes = kMaxTokenizerBytes}, what));
  return Parser(root, what, impl).Parse();
}

}  // namespace tidegate::model
