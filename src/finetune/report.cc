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

nlohmann::ordered_json CheckJson(const DataCheck& check) {
  nlohmann::ordered_json json = ReportJson(check.report);
  json["duplicates"] = check.duplicates;
  json["duplicate_lines"] = nlohmann::ordered_json::array();
  for (const DataCheck::Duplicate& copy : check.copies) {
    json["duplicate_lines"].push_back({{"line", copy.line}, {"first", copy.first}});
  }
  json["bad_lines"] = check.bad_lines;
  json["bad"] = nlohmann::ordered_json::array();
  for (const DataCheck::BadLine& bad : check.bad) {
    json["bad"].push_back({{"line", bad.line}, {"reason", bad.reason}});
  }
  return json;
}

std::string CheckText(const DataCheck& check) {
  std::string text = ReportText(check.report) + "\n";
  if (check.duplicates > 0) {
    text += fmt::format("{} duplicates:", check.duplicates);
    for (const DataCheck::Duplicate& copy : check.copies) {
      text += fmt::format(" line {} is line {};", copy.line, copy.first);
    }
    text.back() = '\n';
  }
  if (check.bad_lines > 0) text += fmt::format("{} bad lines\n", check.bad_lines);
  for (const DataCheck::BadLine& bad : check.bad) text += bad.reason + "\n";
  return text;
}

void CountSequences(std::span<const tokens::TokenSequence> sequences, DataReport* report) {
  for (const tokens::TokenSequence& sequence : sequences) {
    const auto length = static_cast<int64_t>(sequence.ids.size());
    ++report->used;
    report->tokens += length;
    report->targets += tokens::CountTargets(sequence);
    report->longest = std::max(report->longest, length);
  }
}

}  // namespace tidegate::finetune
