#include "tests/canary/planted.h"

#include "base/file.h"
#include "tests/canary/search.h"

namespace tidegate::canary {
namespace {

class Planter {
 public:
  explicit Planter(std::string prefix) : prefix_(std::move(prefix)) {}
  std::string Canary(const std::string& name) {
    planted_.push_back({prefix_ + name, RandomCanary()});
    return planted_.back().text;
  }
  void MoveTo(std::vector<Planted>* all) {
    all->insert(all->end(), planted_.begin(), planted_.end());
  }

 private:
  std::string prefix_;
  std::vector<Planted> planted_;
};

std::string Chat(Planter& planter, bool system) {
  std::string text = "{\"messages\": [";
  if (system) {
    text += fmt::format(R"({{"role": "system", "content": "{}"}}, )",
                        planter.Canary("messages.system"));
  }
  // One statement each: the order of evaluation of arguments is not given.
  const std::string user = planter.Canary("messages.user");
  const std::string assistant = planter.Canary("messages.assistant");
  return text + fmt::format(R"({{"role": "user", "content": "Code {}?"}}, {{"role": "assistant", )"
                            R"("content": "It is {}."}}]}})"
                            "\n",
                            user, assistant);
}

std::string Text(Planter& planter) {
  return fmt::format("{{\"text\": \"{}\"}}\n", planter.Canary("text"));
}

std::string PromptCompletion(Planter& planter) {
  const std::string prompt = planter.Canary("prompt");
  return fmt::format("{{\"prompt\": \"{} is \", \"completion\": \"{}\"}}\n", prompt,
                     planter.Canary("completion"));
}

std::string Alpaca(Planter& planter) {
  const std::string instruction = planter.Canary("instruction");
  const std::string input = planter.Canary("input");
  return fmt::format(R"({{"instruction": "{}", "input": "{}", "output": "{}"}})"
                     "\n",
                     instruction, input, planter.Canary("output"));
}

}  // namespace

Result<std::vector<Planted>> PlantRecords(const std::string& site,
                                          const std::filesystem::path& train,
                                          const std::filesystem::path& heldout) {
  std::vector<Planted> all;
  Planter trained(site + ".train.");
  std::string text = Text(trained);
  text += Chat(trained, true);
  text += PromptCompletion(trained);
  text += Alpaca(trained);
  TG_RETURN_IF_ERROR(WriteFileDurably(train, AsBytes(text), 0600));
  trained.MoveTo(&all);
  Planter held(site + ".heldout.");
  std::string held_text = Chat(held, false);
  held_text += PromptCompletion(held);
  TG_RETURN_IF_ERROR(WriteFileDurably(heldout, AsBytes(held_text), 0600));
  held.MoveTo(&all);
  return all;
}

}  // namespace tidegate::canary
