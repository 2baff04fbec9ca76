// The demo's private records: invented product codes and their rules, which no base model can know
// and which differ by site. Made by rule, without chance.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"

namespace tidegate::demo {

struct Question {
  std::string question, answer;
};

struct SiteRecords {
  std::string name;               // "harbour", "hill"
  std::vector<Question> train;    // every code in every phrasing that is trained
  std::vector<Question> heldout;  // every code in the phrasings that are not
};

std::vector<SiteRecords> MakeRecords();

// The system message of every record.
std::string SystemMessage();

// JSONL of chat records, as `tidegate finetune` reads them.
Status WriteRecords(const std::filesystem::path& path, const std::vector<Question>& questions);

}  // namespace tidegate::demo
