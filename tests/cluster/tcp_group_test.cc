#include "cluster/tcp_group.h"

#include <gtest/gtest.h>

#include "cases.h"
#include "on_threads.h"
#include "tcp_fixture.h"

namespace tidegate::cluster {
namespace {

class TcpGroup : public testing::TestWithParam<int> {};

TEST_P(TcpGroup, DoesWhatEveryBackendDoes) {
  EXPECT_EQ(OnThreads(MakeTcpGroup(GetParam(), 60'000), RunAllCases), "");
}

INSTANTIATE_TEST_SUITE_P(Ranks, TcpGroup, testing::Values(1, 2, 3));

TEST(TcpGroupErrors, RanksThatCallDifferentThingsAllGetBothNames) {
  EXPECT_EQ(OnThreads(MakeTcpGroup(3, 60'000), RunMismatchedTag), "");
  EXPECT_EQ(OnThreads(MakeTcpGroup(3, 60'000), RunMismatchedCount), "");
}

TEST(TcpGroupErrors, AnAbortReachesEveryRank) {
  EXPECT_EQ(OnThreads(MakeTcpGroup(3, 60'000), RunAbort), "");
}

TEST(TcpGroupErrors, ARankThatNeverCallsIsNamedAtTheDeadline) {
  EXPECT_EQ(OnThreads(MakeTcpGroup(3, 1500), RunLateRank), "");
}

TEST(TcpGroupErrors, ARankThatIsGoneIsNamedToAllWellBeforeTheDeadline) {
  auto group = MakeTcpGroup(3, 60'000);
  ASSERT_EQ(group.size(), 3u);
  group[2].reset();
  group.pop_back();
  EXPECT_EQ(OnThreads(std::move(group),
                      [](Collectives& rank) -> Status {
                        const Status status = rank.Barrier("meet");
                        const bool named = status.code() == Code::kUnavailable &&
                                           status.message().find("rank 2") != std::string::npos;
                        return named ? OkStatus() : Status(Code::kInternal, status.ToString());
                      }),
            "");
}

TEST(TcpGroupErrors, MoreThanAFrameIsRefusedByName) {
  auto group = MakeTcpGroup(2, 60'000);
  ASSERT_EQ(group.size(), 2u);
  std::vector<float> data(kMaxFrameBytes / 8);
  const Status status = group[0]->AllReduce("grads", data.data(), data.size(), DType::kF32);
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
  EXPECT_NE(status.message().find("use MPI or NCCL"), std::string::npos) << status.message();
  EXPECT_EQ(group[1]->Barrier("next").code(), Code::kResourceExhausted);
}

}  // namespace
}  // namespace tidegate::cluster
