// The process that holds a model and answers, for a program in front of it: starts it, asks, and
// hands out what comes back. Thread-safe.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "onshore/answers/messages.h"

namespace tidegate::onshore {

struct WorkerOptions {
  // Ends the wait for it to be ready, with kCancelled, when it can be read; -1: none.
  int cancel = -1;
  // Its standard error is read, and what it said at its end is in errors: for a program that has no
  // terminal to show it. It should be one that was given --format json.
  bool keep_errors = false;
};

class AnswerWorker {
 public:
  // Called from the worker's own thread, in order, until an event of kind kEnd or kError; must not
  // call the worker back but for Cancel.
  using OnEvent = std::function<void(const AnswerEvent& event)>;

  // Starts argv[0] (tidegate-trainer answer …) in a process group of its own, its standard error
  // ours, and waits until it is ready. What it says there before it ends is not read: kUnavailable
  // carries its exit code. With `keep_errors` its own code and words are the error.
  static Result<std::unique_ptr<AnswerWorker>> Start(const std::vector<std::string>& argv,
                                                     std::chrono::milliseconds ready_within,
                                                     const WorkerOptions& options = {});
  // Ends the process without waiting for answers; open questions hear kError.
  virtual ~AnswerWorker() = default;

  virtual const std::vector<std::string>& models() const = 0;
  virtual const std::string& walls() const = 0;
  // `ask.id` is given here and returned. kUnavailable when the process is gone or takes nothing.
  virtual Result<uint64_t> Submit(Ask ask, OnEvent on_event) = 0;
  virtual void Cancel(uint64_t id) = 0;
  // Whether the process is there.
  virtual bool alive() const = 0;
};

}  // namespace tidegate::onshore
