#include "onshore/supervisor/generations.h"

#include <charconv>

#include "base/file.h"

namespace tidegate::onshore {

Result<uint32_t> NextGeneration(const std::filesystem::path& file) {
  uint32_t last = 0;
  const Result<std::string> text = ReadTextFile(file, 64);
  if (text) {
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), last);
    if (error != std::errc() || end != text->data() + text->size() || last == UINT32_MAX) {
      return DataLoss(
          "{} does not hold a number below {}; remove it when no process of the site runs",
          file.native(), UINT32_MAX);
    }
  } else if (text.error().code() != Code::kNotFound) {
    return Unexpected(text.error());
  }
  TG_RETURN_IF_ERROR(WriteFileDurably(file, AsBytes(std::to_string(last + 1))));
  return last + 1;
}

}  // namespace tidegate::onshore
