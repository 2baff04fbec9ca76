#include <algorithm>

#include "finetune/dataset.h"

namespace tidegate::finetune {

nlohmann::ordered_json ReportJson(const DataReport& report) {
  nlohmann::ordered_json json;
  json["records"] = report.records;
  json["used"] = report.used;
  json["truncated"] = report.truncated;
  json["without_target"] = report.without_target;
  json["tokens"] = report.tokens;
  json["targets"] = report.targets;
  json["longest"] = report.longest;
  return json;
}

std::string ReportText(const DataReport& report) {
  std::string text =
      fmt::format("{} records, {} used ({} tokens, {} trained, the longest {})", report.records,
                  report.used, report.tokens, report.targets, report.longest);
  if (report.truncated > 0) text += fmt::format(", {} truncated", report.truncated);
  if (report.without_target > 0) {
    text += fmt::format(", {} dropped without a trained token", report.without_target);
  }
  return text;
}

void CountSequences(const std::vector<tokens::TokenSequence>& sequences, DataReport* report) {
  for (const tokens::TokenSequence& sequence : sequences) {
    const auto length = static_cast<int64_t>(sequence.ids.size());
    ++report->used;
    report->tokens += length;
    report->targets += tokens::CountTargets(sequence);
    report->longest = std::max(report->longest, length);
  }
}

}  // namespace tidegate::finetune
