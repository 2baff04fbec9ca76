// A base and its adapters, held by a walled process of the calling user, and what it answers. A
// Model and its copies may be used by any thread, and answers do not wait for each other; the
// process ends with the last copy. An Answer may be used by any thread; Cancel may be called while
// another waits in Next or Text.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tidegate/status.h"

namespace tg {

struct ModelOptions {
  std::string base;                   // an HF folder
  std::vector<std::string> adapters;  // PEFT folders, "NAME=FOLDER" or "FOLDER": a model each
  std::string name;                   // of the base; empty: its folder's
  std::string dtype;                  // auto, bf16, f32; empty: auto
  std::string device;                 // cpu, cuda; empty: cpu
  std::string walls;                  // that must stand; empty: all
  std::string trainer;                // the program; empty: where `tidegate` is looked for
  int threads = 0;                    // 0: all CPUs of this process
  int max_new_tokens = 0;             // of an answer whose question does not say; 0: the default
  unsigned load_in_bits = 0;          // 8: int8, 4: NF4
};

struct Message {
  std::string role, content;
};

struct Question {
  std::vector<Message> messages;  // a chat; empty: `text` is continued as it is
  std::string text;
  std::string model;       // of Model::Names; empty: the base
  int max_new_tokens = 0;  // 0: as the model was opened with
  double temperature = 0;  // 0: the likeliest token
  double top_p = 1;
  double repetition_penalty = 1;
  int64_t top_k = 0;
  uint64_t seed = 0;
  std::vector<std::string> stop;  // any of them ends the answer and is not part of it
};

struct AnswerEvent {
  bool end = false;
  std::string text;  // more of the answer; of the end why: stop, length, positions, cancelled
  int64_t prompt_tokens = 0, cached_tokens = 0, new_tokens = 0;  // of the end
  explicit AnswerEvent(const tg_answer_event& from)
      : end(from.kind == TG_ANSWER_END),
        text(from.text, from.text_size),
        prompt_tokens(from.prompt_tokens),
        cached_tokens(from.cached_tokens),
        new_tokens(from.new_tokens) {}
};

class Answer {
 public:
  explicit Answer(tg_answer* handle) : handle_(handle, &tg_answer_close) {}

  Result<AnswerEvent> Next(const Call& call = Call()) const {
    TG_STRUCT(tg_answer_event, event);
    const Status status = internal::Do(call, [&](const tg_call* c, tg_error* e) {
      return tg_answer_next(handle_.get(), c, &event, e);
    });
    if (!status.ok()) return status;
    return AnswerEvent(event);
  }
  // The text to its end. `each` (may be empty) hears it as it comes, and must not throw; where it
  // returns false the answer is left as it is, and what came so far returned.
  Result<std::string> Text(const Call& call,
                           const std::function<bool(const AnswerEvent&)>& each = {}) const {
    Heard heard{each, {}};
    const auto hear = [](const tg_answer_event* event, void* user) -> int32_t {
      auto& to = *static_cast<Heard*>(user);
      if (event->kind == TG_ANSWER_TEXT) to.text.append(event->text, event->text_size);
      return !to.each || to.each(AnswerEvent(*event)) ? 0 : 1;
    };
    const Status status = internal::Do(call, [&](const tg_call* c, tg_error* e) {
      return tg_answer_run(handle_.get(), c, hear, &heard, e);
    });
    if (!status.ok()) return status;
    return heard.text;
  }
  // Takes the question back; the end says so.
  Status Cancel() const {
    internal::Failure failure;
    return failure.Of(tg_answer_cancel(handle_.get(), failure.c()));
  }

 private:
  struct Heard {
    const std::function<bool(const AnswerEvent&)>& each;
    std::string text;
  };
  std::shared_ptr<tg_answer> handle_;
};

class Model {
 public:
  // Returns when it is loaded: give a large one minutes.
  static Result<Model> Open(const ModelOptions& options, const Call& call) {
    TG_STRUCT(tg_model_options, c_options);
    const std::vector<const char*> adapters = Pointers(options.adapters);
    c_options.base = options.base.c_str();
    c_options.adapters = adapters.data();
    c_options.adapter_count = adapters.size();
    c_options.name = options.name.c_str();
    c_options.dtype = options.dtype.c_str();
    c_options.device = options.device.c_str();
    c_options.walls = options.walls.c_str();
    c_options.trainer = options.trainer.c_str();
    c_options.threads = options.threads;
    c_options.max_new_tokens = options.max_new_tokens;
    c_options.load_in_bits = options.load_in_bits;
    tg_model* model = nullptr;
    const Status status = internal::Do(call, [&](const tg_call* c, tg_error* e) {
      return tg_model_open(&c_options, c, &model, e);
    });
    if (!status.ok()) return status;
    return Model(model);
  }

  // What may be asked: the base first, then the adapters.
  Result<std::vector<std::string>> Names() const {
    std::vector<std::string> names;
    internal::Failure failure;
    const Status status = failure.Of(tg_model_list(
        handle_.get(),
        [](const char* name, void* to) { return internal::Append<std::string>(&name, to); }, &names,
        failure.c()));
    if (!status.ok()) return status;
    return names;
  }

  Result<Answer> Ask(const Question& question) const {
    TG_STRUCT(tg_question, c);
    std::vector<tg_message> messages;
    for (const Message& one : question.messages) {
      messages.push_back({one.role.c_str(), one.content.c_str()});
    }
    const std::vector<const char*> stop = Pointers(question.stop);
    c.model = question.model.c_str();
    c.messages = messages.data();
    c.message_count = messages.size();
    c.text = messages.empty() || !question.text.empty() ? question.text.c_str() : nullptr;
    c.max_new_tokens = question.max_new_tokens;
    c.temperature = question.temperature;
    c.top_p = question.top_p;
    c.repetition_penalty = question.repetition_penalty;
    c.top_k = question.top_k;
    c.seed = question.seed;
    c.stop = stop.data();
    c.stop_count = stop.size();
    tg_answer* answer = nullptr;
    internal::Failure failure;
    const Status status = failure.Of(tg_model_ask(handle_.get(), &c, &answer, failure.c()));
    if (!status.ok()) return status;
    return Answer(answer);
  }

 private:
  explicit Model(tg_model* handle) : handle_(handle, &tg_model_close) {}

  static std::vector<const char*> Pointers(const std::vector<std::string>& texts) {
    std::vector<const char*> out;
    for (const std::string& text : texts) out.push_back(text.c_str());
    return out;
  }

  std::shared_ptr<tg_model> handle_;
};

}  // namespace tg
