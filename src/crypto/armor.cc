#include "crypto/armor.h"

#include "crypto/secret.h"

namespace tidegate::crypto {

namespace {

constexpr size_t kLineCharacters = 64;

Status CheckLabel(std::string_view label) {
  bool ok = !label.empty() && label.front() != ' ' && label.back() != ' ' &&
            label.find("  ") == std::string_view::npos;
  for (const char c : label) {
    ok = ok && ((c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == ' ');
  }
  if (ok) return OkStatus();
  return InvalidArgument("the label \"{}\" must be capitals, digits and single spaces", label);
}

// Erases a string that may have held a key when it goes out of scope.
struct Wiped {
  std::string text;
  ~Wiped() { Cleanse(text.data(), text.size()); }
};

// CR LF to LF, and the last newline present.
Wiped Normalise(std::string_view text) {
  Wiped out;
  out.text.reserve(text.size() + 1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    out.text.push_back(text[i]);
  }
  if (!out.text.ends_with('\n')) out.text.push_back('\n');
  return out;
}

}  // namespace

Result<std::string> EncodeArmor(std::string_view label, ByteSpan content) {
  TG_RETURN_IF_ERROR(CheckLabel(label));
  if (content.empty() || content.size() > kArmorMaxBytes) {
    return InvalidArgument("{} bytes are to be armoured, the limits are 1 and {}", content.size(),
                           kArmorMaxBytes);
  }
  const Wiped base64{ToBase64(content)};
  const size_t lines = (base64.text.size() - 1) / kLineCharacters + 1;
  std::string out;
  out.reserve(base64.text.size() + lines + 2 * (label.size() + 32));
  out.append("-----BEGIN TIDEGATE ").append(label).append("-----\n");
  for (size_t at = 0; at < base64.text.size(); at += kLineCharacters) {
    out.append(base64.text, at, kLineCharacters).push_back('\n');
  }
  out.append("-----END TIDEGATE ").append(label).append("-----\n");
  return out;
}

Result<Bytes> DecodeArmor(std::string_view label, std::string_view text) {
  TG_RETURN_IF_ERROR(CheckLabel(label));
  constexpr size_t kMaxText = 2 * kArmorMaxBytes;
  if (text.size() > kMaxText) {
    return InvalidArgument("the armoured text has {} bytes, the limit is {}", text.size(),
                           kMaxText);
  }
  const Wiped normal = Normalise(text);
  const std::string begin = fmt::format("-----BEGIN TIDEGATE {}-----\n", label);
  const std::string end = fmt::format("-----END TIDEGATE {}-----\n", label);
  if (!normal.text.starts_with(begin)) {
    return InvalidArgument("the text does not begin with \"-----BEGIN TIDEGATE {}-----\"", label);
  }
  if (!normal.text.ends_with(end) || normal.text.size() < begin.size() + end.size()) {
    return InvalidArgument("the text does not end with \"-----END TIDEGATE {}-----\"", label);
  }
  Wiped base64;
  base64.text.reserve(normal.text.size());
  for (size_t i = begin.size(); i < normal.text.size() - end.size(); ++i) {
    if (normal.text[i] != '\n') base64.text.push_back(normal.text[i]);
  }
  auto content = FromBase64(base64.text);
  if (!content) {
    return InvalidArgument("the content of the TIDEGATE {} is not base64", label);
  }
  auto again = EncodeArmor(label, *content);
  const bool same = again && *again == normal.text;
  if (again) Cleanse(again->data(), again->size());
  if (!same) {
    Cleanse(content->data(), content->size());
    return InvalidArgument(
        "the TIDEGATE {} is not in its one form: lines of 64 characters and nothing else", label);
  }
  return std::move(*content);
}

}  // namespace tidegate::crypto
