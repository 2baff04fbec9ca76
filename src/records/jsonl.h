// JSONL files of records: one JSON object a line, in the forms that TRL and LLaMA-Factory read:
//
//   {"messages": [{"role": …, "content": …}, …]}       {"text": …}
//   {"prompt": …, "completion": …}                     (texts, or lists of messages)
//   {"instruction": …, "input": …, "output": …, "system": …}     (Alpaca; input, system optional)
//
// Read line by line, within the limits of base/limits.h; errors name the file and the line, never
// its content. Not thread-safe.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/file.h"
#include "base/limits.h"
#include "base/status.h"
#include "records/record.h"

namespace tidegate::records {

// One line. kInvalidArgument says what is wrong with its form.
Result<Onshore<Record>> ParseRecord(std::string_view line, int64_t number, std::string_view name);

class JsonlReader {
 public:
  static Result<JsonlReader> Open(const std::filesystem::path& path);

  // The next record, or nothing at the end. Blank lines are skipped. After an error of a line's
  // form the next call goes on with the next line.
  Result<std::optional<Onshore<Record>>> Next();
  int64_t line() const { return line_; }

 private:
  JsonlReader(Fd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  // The next line without its end; nothing at the end of the file.
  Result<std::optional<std::string>> NextLine();

  Fd fd_;
  std::string name_;
  int64_t offset_ = 0;  // ours: an inherited descriptor's own is shared
  std::string buffer_;
  size_t at_ = 0;
  bool ended_ = false;
  int64_t line_ = 0;
  uint64_t records_ = 0;
};

}  // namespace tidegate::records
