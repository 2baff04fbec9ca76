// From a file of records to token sequences. Records and tokens stay in this process; the report
// has numbers only. Not thread-safe.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "finetune/loaded_base.h"
#include "tokens/token_sequence.h"

namespace tidegate::finetune {

struct DataOptions {
  int64_t max_length = 1024;  // tokens; longer records are cut at the end, and counted
  bool assistant_only_loss = true;
};

// What became of the records.
struct DataReport {
  int64_t records = 0;         // read
  int64_t used = 0;            // as training examples
  int64_t truncated = 0;       // of the used: cut to max_length
  int64_t without_target = 0;  // dropped: no trained token was left
  int64_t tokens = 0;          // of the used
  int64_t targets = 0;         // of the used: tokens that count in the loss
  int64_t longest = 0;         // tokens of the longest used
};

nlohmann::ordered_json ReportJson(const DataReport& report);
std::string ReportText(const DataReport& report);

// Adds used, tokens, targets and longest of `sequences`.
void CountSequences(std::span<const tokens::TokenSequence> sequences, DataReport* report);

struct Dataset {
  std::vector<tokens::TokenSequence> sequences;
  DataReport report;
};

// Errors name the file and the line; kInvalidArgument when no record is usable, and for a record
// that is longer than the base has positions: nobody meant most of it to be thrown away.
Result<Dataset> LoadDataset(const std::filesystem::path& path, const LoadedBase& base,
                            const DataOptions& options);

// What is wrong with a file, line by line, for who repairs it.
struct DataCheck {
  struct BadLine {
    int64_t line = 0;
    std::string reason;  // names file and line, never content
  };
  struct Duplicate {
    int64_t line = 0, first = 0;  // the record of `line` is that of `first`, by a hash of 64 bits
  };
  DataReport report;                        // of the good lines
  int64_t chats = 0, pairs = 0, texts = 0;  // records by form; Alpaca's are chats
  std::map<int64_t, int64_t> lengths;       // of tokens before any cut: how many records
  int64_t cut_tokens = 0;                   // of the used: beyond max_length
  std::vector<int64_t> truncated_lines, without_target_lines;  // the first kMaxBadLinesKept
  int64_t bad_lines = 0, duplicates = 0;
  std::vector<BadLine> bad;       // the first kMaxBadLinesKept
  std::vector<Duplicate> copies;  // the first kMaxBadLinesKept
};

// Reads all of the file, bad lines too. Errors are only those that end the reading.
Result<DataCheck> CheckData(const std::filesystem::path& path, const LoadedBase& base,
                            const DataOptions& options);

// The least length that `percent` of the records do not exceed (nearest rank); 0 without records.
int64_t LengthPercentile(const std::map<int64_t, int64_t>& lengths, int percent);

nlohmann::ordered_json CheckJson(const DataCheck& check);
std::string CheckText(const DataCheck& check);
// kInvalidArgument when training would refuse the file: the first bad line, or no usable record.
Status VerdictOf(const DataCheck& check, const std::filesystem::path& path,
                 const DataOptions& options);

struct TrainingData {
  Dataset train;
  Dataset eval;  // no sequences: nothing is held out
};

// Moves a share of `train`, a function of (seed, number of sequences) alone, into a second data
// set; the reports follow. kInvalidArgument when one of the two would be empty.
Result<Dataset> HoldOut(Dataset* train, double share, uint64_t seed);

// A prompt up to and including the start of the answer, and the answer as the record has it.
struct Question {
  std::vector<int32_t> prompt;
  std::string answer;
};

// The records that ask something: prompt and completion, or messages that end with an assistant
// turn. Records of plain text are refused by line: they have no answer to compare.
Result<std::vector<Question>> LoadQuestions(const std::filesystem::path& path,
                                            const LoadedBase& base);

}  // namespace tidegate::finetune
