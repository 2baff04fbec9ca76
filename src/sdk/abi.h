// What every part of the C ABI needs: errors across it, sized structs, deadlines, cancellation.
// Private to this module.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "tidegate/tidegate.h"

struct tg_cancel {
  tidegate::Fd event;  // readable once it is cancelled
};

struct tg_text {
  std::string text;
};

namespace tidegate::sdk {

// Fills `error`, as far as the caller has it; the code.
int32_t Give(const Status& status, tg_error* error);

// Runs what a function of the ABI does: no exception leaves it.
template <typename F>
int32_t Guarded(tg_error* error, F&& body) {
  try {
    return Give(body(), error);
  } catch (const std::bad_alloc&) {
    return Give(ResourceExhausted("out of memory"), error);
  } catch (const std::exception& e) {
    return Give(Internal("{}", e.what()), error);
  }
}

// A caller's call, NULL for the defaults; deadlines as monotonic milliseconds.
class Call {
 public:
  explicit Call(const tg_call* call);
  int64_t left() const { return std::max<int64_t>(until_ - SystemClock().MonotonicMillis(), 0); }
  int64_t until() const { return until_; }
  int cancel() const { return cancel_; }

 private:
  int64_t until_ = 0;
  int cancel_ = -1;
};

// The lock of a handle, within the call's deadline.
class Locked {
 public:
  Locked(std::timed_mutex& mutex, const Call& call);
  Status status() const;

 private:
  std::unique_lock<std::timed_mutex> lock_;
};

// Whether a struct that the caller gave is one: not NULL, and as long as the first version had it.
template <typename T>
Status CheckStruct(const T* given, size_t least, const char* name) {
  if (given != nullptr && given->struct_size >= least) return OkStatus();
  return InvalidArgument("{}: set struct_size (TG_STRUCT does)", name);
}

// As much of `value` as the caller has room for.
template <typename T>
Status Fill(const T& value, T* out, const char* name) {
  TG_RETURN_IF_ERROR(CheckStruct(out, sizeof(T), name));
  const uint32_t size = out->struct_size;
  std::memcpy(static_cast<void*>(out), &value, sizeof(T));
  out->struct_size = size;
  return OkStatus();
}

template <size_t N>
void SetText(std::string_view text, char (&out)[N]) {
  const size_t size = std::min(text.size(), N - 1);
  std::memcpy(out, text.data(), size);
  out[size] = '\0';
}

// A path or name that the caller must give.
Result<std::string> Given(const char* text, const char* name);

template <typename T>
T* NotNull(T* handle) {
  if (handle == nullptr) throw std::invalid_argument("the handle is NULL");
  return handle;
}

// program.cc: `tidegate` or one that is installed beside it, wherever that is.
Result<std::filesystem::path> FindProgram(const std::string& name);
// The former's answer as it printed it; its own error, with its code.
Result<std::string> RunTidegate(std::vector<std::string> words, const Call& call);

// Waits for one of two descriptors; kDeadlineExceeded, kCancelled.
Status WaitFor(int fd, short events, const Call& call);

}  // namespace tidegate::sdk
