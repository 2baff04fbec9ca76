// From a file of records to token sequences. Records and tokens stay in this process; the report
// has numbers only. Not thread-safe.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/status.h"
#include "finetune/loaded_base.h"
#include "tokens/token_sequence.h"

namespace tidegate::finetune {

struct DataOptions {
  int64_t max_length = 1024;  // tokens; longer records are cut at the end
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
void CountSequences(const std::vector<tokens::TokenSequence>& sequences, DataReport* report);

struct Dataset {
  std::vector<tokens::TokenSequence> sequences;
  DataReport report;
};

// Errors name the file and the line; kInvalidArgument when no record is usable.
Result<Dataset> LoadDataset(const std::filesystem::path& path, const LoadedBase& base,
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
