// What a site may be called. Its name becomes file names, log lines and note signers.
#pragma once

#include <algorithm>
#include <string_view>

namespace tidegate {

inline constexpr size_t kMaxSiteName = 63;
// As the end of a sentence: "must be …".
inline constexpr std::string_view kSiteNameRule =
    "1 … 63 of a-z 0-9 - _, a letter or a digit first";

inline bool IsSiteName(std::string_view name) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !name.empty() && name.size() <= kMaxSiteName && letter(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return letter(c) || c == '-' || c == '_'; });
}

}  // namespace tidegate
