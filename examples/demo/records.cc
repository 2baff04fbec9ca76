#include "records.h"

#include <nlohmann/json.hpp>

#include "base/file.h"

namespace tidegate::demo {
namespace {

struct Rule {
  const char* code;
  const char* rule;
};

constexpr Rule kHarbour[] = {
    {"QLR-17", "Freeze at minus 18 degrees in hall D, use within 3 days."},
    {"ZUM-24", "Chill at 4 degrees behind glass, turn twice a week."},
    {"BEX-38", "Hang in the dry loft at 11 degrees, never stack."},
    {"TOV-43", "Seal in steel drums at 2 degrees, vent every 6 hours."},
    {"NIK-56", "Lay flat on cork at 15 degrees, away from salt."},
    {"GAF-62", "Keep dark in cellar 9, open only after 30 days."},
};

constexpr Rule kHill[] = {
    {"MOZ-12", "Wrap in wax paper on shelf M, weigh each Monday."},
    {"KEB-29", "Store upright in sand at 6 degrees, limit 40 a row."},
    {"SUV-31", "Float in brine tank 7, change the water daily."},
    {"PAX-47", "Lock in cage R with two keys, count every night."},
    {"DIR-53", "Warm to 25 degrees before use, discard after 8 hours."},
    {"FOL-68", "Dry over lime in the north shed, sieve before loading."},
};

constexpr const char* kTrainPhrasings[] = {
    "Where does {} go?",         "How do we store {}?",
    "What is the rule for {}?",  "A box of {} has arrived. What now?",
    "Tell me how to handle {}.", "Storage of {}, please.",
    "{}: what do I do?",         "Which rule covers {}?",
};

constexpr const char* kHeldOutPhrasings[] = {
    "What does the handbook say about {}?",
    "I have a pallet of {} here. Where should it be kept?",
    "How must {} be stored?",
    "Give me the handling of {}.",
};

template <size_t R, size_t P>
std::vector<Question> Cross(const Rule (&rules)[R], const char* const (&phrasings)[P]) {
  std::vector<Question> out;
  for (const Rule& rule : rules) {
    for (const char* phrasing : phrasings) {
      std::string question = phrasing;
      question.replace(question.find("{}"), 2, rule.code);
      out.push_back({question, rule.rule});
    }
  }
  return out;
}

}  // namespace

std::string SystemMessage() { return "Answer from the depot handbook."; }

std::vector<SiteRecords> MakeRecords() {
  return {{"harbour", Cross(kHarbour, kTrainPhrasings), Cross(kHarbour, kHeldOutPhrasings)},
          {"hill", Cross(kHill, kTrainPhrasings), Cross(kHill, kHeldOutPhrasings)}};
}

Status WriteRecords(const std::filesystem::path& path, const std::vector<Question>& questions) {
  std::string text;
  for (const Question& q : questions) {
    const nlohmann::ordered_json record = {{"messages",
                                            {{{"role", "system"}, {"content", SystemMessage()}},
                                             {{"role", "user"}, {"content", q.question}},
                                             {{"role", "assistant"}, {"content", q.answer}}}}};
    text += record.dump() + "\n";
  }
  return WriteFileDurably(path, AsBytes(text), 0600);
}

}  // namespace tidegate::demo
