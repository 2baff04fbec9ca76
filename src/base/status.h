// Status and Result: how every function that can fail on input says so.
//
// A Status is a code of a closed set and one sentence that names the thing, the limit and the
// remedy. Functions that judge input return Status or Result<T>; exceptions of libraries stop at
// the module that calls them. Thread-safety: values, like std::string.
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace tidegate {

// The numbers are part of the command line (docs/exit-codes.md) and of ERROR messages: never reuse.
enum class Code : uint8_t {
  kOk = 0,
  kInvalidArgument = 1,     // the input is malformed or out of range
  kNotFound = 2,            // a named thing does not exist
  kAlreadyExists = 3,       // it exists and may not be replaced
  kFailedPrecondition = 4,  // right input, wrong state
  kResourceExhausted = 5,   // a limit, a budget, a disk
  kPermissionDenied = 6,    // policy says no
  kUnauthenticated = 7,     // a signature or key does not match
  kDataLoss = 8,            // stored or received bytes are corrupt
  kUnavailable = 9,         // a peer or device is away: try again
  kDeadlineExceeded = 10,   // it did not end in time
  kCancelled = 11,          // the user or a signal stopped it
  kUnsupported = 12,        // known, but not built; the message says what is
  kInternal = 13,           // our own mistake
};

std::string_view CodeName(Code code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  // "INVALID_ARGUMENT: message"
  std::string ToString() const;
  // The same status with "context: " before its message.
  Status WithContext(std::string_view context) const;

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

inline Status OkStatus() { return Status(); }

template <typename T>
using Result = tl::expected<T, Status>;

inline tl::unexpected<Status> Unexpected(Status status) {
  return tl::unexpected<Status>(std::move(status));
}

// Errors with a formatted message. They convert to Status and to any Result<T>.
class [[nodiscard]] Error {
 public:
  Error(Code code, std::string message) : status_(code, std::move(message)) {}
  operator Status() const { return status_; }  // NOLINT: the conversion is the point
  template <typename T>
  operator Result<T>() const {  // NOLINT
    return tl::unexpected<Status>(status_);
  }

 private:
  Status status_;
};

template <typename... Args>
Error MakeError(Code code, fmt::format_string<Args...> format, Args&&... args) {
  return Error(code, fmt::format(format, std::forward<Args>(args)...));
}

#define TIDEGATE_DEFINE_ERROR(Name)                                       \
  template <typename... Args>                                             \
  Error Name(fmt::format_string<Args...> format, Args&&... args) {        \
    return MakeError(Code::k##Name, format, std::forward<Args>(args)...); \
  }
TIDEGATE_DEFINE_ERROR(InvalidArgument)
TIDEGATE_DEFINE_ERROR(NotFound)
TIDEGATE_DEFINE_ERROR(AlreadyExists)
TIDEGATE_DEFINE_ERROR(FailedPrecondition)
TIDEGATE_DEFINE_ERROR(ResourceExhausted)
TIDEGATE_DEFINE_ERROR(PermissionDenied)
TIDEGATE_DEFINE_ERROR(Unauthenticated)
TIDEGATE_DEFINE_ERROR(DataLoss)
TIDEGATE_DEFINE_ERROR(Unavailable)
TIDEGATE_DEFINE_ERROR(DeadlineExceeded)
TIDEGATE_DEFINE_ERROR(Cancelled)
TIDEGATE_DEFINE_ERROR(Unsupported)
TIDEGATE_DEFINE_ERROR(Internal)
#undef TIDEGATE_DEFINE_ERROR

}  // namespace tidegate

// TG_RETURN_IF_ERROR(Status expression);
#define TG_RETURN_IF_ERROR(expr)                                       \
  do {                                                                 \
    if (::tidegate::Status tg_status = (expr); !tg_status.ok())        \
      return ::tidegate::Error(tg_status.code(), tg_status.message()); \
  } while (0)

#define TG_CONCAT_INNER(a, b) a##b
#define TG_CONCAT(a, b) TG_CONCAT_INNER(a, b)
// TG_ASSIGN_OR_RETURN(auto x, Result expression);
#define TG_ASSIGN_OR_RETURN(lhs, expr) \
  TG_ASSIGN_OR_RETURN_IMPL(TG_CONCAT(tg_result_, __LINE__), lhs, expr)
#define TG_ASSIGN_OR_RETURN_IMPL(result, lhs, expr)                                       \
  auto result = (expr);                                                                   \
  if (!result) return ::tidegate::Error(result.error().code(), result.error().message()); \
  lhs = std::move(*result)
