// answer: holds a base and its adapters behind the walls and answers what comes over standard
// input, line by line (onshore/answers/messages.h). What `tidegate serve` and the SDK start.
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "base/available_memory.h"
#include "finetune/config.h"
#include "finetune/evaluate.h"
#include "model/memory_plan.h"
#include "onshore/trainer/answer_loop.h"
#include "onshore/trainer/verb.h"

namespace tidegate::trainer {
namespace {

namespace fs = std::filesystem;

constexpr int kLookForSignalMs = 200;

struct AnswerConfig {
  fs::path base;
  std::vector<std::string> adapters;  // NAME=DIR or DIR
  std::string name;                   // of the base; empty: its folder's
  std::string device = "cpu", dtype = "auto";
  finetune::HeldWeights held;
  int threads = 0;
  AnswerLimits limits;
};

struct NamedAdapter {
  std::string name;
  fs::path folder;
};

NamedAdapter Named(const std::string& text) {
  const size_t at = text.find('=');
  if (at != std::string::npos && at > 0) return {text.substr(0, at), text.substr(at + 1)};
  const fs::path folder = fs::path(text).lexically_normal();
  return {(folder.has_filename() ? folder : folder.parent_path()).filename().native(), folder};
}

std::string BaseName(const AnswerConfig& config) {
  return config.name.empty() ? Named(config.base.native()).name : config.name;
}

Status Prepare(Invocation& invocation, AnswerConfig& c) {
  TG_RETURN_IF_ERROR(UseDevice(invocation, c.device));
  finetune::EvalConfig limits;
  limits.threads = c.threads;
  limits.max_new_tokens = c.limits.default_new_tokens;
  TG_RETURN_IF_ERROR(finetune::CheckEvalConfig(limits));
  TG_RETURN_IF_ERROR(AllowRead(invocation, "base", c.base));
  for (const std::string& adapter : c.adapters) {
    TG_RETURN_IF_ERROR(AllowRead(invocation, "adapter", Named(adapter).folder));
  }
  c.limits.free_bytes = AvailableMemory().value_or(UINT64_MAX);
  invocation.reads_input = true;
  return OkStatus();
}

Status WriteEvent(const onshore::AnswerEvent& event) {
  const std::string line = onshore::EncodeEvent(event);
  if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size() || std::fflush(stdout) != 0) {
    return Unavailable("who asked is gone");
  }
  return OkStatus();
}

// Lines of standard input, taken without waiting while there is something to do.
class Questions {
 public:
  // What has come; nothing more comes once `ended`.
  Status Read(bool wait, AnswerLoop* loop) {
    pollfd waits = {STDIN_FILENO, POLLIN, 0};
    while (!ended_ && ::poll(&waits, 1, wait ? kLookForSignalMs : 0) > 0) {
      char piece[16384];
      const ssize_t n = ::read(STDIN_FILENO, piece, sizeof(piece));
      if (n < 0 && errno == EINTR) return OkStatus();
      if (n <= 0) ended_ = true;
      if (n > 0) buffer_.append(piece, static_cast<size_t>(n));
      TG_RETURN_IF_ERROR(TakeLines(loop));
      wait = false;
    }
    return OkStatus();
  }
  bool ended() const { return ended_; }

 private:
  Status TakeLines(AnswerLoop* loop) {
    size_t begin = 0;
    for (size_t end; (end = buffer_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      TG_ASSIGN_OR_RETURN(
          const onshore::Command command,
          onshore::DecodeCommand(std::string_view(buffer_).substr(begin, end - begin)));
      TG_RETURN_IF_ERROR(loop->Take(command));
    }
    buffer_.erase(0, begin);
    if (buffer_.size() <= onshore::kMaxAskBytes) return OkStatus();
    return ResourceExhausted("a question has more than {} bytes", onshore::kMaxAskBytes);
  }

  std::string buffer_;
  bool ended_ = false;
};

Status Run(const AnswerConfig& c, const std::string& raised) {
  CatchStopSignals();
  TG_ASSIGN_OR_RETURN(const finetune::LoadedBase base,
                      finetune::LoadedBase::Load(c.base, c.dtype, finetune::ThreadsOf(c.threads),
                                                 c.held, c.device));
  AnswerLimits limits = c.limits;
  TG_ASSIGN_OR_RETURN(limits.free_bytes, base.FreeBytes(limits.free_bytes));
  AnswerLoop loop(base, limits, WriteEvent);
  TG_RETURN_IF_ERROR(loop.AddModel(BaseName(c), {}));
  for (const std::string& text : c.adapters) {
    const NamedAdapter adapter = Named(text);
    TG_RETURN_IF_ERROR(loop.AddModel(adapter.name, adapter.folder));
  }
  onshore::AnswerEvent ready;
  ready.kind = onshore::AnswerEvent::Kind::kReady;
  ready.models = loop.models();
  ready.text = raised;
  TG_RETURN_IF_ERROR(WriteEvent(ready));
  Questions questions;
  while (!StopAsked() && !(questions.ended() && !loop.busy())) {
    TG_RETURN_IF_ERROR(questions.Read(!loop.busy(), &loop));
    TG_RETURN_IF_ERROR(loop.Advance());
  }
  return OkStatus();
}

}  // namespace

void RegisterAnswer(CLI::App& app, Invocation& invocation) {
  auto c = std::make_shared<AnswerConfig>();
  CLI::App* verb = AddVerb(
      app, "answer", "Hold a model and answer what comes over standard input", invocation,
      [&invocation, c] { return Prepare(invocation, *c); },
      [c](const std::string& raised) { return Run(*c, raised); },
      [c](const CLI::App& parsed) { CheckHeldWeights(parsed, c->held); });
  verb->add_option(Flag("base"), c->base, "HF folder of the base model")->required();
  verb->add_option(Flag("adapter"), c->adapters,
                   "PEFT folder, or NAME=FOLDER; once for each: a model of its own");
  verb->add_option(Flag("served_model_name"), c->name,
                   "What the base is called; default: its folder's name");
  AddDevice(*verb, c->device);
  verb->add_option(Flag("dtype"), c->dtype, "auto, bf16 or f32")->capture_default_str();
  AddHeldWeights(*verb, c->held);
  verb->add_option(Flag("threads"), c->threads, "0: all CPUs of this process")
      ->capture_default_str();
  verb->add_option(Flag("max_new_tokens"), c->limits.default_new_tokens,
                   "Of an answer whose question does not say")
      ->capture_default_str();
}

}  // namespace tidegate::trainer
