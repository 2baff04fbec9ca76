#include "base/bytes.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace tidegate {
namespace {

static_assert(std::endian::native == std::endian::little, "Tidegate is built for little-endian");

constexpr char kHex[] = "0123456789abcdef";
constexpr char kBase64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

int Base64Value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  if (c == '/') return 63;
  return -1;
}

}  // namespace

std::string ToHex(ByteSpan bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (uint8_t b : bytes) {
    out.push_back(kHex[b >> 4]);
    out.push_back(kHex[b & 15]);
  }
  return out;
}

Result<Bytes> FromHex(std::string_view text) {
  if (text.size() % 2 != 0) {
    return InvalidArgument("hex text has odd length {}; it needs two digits a byte", text.size());
  }
  Bytes out(text.size() / 2);
  for (size_t i = 0; i < out.size(); ++i) {
    const int hi = HexValue(text[2 * i]), lo = HexValue(text[2 * i + 1]);
    if (hi < 0 || lo < 0) return InvalidArgument("hex text has a non-digit near offset {}", 2 * i);
    out[i] = static_cast<uint8_t>(hi << 4 | lo);
  }
  return out;
}

Result<Digest> DigestFromHex(std::string_view text) {
  TG_ASSIGN_OR_RETURN(const Bytes bytes, FromHex(text));
  Digest digest;
  if (bytes.size() != digest.size()) {
    return InvalidArgument("a SHA-256 digest has 64 hex digits, this text has {}", text.size());
  }
  std::copy(bytes.begin(), bytes.end(), digest.begin());
  return digest;
}

std::string ToBase64(ByteSpan bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t n = std::min<size_t>(3, bytes.size() - i);
    uint32_t v = static_cast<uint32_t>(bytes[i]) << 16;
    if (n > 1) v |= static_cast<uint32_t>(bytes[i + 1]) << 8;
    if (n > 2) v |= bytes[i + 2];
    out.push_back(kBase64[v >> 18 & 63]);
    out.push_back(kBase64[v >> 12 & 63]);
    out.push_back(n > 1 ? kBase64[v >> 6 & 63] : '=');
    out.push_back(n > 2 ? kBase64[v & 63] : '=');
  }
  return out;
}

namespace {

// Four characters as 24 bits; `pad` of them are '='. -1 for a character that is none of base64.
int32_t Base64Quad(std::string_view four, int pad) {
  uint32_t v = 0;
  for (int k = 0; k < 4 - pad; ++k) {
    const int d = Base64Value(four[static_cast<size_t>(k)]);
    if (d < 0) return -1;
    v |= static_cast<uint32_t>(d) << (18 - 6 * k);
  }
  return static_cast<int32_t>(v);
}

int Base64Padding(std::string_view text) {
  return text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
}

// The whole text is looked at before any of it is decoded: it may be a key's, and what was decoded
// of a damaged one would be left in memory.
Status CheckBase64(std::string_view text) {
  if (text.size() % 4 != 0) return InvalidArgument("base64 text is not a multiple of 4 characters");
  for (size_t i = 0; i < text.size(); i += 4) {
    const int pad = i + 4 == text.size() ? Base64Padding(text) : 0;
    const int32_t v = Base64Quad(text.substr(i, 4), pad);
    if (v < 0) return InvalidArgument("base64 text has a bad character after offset {}", i);
    if ((pad == 1 && (v & 0xff)) || (pad == 2 && (v & 0xffff))) {
      return InvalidArgument("base64 text has non-zero trailing bits");
    }
  }
  return OkStatus();
}

}  // namespace

Result<Bytes> FromBase64(std::string_view text) {
  TG_RETURN_IF_ERROR(CheckBase64(text));
  Bytes out;
  out.reserve(text.size() / 4 * 3);
  for (size_t i = 0; i < text.size(); i += 4) {
    const int pad = i + 4 == text.size() ? Base64Padding(text) : 0;
    const int32_t v = Base64Quad(text.substr(i, 4), pad);
    out.push_back(static_cast<uint8_t>(v >> 16));
    if (pad < 2) out.push_back(static_cast<uint8_t>(v >> 8));
    if (pad < 1) out.push_back(static_cast<uint8_t>(v));
  }
  return out;
}

void StoreLe32(uint8_t* out, uint32_t value) { std::memcpy(out, &value, 4); }
void StoreLe64(uint8_t* out, uint64_t value) { std::memcpy(out, &value, 8); }
uint16_t LoadLe16(const uint8_t* in) {
  uint16_t v;
  std::memcpy(&v, in, 2);
  return v;
}
uint32_t LoadLe32(const uint8_t* in) {
  uint32_t v;
  std::memcpy(&v, in, 4);
  return v;
}
uint64_t LoadLe64(const uint8_t* in) {
  uint64_t v;
  std::memcpy(&v, in, 8);
  return v;
}

}  // namespace tidegate
