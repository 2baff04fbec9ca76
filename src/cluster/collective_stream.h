// A thread that runs collectives one after another while its owner computes: a training step hands
// over a bucket of gradients as soon as it is whole and waits for all of them before it steps.
//
//   CollectiveStream stream(group);
//   auto handle = stream.Submit([&](Collectives& all) { return all.AllReduce("bucket 3", ...); });
//   ... compute ...
//   TG_RETURN_IF_ERROR(handle.Wait());
//
// While a stream lives the group is its own: no one else calls it (but Abort). Every rank submits
// the same calls in the same order. After a call failed, all later ones fail with the same error
// and are not run.
//
// Thread-safety: Submit and Drain from any thread; the order of calls is that of Submit.
#pragma once

#include <functional>
#include <memory>

#include "cluster/collectives.h"

namespace tidegate::cluster {

class CollectiveStream {
 public:
  // A call; what it points to must live until Wait or Drain has returned.
  using Work = std::function<Status(Collectives&)>;

  class Handle {
   public:
    Handle() = default;
    // The call's status, once it has run. Calls have deadlines, so this ends. kFailedPrecondition
    // for a handle of no call.
    Status Wait() const;

   private:
    friend class CollectiveStream;
    struct State;
    explicit Handle(std::shared_ptr<State> state) : state_(std::move(state)) {}
    std::shared_ptr<State> state_;
  };

  static constexpr size_t kDefaultMostQueued = 256;

  explicit CollectiveStream(Collectives& group, size_t most_queued = kDefaultMostQueued);
  // Calls that wait are not run any more; if there are any, or one runs, the group is aborted, as
  // the other ranks wait for them. Drain first where that is not meant.
  ~CollectiveStream();
  CollectiveStream(const CollectiveStream&) = delete;
  CollectiveStream& operator=(const CollectiveStream&) = delete;

  // Waits for room while `most_queued` calls wait.
  Handle Submit(Work work);
  // Waits for all that was submitted, and for the group's own stream (Collectives::Finish). The
  // first error of any call so far.
  Status Drain();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tidegate::cluster
