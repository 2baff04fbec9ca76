// The logic over NCCL runs against a fake of it; the real library, where it is installed, is asked
// what it can do without a GPU. With one: tests/cluster/gpu.
#include "cluster/nccl_group.h"

#include <gtest/gtest.h>

#include <barrier>

#include "cases.h"
#include "cluster/thread_group.h"
#include "fake_nccl.h"
#include "on_threads.h"
#include "tcp_fixture.h"

namespace tidegate::cluster {
namespace {

using Groups = std::vector<std::unique_ptr<Collectives>>;

Groups Threads(int size) {
  return std::move(*MakeThreadGroup(size, {.deadline = std::chrono::seconds(60)}));
}

// Runs on each rank, which joins the fake first over a group that hands out the id.
std::string OnFake(Groups bootstrap, const GroupOptions& options,
                   const std::function<Status(NcclGroup&)>& run) {
  std::vector<std::shared_ptr<Collectives>> shared(bootstrap.size());
  for (size_t r = 0; r < shared.size(); ++r) shared[r] = std::move(bootstrap[r]);
  return OnThreads(Threads(static_cast<int>(shared.size())), [&](Collectives& thread) -> Status {
    FakeStream stream;
    TG_ASSIGN_OR_RETURN(const auto group,
                        JoinNccl(FakeNccl(), shared[thread.rank()], stream.Use(), options));
    TG_RETURN_IF_ERROR(run(*group));
    return OkStatus();
  });
}

class NcclRanks : public testing::TestWithParam<int> {};

TEST_P(NcclRanks, DoWhatEveryBackendDoes) {
  EXPECT_EQ(OnFake(Threads(GetParam()), {}, RunAllCases), "");
}

INSTANTIATE_TEST_SUITE_P(Fake, NcclRanks, testing::Values(1, 2, 4));

TEST(NcclGroup, IsBootstrappedOverTheRendezvousAsWell) {
  EXPECT_EQ(OnFake(MakeTcpGroup(3, 60'000), {}, RunAllCases), "");
}

TEST(NcclGroup, ARankThatCannotJoinIsNamedToAll) {
  const GroupOptions options{.deadline = std::chrono::milliseconds(1500)};
  auto shared = Threads(3);
  const std::string failures = OnThreads(Threads(3), [&](Collectives& thread) -> Status {
    std::shared_ptr<Collectives> bootstrap = std::move(shared[thread.rank()]);
    FaultsOfThisThread().join = thread.rank() == 1 ? kNcclUnhandledCudaError : kNcclSuccess;
    FakeStream stream;
    const auto group = JoinNccl(FakeNccl(), bootstrap, stream.Use(), options);
    if (group) return Internal("joined without rank 1");
    const Code expected = thread.rank() == 1 ? Code::kUnavailable : Code::kCancelled;
    const bool named =
        group.error().message().find("rank 1: joining: NCCL: unhandled cuda") != std::string::npos;
    return group.error().code() == expected && named ? OkStatus() : group.error();
  });
  EXPECT_EQ(failures, "");
}

TEST(NcclGroup, AnAbortEndsAFinishThatWaits) {
  EXPECT_EQ(OnFake(Threads(2), {},
                   [](NcclGroup& group) -> Status {
                     float x = 1;
                     if (group.rank() == 0) {
                       TG_RETURN_IF_ERROR(group.AllReduce("never", &x, 1, DType::kF32));
                       std::jthread other([&] { group.Abort("no more"); });
                       const Status status = group.Finish();
                       return status.code() == Code::kCancelled ? OkStatus()
                                                                : Status(Internal("x"));
                     }
                     const Status told = group.Barrier("next");
                     return told.code() == Code::kCancelled ? OkStatus() : told;
                   }),
            "");
}

TEST(NcclGroup, TheDeadlineEndsAFinishWhosePeerNeverCalls) {
  EXPECT_EQ(OnFake(Threads(2), {.deadline = std::chrono::milliseconds(1000)},
                   [](NcclGroup& group) -> Status {
                     float x = 1;
                     if (group.rank() == 1) return OkStatus();
                     TG_RETURN_IF_ERROR(group.AllReduce("never", &x, 1, DType::kF32));
                     const Status status = group.Finish();
                     const bool ended = status.code() == Code::kDeadlineExceeded ||
                                        status.code() == Code::kUnavailable;
                     return ended ? OkStatus() : Status(Internal("not ended"));
                   }),
            "");
}

// Rank 2 of 3 is lost in a sum. The others notice by NCCL's asynchronous error, meet anew and go
// on.
TEST(NcclGroup, AfterALostRankTheOthersRejoinAndGoOn) {
  auto three = Threads(3);
  auto two = Threads(2);
  std::atomic<bool> lost = false;
  std::barrier met(3);
  const std::string failures = OnThreads(Threads(3), [&](Collectives& thread) -> Status {
    const int rank = thread.rank();
    std::shared_ptr<Collectives> first = std::move(three[rank]);
    FaultsOfThisThread().peer_lost = rank == 2 ? nullptr : &lost;
    FakeStream stream;
    auto group = JoinNccl(FakeNccl(), first, stream.Use(), {});
    met.arrive_and_wait();
    TG_RETURN_IF_ERROR(group ? OkStatus() : group.error());
    if (rank == 2) {
      lost = true;
      return OkStatus();
    }
    float x = 1;
    Status status = (*group)->AllReduce("sum", &x, 1, DType::kF32);
    if (status.ok()) status = (*group)->Finish();
    if (status.code() != Code::kUnavailable && status.code() != Code::kCancelled) {
      return Internal("the lost rank was not noticed: {}", status.ToString());
    }
    if ((*group)->Finish().ok()) return Internal("a group that is over went on");
    FaultsOfThisThread().peer_lost = nullptr;
    stream.queued = 0;
    TG_RETURN_IF_ERROR((*group)->Rejoin(std::move(two[rank])));
    x = 1;
    TG_RETURN_IF_ERROR((*group)->AllReduce("again", &x, 1, DType::kF32));
    TG_RETURN_IF_ERROR((*group)->Finish());
    return x == 2 ? OkStatus() : Status(Internal("the sum of two is {}", x));
  });
  EXPECT_EQ(failures, "");
}

TEST(NcclLibrary, WhereThereIsNoneItSaysWhatToInstall) {
  const auto none = LoadNcclFrom("libnccl-of-nowhere.so.2");
  ASSERT_FALSE(none.has_value());
  EXPECT_EQ(none.error().code(), Code::kUnsupported);
  EXPECT_NE(none.error().message().find("libnccl2"), std::string::npos);
  const auto other = LoadNcclFrom("libc.so.6");
  ASSERT_FALSE(other.has_value());
  EXPECT_NE(other.error().message().find("is no NCCL"), std::string::npos);
}

TEST(NcclLibrary, MakesIdsWithoutAGpuAndFailsToJoinCleanly) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "NCCL is not instrumented";
#endif
  const auto api = LoadNccl();
  if (!api) GTEST_SKIP() << api.error().message();
  NcclId first{};
  NcclId second{};
  ASSERT_EQ((*api)->get_unique_id(&first), kNcclSuccess);
  ASSERT_EQ((*api)->get_unique_id(&second), kNcclSuccess);
  EXPECT_NE(std::memcmp(&first, &second, sizeof first), 0);
  FakeStream stream;
  std::shared_ptr<Collectives> alone = std::move(Threads(1)[0]);
  const auto group = JoinNccl(**api, alone, stream.Use(), {.deadline = std::chrono::seconds(60)});
  if (group) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_EQ(group.error().code(), Code::kUnavailable) << group.error().ToString();
  EXPECT_NE(group.error().message().find("NCCL: "), std::string::npos);
}

}  // namespace
}  // namespace tidegate::cluster
