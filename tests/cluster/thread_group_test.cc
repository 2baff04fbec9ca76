#include "cluster/thread_group.h"

#include <gtest/gtest.h>

#include <latch>

#include "cases.h"
#include "cluster/collective_stream.h"
#include "on_threads.h"

namespace tidegate::cluster {
namespace {

using std::chrono::milliseconds;

std::vector<std::unique_ptr<Collectives>> Group(int size,
                                                milliseconds deadline = milliseconds(60'000)) {
  auto group = MakeThreadGroup(size, {.deadline = deadline});
  EXPECT_TRUE(group.has_value());
  return std::move(*group);
}

class ThreadGroup : public testing::TestWithParam<int> {};

TEST_P(ThreadGroup, DoesWhatEveryBackendDoes) {
  EXPECT_EQ(OnThreads(Group(GetParam()), RunAllCases), "");
}

INSTANTIATE_TEST_SUITE_P(Ranks, ThreadGroup, testing::Values(1, 2, 3, 4, 8));

TEST(ThreadGroupErrors, RanksThatCallDifferentThingsAllGetBothNames) {
  EXPECT_EQ(OnThreads(Group(4), RunMismatchedTag), "");
  EXPECT_EQ(OnThreads(Group(4), RunMismatchedCount), "");
}

TEST(ThreadGroupErrors, AnAbortReachesEveryRank) { EXPECT_EQ(OnThreads(Group(4), RunAbort), ""); }

TEST(ThreadGroupErrors, ARankThatNeverCallsIsNamedAtTheDeadline) {
  EXPECT_EQ(OnThreads(Group(4, milliseconds(1000)), RunLateRank), "");
}

TEST(ThreadGroupErrors, ARankThatIsGoneIsNamed) {
  auto group = Group(2);
  std::jthread leaver([rank = std::move(group[1])]() mutable { rank.reset(); });
  const Status status = group[0]->Barrier("meet");
  EXPECT_EQ(status.code(), Code::kUnavailable);
  EXPECT_NE(status.message().find("rank 1"), std::string::npos) << status.message();
}

TEST(ThreadGroupErrors, AWrongCallEndsTheGroupForAll) {
  EXPECT_EQ(OnThreads(Group(2),
                      [](Collectives& group) -> Status {
                        float x = 0;
                        const Status status = group.rank() == 0
                                                  ? group.Broadcast("x", &x, 1, DType::kF32, 2)
                                                  : group.Broadcast("x", &x, 1, DType::kF32, 0);
                        const Code expected =
                            group.rank() == 0 ? Code::kInvalidArgument : Code::kCancelled;
                        return status.code() == expected ? OkStatus() : Status(Internal("no"));
                      }),
            "");
}

TEST(ThreadGroupErrors, ASecondCallAtOnceIsRefused) {
  auto group = Group(2);
  std::atomic<int> refused = 0;
  {
    // One of the two waits for rank 1, the other is refused.
    auto call = [&] {
      const Status status = group[0]->Barrier("meet");
      if (status.code() == Code::kFailedPrecondition) {
        ++refused;
        (void)group[1]->Barrier("meet");
      }
    };
    std::jthread a(call);
    std::jthread b(call);
  }
  EXPECT_EQ(refused, 1);
}

TEST(CollectiveStream, AStreamThatIsClosedEarlyEndsTheGroup) {
  auto group = Group(2);
  float x = 1;
  CollectiveStream::Handle first;
  CollectiveStream::Handle second;
  {
    CollectiveStream stream(*group[0]);
    std::latch begun(1);
    first = stream.Submit([&](Collectives& all) {
      begun.count_down();
      return all.AllReduce("a", &x, 1, DType::kF32);
    });
    second = stream.Submit([](Collectives& all) { return all.Barrier("b"); });
    begun.wait();
  }
  EXPECT_EQ(first.Wait().code(), Code::kCancelled);
  EXPECT_EQ(second.Wait().code(), Code::kCancelled);
  EXPECT_EQ(group[1]->Barrier("a").code(), Code::kCancelled);
}

TEST(CollectiveStream, CallsAfterAFailedOneAreNotRun) {
  auto group = Group(1);
  CollectiveStream stream(*group[0]);
  const auto failed = stream.Submit([](Collectives&) -> Status { return DataLoss("bad bucket"); });
  bool ran = false;
  const auto after = stream.Submit([&](Collectives&) {
    ran = true;
    return OkStatus();
  });
  EXPECT_EQ(failed.Wait().code(), Code::kDataLoss);
  EXPECT_EQ(after.Wait().message(), "bad bucket");
  EXPECT_FALSE(ran);
  EXPECT_EQ(stream.Drain().code(), Code::kDataLoss);
  EXPECT_EQ(CollectiveStream::Handle().Wait().code(), Code::kFailedPrecondition);
}

}  // namespace
}  // namespace tidegate::cluster
