// Status, Result, deadlines and cancellation of the C++ API: header-only, over the C ABI alone
// (tidegate/tidegate.h). C++17. Status and Result are values; a Cancel may be used by any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "tidegate/tidegate.h"

namespace tg {

enum class Code : int32_t {
  kOk = TG_OK,
  kInvalidArgument = TG_INVALID_ARGUMENT,
  kNotFound = TG_NOT_FOUND,
  kAlreadyExists = TG_ALREADY_EXISTS,
  kFailedPrecondition = TG_FAILED_PRECONDITION,
  kResourceExhausted = TG_RESOURCE_EXHAUSTED,
  kPermissionDenied = TG_PERMISSION_DENIED,
  kUnauthenticated = TG_UNAUTHENTICATED,
  kDataLoss = TG_DATA_LOSS,
  kUnavailable = TG_UNAVAILABLE,
  kDeadlineExceeded = TG_DEADLINE_EXCEEDED,
  kCancelled = TG_CANCELLED,
  kUnsupported = TG_UNSUPPORTED,
  kInternal = TG_INTERNAL,
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  // "NOT_FOUND: message"
  std::string ToString() const {
    const std::string name = tg_code_name(static_cast<int32_t>(code_));
    return ok() ? name : name + ": " + message_;
  }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

// A value, or why there is none. `value()` of one without a value throws std::bad_variant_access.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT: the conversion is the point
  Result(Status status) : value_(std::move(status)) {}  // NOLINT

  bool ok() const { return std::holds_alternative<T>(value_); }
  explicit operator bool() const { return ok(); }
  Status status() const { return ok() ? Status() : std::get<Status>(value_); }
  T& value() { return std::get<T>(value_); }
  const T& value() const { return std::get<T>(value_); }
  T& operator*() { return value(); }
  const T& operator*() const { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<T, Status> value_;
};

// Ends calls that other threads wait in. Once cancelled it stays so.
class Cancel {
 public:
  Cancel() : handle_(tg_cancel_new(), &tg_cancel_free) {}
  void Now() const { tg_cancel_now(handle_.get()); }
  tg_cancel* handle() const { return handle_.get(); }

 private:
  std::shared_ptr<tg_cancel> handle_;
};

// Of one call. A deadline below zero: none.
struct Call {
  std::chrono::milliseconds deadline{10'000};
  const Cancel* cancel = nullptr;

  Call() = default;
  Call(std::chrono::milliseconds within) : deadline(within) {}  // NOLINT: tg::Call by its deadline
  Call(std::chrono::milliseconds within, const Cancel& by) : deadline(within), cancel(&by) {}

  tg_call ToC() const {
    TG_STRUCT(tg_call, call);
    const auto millis = deadline.count();
    call.deadline_millis = millis < 0 || millis > INT32_MAX ? -1
                           : millis == 0                    ? 1
                                                            : static_cast<int32_t>(millis);
    call.cancel = cancel == nullptr ? nullptr : cancel->handle();
    return call;
  }
};

namespace internal {

// The error of a call of the C ABI.
class Failure {
 public:
  Failure() { error_.struct_size = sizeof(error_); }
  tg_error* c() { return &error_; }
  Status Of(int32_t code) const {
    return code == TG_OK ? Status() : Status(static_cast<Code>(code), error_.message);
  }

 private:
  tg_error error_{};
};

template <typename F>
Status Do(const Call& call, F&& ask) {
  const tg_call c = call.ToC();
  Failure failure;
  return failure.Of(ask(&c, failure.c()));
}

// A text that the library made.
template <typename F>
Result<std::string> Text(const Call& call, F&& ask) {
  tg_text* text = nullptr;
  const Status status = Do(call, [&](const tg_call* c, tg_error* e) { return ask(c, &text, e); });
  if (!status.ok()) return status;
  std::string out(tg_text_data(text), tg_text_size(text));
  tg_text_free(text);
  return out;
}

// For lists: a callback of the C ABI that appends what it is given.
template <typename Item, typename Raw>
int32_t Append(const Raw* item, void* list) noexcept {
  try {
    static_cast<std::vector<Item>*>(list)->push_back(Item(*item));
    return 0;
  } catch (...) {
    return 1;
  }
}

}  // namespace internal

// `tidegate` with these words: its answer, JSON.
inline Result<std::string> RunTidegate(const std::vector<std::string>& words,
                                       const Call& call = Call()) {
  std::vector<const char*> all;
  for (const std::string& word : words) all.push_back(word.c_str());
  return internal::Text(call, [&](const tg_call* c, tg_text** out, tg_error* e) {
    return tg_run_tidegate(all.data(), all.size(), c, out, e);
  });
}

}  // namespace tg
