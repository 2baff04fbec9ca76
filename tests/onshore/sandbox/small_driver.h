// What CUDA's driver does when it starts and afterwards, in small: an abstract socket that listens,
// files in memory, an event descriptor, writable and executable memory, a huge reservation, a
// thread that it names through /proc and that stays. Measured on drivers of the 570 and 580
// branches by others; here it stands for them on machines without one. One thread uses it.
#pragma once

#include <condition_variable>
#include <functional>
#include <future>
#include <mutex>
#include <string>
#include <thread>

namespace tidegate::onshore {

class SmallDriver {
 public:
  SmallDriver() = default;
  ~SmallDriver();
  SmallDriver(const SmallDriver&) = delete;
  SmallDriver& operator=(const SmallDriver&) = delete;

  // "" or the step that failed, with its errno: "memfd_create 1".
  std::string Start();
  // What `call` returns on the driver's thread.
  int OnItsThread(std::function<int()> call);
  // What it does for the work that it is given: its event, its memory, its device. As Start.
  std::string Work();

 private:
  int listener_ = -1, memory_ = -1, event_ = -1;
  void* code_ = nullptr;
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<int()> call_;
  std::promise<int> answer_;
  bool stop_ = false;

  void Serve();
};

}  // namespace tidegate::onshore
