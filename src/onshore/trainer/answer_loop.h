// Answers many questions at once from one base and its adapters: what is asked of the same model
// advances together, a token a step each, and a conversation that goes on is not computed again.
// Behind the walls, on one thread. Not thread-safe.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "finetune/loaded_base.h"
#include "model/generate.h"
#include "onshore/answers/messages.h"

namespace tidegate::trainer {

struct AnswerLimits {
  int64_t default_new_tokens = 1024;  // where a question does not say
  size_t waiting = 256;               // questions; one more is refused
  uint64_t free_bytes = UINT64_MAX;   // for keys and values
};

// Holds back what may become a stop text.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  // What can be handed out now.
  std::string Push(std::string_view piece);
  bool stopped() const { return stopped_; }
  // What is left at the end, if no stop text came.
  std::string Flush();

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

class AnswerLoop {
 public:
  using Emit = std::function<Status(const onshore::AnswerEvent& event)>;
  // Everything must outlive the loop.
  AnswerLoop(const finetune::LoadedBase& base, const AnswerLimits& limits, Emit emit);
  ~AnswerLoop();
  // "" or an adapter's folder, under a name of its own.
  Status AddModel(const std::string& name, const std::filesystem::path& adapter);
  std::vector<std::string> models() const;

  // Errors of a question go to its asker; a Status that is not OK ends the loop.
  Status Take(const onshore::Command& command);
  // One step of every model that has something to do.
  Status Advance();
  bool busy() const;

 private:
  struct Sequence;
  struct Kept;
  struct Model;
  Status Refuse(uint64_t id, const Status& status);
  Result<std::unique_ptr<Sequence>> Prepare(const onshore::Ask& ask, Model& model);
  Status Begin(Model& model, std::unique_ptr<Sequence> sequence);
  Status StepModel(Model& model);
  // Chooses the next token by the logits; false when the answer has ended.
  Result<bool> Choose(Sequence& sequence, std::span<float> logits);
  Status End(Model& model, Sequence& sequence, std::string_view reason);
  void Keep(Model& model, Sequence& sequence);
  void MakeRoom(uint64_t bytes);
  void DropOldest(Model& model);

  const finetune::LoadedBase& base_;
  AnswerLimits limits_;
  Emit emit_;
  std::map<std::string, std::unique_ptr<Model>> models_;
  std::deque<onshore::Ask> waiting_;
  uint64_t reserved_ = 0;    // bytes of keys and values of answers on their way,
  uint64_t kept_bytes_ = 0;  // and of the conversations that are kept for when they go on
  uint64_t kept_number_ = 0;
};

}  // namespace tidegate::trainer
