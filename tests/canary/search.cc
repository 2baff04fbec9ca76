#include "tests/canary/search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "base/file.h"
#include "crypto/random.h"

namespace tidegate::canary {
namespace {

namespace fs = std::filesystem;

constexpr size_t kCanaryChars = 40;
constexpr size_t kWindow = 16, kStride = 12;
constexpr size_t kTokenWindow = 8, kTokenStride = 8;
constexpr uint64_t kMaxFile = 1u << 30;

Bytes ToBytes(std::string_view text) { return {text.begin(), text.end()}; }

Bytes Utf16(std::string_view text, bool little) {
  Bytes out;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    out.push_back(little ? byte : 0);
    out.push_back(little ? 0 : byte);
  }
  return out;
}

// The characters that stand for `text` alone when `before` bytes precede it in a group of three.
std::string Base64At(std::string_view text, size_t before) {
  std::string padded(before, '\0');
  padded += text;
  const std::string all = ToBase64(AsBytes(padded));
  const size_t begin = (before * 8 + 5) / 6;
  const size_t end = (before + text.size()) * 8 / 6;
  return all.substr(begin, end - begin);
}

Bytes LittleEndian(std::span<const int32_t> ids, size_t width) {
  Bytes out;
  for (const int32_t id : ids) {
    for (size_t i = 0; i < width; ++i) {
      out.push_back(i < 4 ? static_cast<uint8_t>(static_cast<uint32_t>(id) >> (8 * i)) : 0);
    }
  }
  return out;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

std::string RandomCanary() {
  constexpr std::string_view kAlphabet = "abcdefghijklmnopqrstuvwxyz0123456789";
  Bytes random(kCanaryChars);
  std::string canary;
  // Its outer runs of letters or digits are one character long: AddTokens leaves them out, and one
  // with long ones has too few tokens left to be looked for.
  do {
    if (!crypto::FillRandom(random).ok()) std::abort();
    canary.clear();
    for (const uint8_t byte : random) canary += kAlphabet[byte % kAlphabet.size()];
  } while (IsDigit(canary[0]) == IsDigit(canary[1]) ||
           IsDigit(canary[canary.size() - 1]) == IsDigit(canary[canary.size() - 2]));
  return canary;
}

std::string Describe(const std::vector<Hit>& hits) {
  std::string text;
  for (const Hit& hit : hits) {
    text += fmt::format("{} as {} at {} of {}\n", hit.canary, hit.encoding, hit.offset, hit.where);
    if (text.size() > 4000) return text + fmt::format("... {} in all\n", hits.size());
  }
  return text;
}

void Search::AddPattern(const std::string& canary, const std::string& encoding, Bytes bytes) {
  by_start_[LoadLe32(bytes.data())].push_back(patterns_.size());
  may_start_[LoadLe16(bytes.data())] = true;
  patterns_.push_back({canary, encoding, std::move(bytes)});
}

Status Search::Add(const std::string& name, const std::string& canary) {
  for (size_t at = 0; at + kWindow <= canary.size(); at += kStride) {
    const std::string window = canary.substr(at, kWindow);
    std::string upper = ToHex(AsBytes(window));
    AddPattern(name, "hex", ToBytes(upper));
    std::transform(upper.begin(), upper.end(), upper.begin(),
                   [](char c) { return c >= 'a' ? static_cast<char>(c - 'a' + 'A') : c; });
    AddPattern(name, "HEX", ToBytes(upper));
    AddPattern(name, "text", ToBytes(window));
    AddPattern(name, "reversed", Bytes(window.rbegin(), window.rend()));
    AddPattern(name, "utf-16le", Utf16(window, true));
    AddPattern(name, "utf-16be", Utf16(window, false));
    for (size_t before = 0; before < 3; ++before) {
      AddPattern(name, fmt::format("base64+{}", before), ToBytes(Base64At(window, before)));
    }
  }
  return AddTokens(name, canary);
}

Status Search::AddTokens(const std::string& name, const std::string& canary) {
  TG_ASSIGN_OR_RETURN(const model::Encoding encoding, tokenizer_.Encode(canary));
  // The first and the last run of letters or digits may be joined with what stands beside it.
  size_t begin = 1, end = canary.size() - 1;
  while (begin < end && IsDigit(canary[begin]) == IsDigit(canary[0])) ++begin;
  while (end > begin && IsDigit(canary[end - 1]) == IsDigit(canary.back())) --end;
  std::vector<int32_t> ids;
  for (size_t i = 0; i < encoding.ids.size(); ++i) {
    if (encoding.begins[i] >= begin && encoding.ends[i] <= end) ids.push_back(encoding.ids[i]);
  }
  if (ids.size() < kTokenWindow) {
    return FailedPrecondition("canary {} has only {} tokens of its own", name, ids.size());
  }
  for (size_t at = 0; at + kTokenWindow <= ids.size(); at += kTokenStride) {
    const std::span<const int32_t> window(ids.data() + at, kTokenWindow);
    AddPattern(name, "ids16", LittleEndian(window, 2));
    AddPattern(name, "ids32", LittleEndian(window, 4));
    AddPattern(name, "ids64", LittleEndian(window, 8));
    AddPattern(name, "ids,", ToBytes(fmt::format("{}", fmt::join(window, ","))));
    AddPattern(name, "ids, ", ToBytes(fmt::format("{}", fmt::join(window, ", "))));
    AddPattern(name, "ids ", ToBytes(fmt::format("{}", fmt::join(window, " "))));
  }
  return OkStatus();
}

std::set<std::string> Search::encodings() const {
  std::set<std::string> names;
  for (const Pattern& pattern : patterns_) names.insert(pattern.encoding);
  return names;
}

std::vector<Hit> Search::InBytes(ByteSpan bytes, const std::string& where) const {
  std::vector<Hit> hits;
  for (size_t at = 0; at + 4 <= bytes.size(); ++at) {
    if (!may_start_[LoadLe16(bytes.data() + at)]) continue;
    const auto found = by_start_.find(LoadLe32(bytes.data() + at));
    if (found == by_start_.end()) continue;
    for (const size_t index : found->second) {
      const Pattern& pattern = patterns_[index];
      if (bytes.size() - at >= pattern.bytes.size() &&
          std::equal(pattern.bytes.begin(), pattern.bytes.end(), bytes.data() + at)) {
        hits.push_back({where, pattern.canary, pattern.encoding, at});
      }
    }
  }
  return hits;
}

// False when the file cannot be read though it is there.
bool Search::AddFile(const fs::path& path, Found* found) const {
  const auto content = ReadFile(path, kMaxFile);
  if (!content) {
    std::error_code error;
    return !fs::exists(path, error);
  }
  ++found->files;
  found->bytes += content->size();
  const std::vector<Hit> hits = InBytes(*content, path.native());
  found->hits.insert(found->hits.end(), hits.begin(), hits.end());
  return true;
}

Result<Found> Search::InTree(const fs::path& root, const std::set<fs::path>& skip) const {
  Found found;
  std::error_code error;
  fs::recursive_directory_iterator it(root, error), end;
  if (error) return Unexpected(ErrnoStatus("list", root.native(), error.value()));
  while (it != end) {
    const fs::path path = it->path();
    if (skip.contains(path)) {
      it.disable_recursion_pending();
    } else {
      const std::vector<Hit> named = InBytes(AsBytes(path.native()), "the name " + path.native());
      found.hits.insert(found.hits.end(), named.begin(), named.end());
      std::error_code gone;
      if (fs::is_regular_file(fs::symlink_status(path, gone)) && !AddFile(path, &found)) {
        return PermissionDenied("{} cannot be searched", path.native());
      }
    }
    // A folder that was removed meanwhile has nothing more to look at.
    it.increment(error);
    if (error && error != std::errc::no_such_file_or_directory) {
      return Unexpected(ErrnoStatus("list", path.native(), error.value()));
    }
    if (error) break;
  }
  return found;
}

Found Search::InSharedFolder(const fs::path& root, fs::file_time_type since,
                             const std::set<fs::path>& skip) const {
  Found found;
  std::error_code error;
  fs::recursive_directory_iterator it(root, fs::directory_options::skip_permission_denied, error);
  for (const fs::recursive_directory_iterator end; !error && it != end; it.increment(error)) {
    const fs::path path = it->path();
    std::error_code gone;
    if (skip.contains(path)) {
      it.disable_recursion_pending();
    } else if (fs::is_regular_file(fs::symlink_status(path, gone)) &&
               fs::last_write_time(path, gone) >= since && !gone) {
      [[maybe_unused]] const bool read = AddFile(path, &found);
    }
  }
  return found;
}

}  // namespace tidegate::canary
