#include "model/tokenizer.h"

#include <unordered_map>

#include "base/file.h"
#include "base/limits.h"
#include "base/utf8.h"
#include "model/tokenizer_impl.h"

namespace tidegate::model {
namespace {

constexpr size_t kMaxCachedWords = 1 << 16;
constexpr size_t kMaxCachedWordBytes = 64;

// Lets a map of strings be asked with a view.
struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};

// Encodes one text; remembers the words it has seen, since text repeats them.
class Encoder {
 public:
  Encoder(const Tokenizer::Impl& impl, Encoding& out) : impl_(impl), out_(out) {}

  Status Text(std::string_view text) {
    for (const auto& part : impl_.raw_matcher.Split(text)) {
      if (part.id >= 0) {
        Add(part.id, part.range.begin, part.range.end);
      } else {
        TG_RETURN_IF_ERROR(Ordinary(
            text.substr(part.range.begin, part.range.end - part.range.begin), part.range.begin));
      }
    }
    return OkStatus();
  }

  void Add(int32_t id, uint32_t begin, uint32_t end) {
    out_.ids.push_back(id);
    out_.begins.push_back(begin);
    out_.ends.push_back(end);
  }

 private:
  // Text between added tokens, which begins at byte `base` of the whole.
  Status Ordinary(std::string_view text, uint32_t base) {
    if (!impl_.nfc) return Normal(text, base, nullptr);
    TG_ASSIGN_OR_RETURN(const Normalized normalized, NormalizeNfc(text));
    return Normal(normalized.text, base, &normalized);
  }

  Status Normal(std::string_view text, uint32_t base, const Normalized* way_back) {
    const auto add = [&](int32_t id, uint32_t begin, uint32_t end) {
      if (way_back != nullptr && end > begin) {
        end = way_back->ends[end - 1];
        begin = way_back->begins[begin];
      }
      Add(id, base + begin, base + end);
    };
    for (const auto& part : impl_.normalized_matcher.Split(text)) {
      if (part.id >= 0) {
        add(part.id, part.range.begin, part.range.end);
        continue;
      }
      // Later steps see each piece as a text of its own, as in the tokenizers library.
      const std::string_view piece =
          text.substr(part.range.begin, part.range.end - part.range.begin);
      std::vector<Range> words = {{0, static_cast<uint32_t>(piece.size())}};
      for (const SplitStep& step : impl_.steps) TG_RETURN_IF_ERROR(step.Apply(piece, words));
      for (const Range& word : words) {
        const uint32_t begin = part.range.begin + word.begin;
        for (const auto& token : Word(piece.substr(word.begin, word.end - word.begin))) {
          add(token.id, begin + token.begin, begin + token.end);
        }
      }
    }
    return OkStatus();
  }

  const std::vector<BytePairModel::Piece>& Word(std::string_view bytes) {
    const auto known = cache_.find(bytes);
    if (known != cache_.end()) return known->second;
    scratch_.clear();
    impl_.bpe.Encode(bytes, scratch_);
    if (bytes.size() > kMaxCachedWordBytes || cache_.size() >= kMaxCachedWords) return scratch_;
    return cache_.emplace(bytes, scratch_).first->second;
  }

  const Tokenizer::Impl& impl_;
  Encoding& out_;
  std::unordered_map<std::string, std::vector<BytePairModel::Piece>, TextHash, std::equal_to<>>
      cache_;
  std::vector<BytePairModel::Piece> scratch_;
};

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::FromJson(std::string_view json_text, std::string_view what) {
  auto impl = std::make_unique<Impl>();
  TG_RETURN_IF_ERROR(ParseTokenizerJson(json_text, what, *impl));
  return Tokenizer(std::move(impl));
}

Result<Tokenizer> Tokenizer::Load(const std::filesystem::path& path) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxTokenizerBytes));
  return FromJson(text, path.native());
}

Result<Encoding> Tokenizer::Encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() > kMaxEncodeBytes) {
    return ResourceExhausted("a text of {} bytes is to be tokenized, the limit is {}", text.size(),
                             kMaxEncodeBytes);
  }
  const size_t valid = ValidUtf8Prefix(text);
  if (valid < text.size()) {
    return InvalidArgument("the text is not UTF-8 at byte {}; convert it to UTF-8", valid);
  }
  Encoding out;
  Encoder encoder(*impl_, out);
  if (options.add_special_tokens) {
    for (const int32_t id : impl_->prefix_ids) encoder.Add(id, 0, 0);
  }
  TG_RETURN_IF_ERROR(encoder.Text(text));
  if (options.add_special_tokens) {
    const auto end = static_cast<uint32_t>(text.size());
    for (const int32_t id : impl_->suffix_ids) encoder.Add(id, end, end);
  }
  return out;
}

std::optional<std::string_view> Tokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= impl_->token_bytes.size() ||
      impl_->token_bytes[static_cast<size_t>(id)].empty()) {
    return std::nullopt;
  }
  return impl_->token_bytes[static_cast<size_t>(id)];
}

std::optional<int32_t> Tokenizer::TokenId(std::string_view token) const {
  const auto it = impl_->added_ids.find(std::string(token));
  if (it != impl_->added_ids.end()) return it->second;
  return impl_->bpe.Id(token);
}

bool Tokenizer::IsSpecial(int32_t id) const {
  const auto it = impl_->added_index.find(id);
  return it != impl_->added_index.end() && impl_->added[it->second].special;
}

int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(impl_->token_bytes.size()); }

Result<std::string> Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    const auto token = TokenBytes(id);
    if (!token) {
      return InvalidArgument("{} is not a token id (the vocabulary has {})", id, vocab_size());
    }
    if (!skip_special || !IsSpecial(id)) bytes += *token;
  }
  return ReplaceInvalidUtf8(bytes);
}

Result<std::string> StreamDecoder::Push(int32_t id) {
  const auto token = tokenizer_.TokenBytes(id);
  if (!token) {
    return InvalidArgument("{} is not a token id (the vocabulary has {})", id,
                           tokenizer_.vocab_size());
  }
  if (skip_special_ && tokenizer_.IsSpecial(id)) return Flush();
  pending_ += *token;
  // A cut character is at most the last three bytes.
  size_t whole = 0;
  while (whole < pending_.size()) {
    const Utf8Step step = NextUtf8(std::string_view(pending_).substr(whole));
    if (step.kind == Utf8Step::kIncomplete) break;
    whole += step.size;
  }
  std::string out = ReplaceInvalidUtf8(std::string_view(pending_).substr(0, whole));
  pending_.erase(0, whole);
  return out;
}

std::string StreamDecoder::Flush() {
  std::string out = ReplaceInvalidUtf8(pending_);
  pending_.clear();
  return out;
}

}  // namespace tidegate::model
