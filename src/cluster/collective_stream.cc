#include "cluster/collective_stream.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

namespace tidegate::cluster {

struct CollectiveStream::Handle::State {
  Work work;
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  Status status;

  void End(Status result) {
    work = nullptr;  // what it holds may go now
    std::lock_guard lock(mutex);
    status = std::move(result);
    done = true;
    changed.notify_all();
  }
};

Status CollectiveStream::Handle::Wait() const {
  if (state_ == nullptr) return FailedPrecondition("a handle of no collective was waited for");
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return state_->done; });
  return state_->status;
}

struct CollectiveStream::Impl {
  Impl(Collectives& the_group, size_t most)
      : group(the_group), most_queued(std::max<size_t>(most, 1)), thread([this] { RunAll(); }) {}

  void RunAll() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [&] { return closed || !queue.empty(); });
      if (closed) break;
      const auto state = queue.front();
      queue.pop_front();
      running = true;
      changed.notify_all();
      Status status = error;
      lock.unlock();
      if (status.ok()) status = state->work(group);
      lock.lock();
      // Before anyone learns that it ended: who was told may close the stream at once.
      running = false;
      if (error.ok()) error = status;
      lock.unlock();
      state->End(status);
      lock.lock();
    }
    for (const auto& state : queue) state->End(Cancelled("the stream was closed before this call"));
  }

  Collectives& group;
  const size_t most_queued;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::shared_ptr<Handle::State>> queue;
  bool running = false;
  bool closed = false;
  Status error;
  std::thread thread;  // last: it uses all of the above
};

CollectiveStream::CollectiveStream(Collectives& group, size_t most_queued)
    : impl_(std::make_unique<Impl>(group, most_queued)) {}

CollectiveStream::~CollectiveStream() {
  bool unfinished = false;
  {
    std::lock_guard lock(impl_->mutex);
    impl_->closed = true;
    unfinished = impl_->running || !impl_->queue.empty();
    impl_->changed.notify_all();
  }
  if (unfinished) impl_->group.Abort("a stream of collectives was closed before they had run");
  impl_->thread.join();
}

CollectiveStream::Handle CollectiveStream::Submit(Work work) {
  auto state = std::make_shared<Handle::State>();
  state->work = std::move(work);
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait(lock, [&] { return impl_->queue.size() < impl_->most_queued; });
  impl_->queue.push_back(state);
  impl_->changed.notify_all();
  return Handle(state);
}

Status CollectiveStream::Drain() {
  TG_RETURN_IF_ERROR(Submit([](Collectives& group) { return group.Finish(); }).Wait());
  return OkStatus();
}

}  // namespace tidegate::cluster
