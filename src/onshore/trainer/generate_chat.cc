#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <optional>

#include "base/limits.h"
#include "onshore/trainer/generate_run.h"

namespace tidegate::trainer {
namespace {

using nlohmann::ordered_json;

// A signal wakes the wait, but for one that comes between the look at its flag and the wait.
constexpr int kLookForSignalMs = 200;

// Lines of standard input. An interrupt or another signal ends the wait for one.
class InputLines {
 public:
  enum class Got : uint8_t { kLine, kEnd, kSignal };

  Result<Got> Next(std::string* line) {
    while (true) {
      const size_t end = buffer_.find('\n', scanned_);
      if (end != std::string::npos || (ended_ && !buffer_.empty())) {
        const size_t size = std::min(end, buffer_.size());
        line->assign(buffer_, 0, size);
        if (line->ends_with('\r')) line->pop_back();
        buffer_.erase(0, size + 1);
        scanned_ = 0;
        return Got::kLine;
      }
      if (ended_) return Got::kEnd;
      scanned_ = buffer_.size();
      if (buffer_.size() > kMaxRecordLineBytes) {
        return ResourceExhausted("a line of standard input has more than {} bytes: cut it",
                                 kMaxRecordLineBytes);
      }
      if (StopAsked()) return Got::kSignal;
      TG_RETURN_IF_ERROR(Read());
    }
  }

 private:
  Status Read() {
    pollfd wait = {STDIN_FILENO, POLLIN, 0};
    if (::poll(&wait, 1, kLookForSignalMs) <= 0) return OkStatus();
    char piece[4096];
    const ssize_t n = ::read(STDIN_FILENO, piece, sizeof(piece));
    if (n > 0) buffer_.append(piece, static_cast<size_t>(n));
    if (n < 0 && errno != EINTR && errno != EAGAIN) {
      return ErrnoStatus("read", "standard input", errno);
    }
    ended_ = n == 0;
    return OkStatus();
  }

  std::string buffer_;
  size_t scanned_ = 0;  // of it without a newline
  bool ended_ = false;
};

class Chat {
 public:
  explicit Chat(Generator& generator) : generator_(generator), cache_(generator.engine.NewCache()) {
    Reset();
  }

  Status Run() {
    InputLines lines;
    std::string line;
    while (true) {
      if (person()) TG_RETURN_IF_ERROR(Write("> "));
      TG_ASSIGN_OR_RETURN(const InputLines::Got got, lines.Next(&line));
      if (got == InputLines::Got::kSignal && TakeInterrupt()) {
        if (person()) TG_RETURN_IF_ERROR(Write("\n"));
        return OkStatus();  // nothing was being answered: as /quit
      }
      if (got == InputLines::Got::kSignal) return Cancelled("a signal ended the conversation");
      if (got == InputLines::Got::kEnd || line == "/quit") return OkStatus();
      if (line.find_first_not_of(" \t") == std::string::npos) continue;
      if (line == "/reset") {
        Reset();
        continue;
      }
      const Status status = Answer(line);
      if (status.ok()) continue;
      // A person sees what was wrong and goes on; a program is told by the exit code.
      if (!person() || status.code() == Code::kCancelled) return status;
      std::fprintf(stderr, "%s\n", status.ToString().c_str());
    }
  }

 private:
  bool person() const { return generator_.config.input_terminal && !generator_.invocation.json; }

  static Status Write(std::string_view text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() ||
        std::fflush(stdout) != 0) {
      return Unavailable("cannot write to standard output; check where it is redirected to");
    }
    return OkStatus();
  }

  // What is computed of the old conversation stays in the cache, in case the next one begins alike.
  void Reset() {
    prompt_.messages.clear();
    const std::string& system = generator_.config.style.system;
    if (!system.empty()) prompt_.messages.push_back({"system", system});
  }

  // Asks and answers; a message that could not be answered is not part of the conversation.
  Status Answer(const std::string& line) {
    prompt_.where = "the conversation (/reset begins another)";
    prompt_.messages.push_back({"user", line});
    Status status = AnswerLast();
    if (!status.ok()) prompt_.messages.pop_back();
    return status;
  }

  Status AnswerLast() {
    TG_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                        EncodePrompt(generator_.base, prompt_, generator_.config.style));
    TG_RETURN_IF_ERROR(generator_.CheckMemory(1, ids.size()));
    model::StreamDecoder decoder(*generator_.base.tokenizer);
    std::string text;
    Status written;
    const auto on_token = [&](int32_t id) {
      const auto piece = decoder.Push(id);
      if (piece) text += *piece;
      if (piece && !generator_.invocation.json) written = Write(*piece);
      return written.ok() && !StopAsked();
    };
    TG_ASSIGN_OR_RETURN(
        const model::Generation generation,
        model::Generate(generator_.engine, cache_, ids, generator_.options, on_token));
    const std::string rest = decoder.Flush();
    text += rest;
    TG_RETURN_IF_ERROR(written);
    if (generator_.invocation.json) {
      const ordered_json json = {{"text", text},
                                 {"prompt_tokens", ids.size()},
                                 {"cached_tokens", generation.cached_tokens},
                                 {"new_tokens", generation.ids.size()},
                                 {"finish_reason", ReasonName(generation.reason)}};
      TG_RETURN_IF_ERROR(
          Write(json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"));
    } else {
      TG_RETURN_IF_ERROR(Write(rest + "\n"));
    }
    // An interrupt ends this answer, and no more.
    if (!TakeInterrupt() && StopAsked()) return Cancelled("a signal ended the conversation");
    prompt_.messages.push_back({"assistant", std::move(text)});
    return OkStatus();
  }

  Generator& generator_;
  model::KvCache cache_;
  Prompt prompt_;
};

}  // namespace

Status RunChat(Generator& generator) {
  if (!generator.base.chat) {
    return InvalidArgument("{} has no chat template: --prompt and --prompts continue texts",
                           generator.base.dir.native());
  }
  return Chat(generator).Run();
}

}  // namespace tidegate::trainer
