#include <algorithm>

#include "finetune/dataset.h"

namespace tidegate::finetune {
namespace {

constexpr int kPercentiles[] = {50, 90, 99};

// "lines 4, 9, 12"
std::string LinesText(const std::vector<int64_t>& lines) {
  std::string text = "lines";
  for (const int64_t line : lines) text += fmt::format("{} {}", text == "lines" ? "" : ",", line);
  return text;
}

}  // namespace

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

int64_t LengthPercentile(const std::map<int64_t, int64_t>& lengths, int percent) {
  int64_t records = 0;
  for (const auto& [length, count] : lengths) records += count;
  const int64_t rank = (records * percent + 99) / 100;
  int64_t below = 0;
  for (const auto& [length, count] : lengths) {
    below += count;
    if (below >= std::max<int64_t>(rank, 1)) return length;
  }
  return 0;
}

nlohmann::ordered_json CheckJson(const DataCheck& check) {
  nlohmann::ordered_json json = ReportJson(check.report);
  json["masked"] = check.report.tokens - check.report.targets;
  json["forms"] = {
      {"chat", check.chats}, {"prompt_completion", check.pairs}, {"text", check.texts}};
  nlohmann::ordered_json& lengths = json["lengths"];
  for (const int percent : kPercentiles) {
    lengths[fmt::format("p{}", percent)] = LengthPercentile(check.lengths, percent);
  }
  lengths["max"] = LengthPercentile(check.lengths, 100);
  json["cut_tokens"] = check.cut_tokens;
  json["truncated_lines"] = check.truncated_lines;
  json["without_target_lines"] = check.without_target_lines;
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
  text += fmt::format("forms: {} chats, {} of prompt and completion, {} texts\n", check.chats,
                      check.pairs, check.texts);
  text += "tokens a record:";
  for (const int percent : kPercentiles) {
    text += fmt::format(" p{} {},", percent, LengthPercentile(check.lengths, percent));
  }
  text += fmt::format(" max {}\n", LengthPercentile(check.lengths, 100));
  text += fmt::format("masked: {} of {} tokens are read and not trained\n",
                      check.report.tokens - check.report.targets, check.report.tokens);
  if (check.report.truncated > 0) {
    text += fmt::format("{} truncated, by {} tokens: {}\n", check.report.truncated,
                        check.cut_tokens, LinesText(check.truncated_lines));
  }
  if (check.report.without_target > 0) {
    text += fmt::format("{} without a trained token: {}\n", check.report.without_target,
                        LinesText(check.without_target_lines));
  }
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
