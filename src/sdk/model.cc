// A model that answers: the walled process that holds it, and the answers that are under way.
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cmath>
#include <deque>
#include <memory>

#include "onshore/answers/worker.h"
#include "sdk/abi.h"

namespace tidegate::sdk {
namespace {

using onshore::AnswerEvent;
using onshore::AnswerWorker;
using onshore::Ask;

// What has come of an answer and was not told yet. At most max_new_tokens events.
class Inbox {
 public:
  explicit Inbox(Fd ready) : ready_(std::move(ready)) {}

  void Put(const AnswerEvent& event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(event);
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(ready_.get(), &one, sizeof(one));
  }
  Result<AnswerEvent> Take(const Call& call) {
    for (;;) {
      TG_RETURN_IF_ERROR(WaitFor(ready_.get(), POLLIN, call));
      const std::lock_guard lock(mutex_);
      if (!events_.empty()) {
        AnswerEvent event = std::move(events_.front());
        events_.pop_front();
        return event;
      }
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t n = ::read(ready_.get(), &count, sizeof(count));
    }
  }

 private:
  const Fd ready_;  // readable while there is something, and until it was seen that there is not
  std::mutex mutex_;
  std::deque<AnswerEvent> events_;
};

}  // namespace
}  // namespace tidegate::sdk

struct tg_model {
  std::shared_ptr<tidegate::onshore::AnswerWorker> worker;
};

struct tg_answer {
  std::timed_mutex mutex;
  std::shared_ptr<tidegate::sdk::Inbox> inbox;
  std::weak_ptr<tidegate::onshore::AnswerWorker> worker;  // the model's, while that is open
  uint64_t id = 0;
  std::string told;  // the text of the last event
  std::atomic<bool> over{false};
};

namespace tidegate::sdk {
namespace {

const char* Or(const char* text, const char* otherwise) {
  return text == nullptr || *text == '\0' ? otherwise : text;
}

Result<std::vector<std::string>> WorkerCommand(const tg_model_options& o) {
  TG_ASSIGN_OR_RETURN(const std::string base, Given(o.base, "the base's folder"));
  std::string trainer = Or(o.trainer, "");
  if (trainer.empty()) {
    TG_ASSIGN_OR_RETURN(const std::filesystem::path found, FindProgram("tidegate-trainer"));
    trainer = found.native();
  }
  std::vector<std::string> out = {
      trainer,    "answer",           "--format",          "json",      "--base",
      base,       "--dtype",          Or(o.dtype, "auto"), "--threads", std::to_string(o.threads),
      "--device", Or(o.device, "cpu")};
  for (size_t i = 0; i < o.adapter_count; ++i) {
    TG_ASSIGN_OR_RETURN(const std::string adapter, Given(o.adapters[i], "an adapter's folder"));
    out.insert(out.end(), {"--adapter", adapter});
  }
  if (const char* name = Or(o.name, nullptr)) out.insert(out.end(), {"--served_model_name", name});
  if (const char* walls = Or(o.walls, nullptr)) out.insert(out.end(), {"--walls", walls});
  if (o.max_new_tokens != 0) {
    out.insert(out.end(), {"--max_new_tokens", std::to_string(o.max_new_tokens)});
  }
  if (o.load_in_bits == 8) out.push_back("--load_in_8bit");
  if (o.load_in_bits == 4) out.push_back("--load_in_4bit");
  if (o.load_in_bits != 0 && o.load_in_bits != 8 && o.load_in_bits != 4) {
    return InvalidArgument("load_in_bits is {}: 8, 4 or 0", o.load_in_bits);
  }
  return out;
}

Result<Ask> AskOf(const tg_question& q, const AnswerWorker& worker) {
  Ask ask;
  ask.model = Or(q.model, worker.models().front().c_str());
  const auto& known = worker.models();
  if (std::find(known.begin(), known.end(), ask.model) == known.end()) {
    std::string names;
    for (const std::string& name : known) names += (names.empty() ? "" : ", ") + name;
    return NotFound("there is no model {}; there is {}", ask.model, names);
  }
  if (q.message_count > 0 && q.text != nullptr) {
    return InvalidArgument("a question has messages or a text, not both");
  }
  if (q.message_count == 0 && q.text == nullptr) {
    return InvalidArgument("a question needs messages or a text");
  }
  for (size_t i = 0; i < q.message_count; ++i) {
    TG_ASSIGN_OR_RETURN(std::string role, Given(q.messages[i].role, "a message's role"));
    ask.messages.push_back({std::move(role), Or(q.messages[i].content, "")});
  }
  ask.text = Or(q.text, "");
  ask.max_new_tokens = q.max_new_tokens;
  ask.temperature = q.temperature;
  ask.top_p = q.top_p == 0 ? 1 : q.top_p;
  ask.repetition_penalty = q.repetition_penalty == 0 ? 1 : q.repetition_penalty;
  ask.top_k = q.top_k;
  ask.seed = q.seed;
  for (size_t i = 0; i < q.stop_count; ++i) ask.stop.emplace_back(Or(q.stop[i], ""));
  for (const double number : {ask.temperature, ask.top_p, ask.repetition_penalty}) {
    if (!std::isfinite(number)) return InvalidArgument("a number of the question is not finite");
  }
  // The process ends at a line that is none, and with it the answers of others.
  const std::string line = EncodeAsk(ask);
  if (line.size() > onshore::kMaxAskBytes) {
    return ResourceExhausted("the question has {} bytes: the limit is {}", line.size(),
                             onshore::kMaxAskBytes);
  }
  TG_ASSIGN_OR_RETURN(onshore::Command command, onshore::DecodeCommand(line));
  return std::move(command.ask);
}

Result<tg_answer_event> NextOf(tg_answer& answer, const Call& call) {
  if (answer.over) return FailedPrecondition("the answer has ended, and its end was told");
  TG_ASSIGN_OR_RETURN(AnswerEvent event, answer.inbox->Take(call));
  answer.over = event.kind != AnswerEvent::Kind::kText;
  // One that was taken back before it had begun.
  if (event.kind == AnswerEvent::Kind::kError && event.code == Code::kCancelled) {
    event.kind = AnswerEvent::Kind::kEnd;
    event.text = "cancelled";
  }
  if (event.kind == AnswerEvent::Kind::kError) {
    return MakeError(event.code == Code::kOk ? Code::kInternal : event.code, "{}", event.text);
  }
  answer.told = std::move(event.text);
  tg_answer_event out{};
  out.struct_size = sizeof(out);
  out.kind = answer.over ? TG_ANSWER_END : TG_ANSWER_TEXT;
  out.text = answer.told.c_str();
  out.text_size = answer.told.size();
  out.prompt_tokens = event.prompt_tokens;
  out.cached_tokens = event.cached_tokens;
  out.new_tokens = event.new_tokens;
  return out;
}

}  // namespace
}  // namespace tidegate::sdk

using namespace tidegate::sdk;  // NOLINT: what follows is C
using tidegate::OkStatus;
using tidegate::Status;

int32_t tg_model_open(const tg_model_options* options, const tg_call* given, tg_model** out,
                      tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(out);
    TG_RETURN_IF_ERROR(CheckStruct(options, sizeof(*options), "tg_model_options"));
    const Call call(given);
    TG_ASSIGN_OR_RETURN(const auto words, WorkerCommand(*options));
    TG_ASSIGN_OR_RETURN(auto worker,
                        AnswerWorker::Start(words, std::chrono::milliseconds(call.left()),
                                            {.cancel = call.cancel(), .keep_errors = true}));
    if (worker->models().empty()) {
      return tidegate::Internal("{} holds no model", words.front());
    }
    *out = new tg_model{std::move(worker)};
    return OkStatus();
  });
}

int32_t tg_model_list(tg_model* model, tg_name_fn each, void* user, tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(model), NotNull(each);
    for (const std::string& name : model->worker->models()) {
      if (each(name.c_str(), user) != 0) break;
    }
    return OkStatus();
  });
}

void tg_model_close(tg_model* model) { delete model; }

int32_t tg_model_ask(tg_model* model, const tg_question* question, tg_answer** out,
                     tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(model), NotNull(out);
    TG_RETURN_IF_ERROR(CheckStruct(question, sizeof(*question), "tg_question"));
    TG_ASSIGN_OR_RETURN(Ask ask, AskOf(*question, *model->worker));
    tidegate::Fd ready(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!ready.valid()) return tidegate::ErrnoStatus("make", "an event descriptor", errno);
    auto answer = std::make_unique<tg_answer>();
    answer->inbox = std::make_shared<Inbox>(std::move(ready));
    answer->worker = model->worker;
    TG_ASSIGN_OR_RETURN(
        answer->id,
        model->worker->Submit(std::move(ask), [inbox = answer->inbox](const AnswerEvent& event) {
          inbox->Put(event);
        }));
    *out = answer.release();
    return OkStatus();
  });
}

int32_t tg_answer_next(tg_answer* answer, const tg_call* given, tg_answer_event* out,
                       tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(answer);
    TG_RETURN_IF_ERROR(CheckStruct(out, sizeof(*out), "tg_answer_event"));
    const Call call(given);
    const Locked lock(answer->mutex, call);
    TG_RETURN_IF_ERROR(lock.status());
    TG_ASSIGN_OR_RETURN(const tg_answer_event event, NextOf(*answer, call));
    return Fill(event, out, "tg_answer_event");
  });
}

int32_t tg_answer_run(tg_answer* answer, const tg_call* given, tg_answer_fn each, void* user,
                      tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(answer), NotNull(each);
    const Call call(given);
    const Locked lock(answer->mutex, call);
    TG_RETURN_IF_ERROR(lock.status());
    for (;;) {
      TG_ASSIGN_OR_RETURN(const tg_answer_event event, NextOf(*answer, call));
      if (each(&event, user) != 0 || event.kind == TG_ANSWER_END) return OkStatus();
    }
  });
}

int32_t tg_answer_cancel(tg_answer* answer, tg_error* error) {
  return Guarded(error, [&]() -> Status {
    NotNull(answer);
    const auto worker = answer->worker.lock();
    if (worker != nullptr && !answer->over) worker->Cancel(answer->id);
    return OkStatus();
  });
}

void tg_answer_close(tg_answer* answer) {
  if (answer == nullptr) return;
  (void)tg_answer_cancel(answer, nullptr);
  delete answer;
}
