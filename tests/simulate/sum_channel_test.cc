// Sums over a pipe: whole ones come through, anything else is named.
#include "onshore/ranks/sum_channel.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <numeric>
#include <thread>

#include "base/file.h"

namespace tidegate::onshore {
namespace {

struct Pipe {
  Pipe() {
    int fds[2] = {-1, -1};
    EXPECT_EQ(::pipe(fds), 0);
    read = Fd(fds[0]);
    write = Fd(fds[1]);
  }
  Fd read, write;
};

TEST(SumChannel, LargeSumsComeThroughAndThenTheText) {
  Pipe pipe;
  std::vector<int64_t> values(300'000);
  std::iota(values.begin(), values.end(), INT64_MIN);
  std::thread writer([&] {
    EXPECT_TRUE(SendSum(pipe.write.get(), values).ok());
    EXPECT_TRUE(SendSum(pipe.write.get(), {}).ok());
    EXPECT_TRUE(SendTextFollows(pipe.write.get()).ok());
    pipe.write.reset();
  });
  const auto sum = ReceiveSum(pipe.read.get());
  const auto empty = ReceiveSum(pipe.read.get());
  const auto text = ReceiveSum(pipe.read.get());
  const auto end = ReceiveSum(pipe.read.get());
  writer.join();
  ASSERT_TRUE(sum.has_value() && sum->has_value()) << sum.error().ToString();
  EXPECT_EQ((*sum)->values, values);
  ASSERT_TRUE(empty.has_value() && empty->has_value());
  EXPECT_TRUE((*empty)->values.empty());
  ASSERT_TRUE(text.has_value() && text->has_value());
  EXPECT_EQ((*text)->type, SumFrameType::kText);
  ASSERT_TRUE(end.has_value());
  EXPECT_FALSE(end->has_value());
}

// A frame that says more than comes takes no memory for it.
TEST(SumChannel, CutFramesAndOtherBytesAreDataLoss) {
  struct Head {
    uint32_t magic, type;
    uint64_t count;
  };
  for (const Head head : {Head{0x4d534754, 1, 1ull << 30}, Head{0x4d534754, 1, 1ull << 40},
                          Head{0x4d534754, 2, 1}, Head{0x4d534754, 3, 0}, Head{1, 1, 0}}) {
    Pipe pipe;
    ASSERT_TRUE(
        WriteAll(pipe.write.get(), {reinterpret_cast<const uint8_t*>(&head), sizeof(head)}, "pipe")
            .ok());
    pipe.write.reset();
    const auto frame = ReceiveSum(pipe.read.get());
    ASSERT_FALSE(frame.has_value());
    EXPECT_EQ(frame.error().code(), Code::kDataLoss);
  }
}

}  // namespace
}  // namespace tidegate::onshore
