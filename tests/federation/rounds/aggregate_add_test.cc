#include "federation/rounds/aggregate_add.h"

#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/bytes.h"
#include "base/rng.h"
#include "federation/rounds/aggregate.h"
#include "federation/rounds/aggregate_threads.h"

namespace tidegate::federation {
namespace {

using protocols::Codec;

constexpr AddLoop kLoops[] = {AddLoop::kBase, AddLoop::kAvx2, AddLoop::kAvx512};
constexpr Codec kCodecs[] = {Codec::kFixed32, Codec::kInt8, Codec::kBf16, Codec::kInt4};

uint32_t Word(uint32_t stream, uint64_t i) {
  return RandomWords(7, RngPurpose::kTest, stream, i)[0];
}

// A tensor as the parser takes it: numbers of a codec whose values come near `size`.
struct Numbers {
  Bytes scales, q;
  protocols::UpdateTensor tensor;
};
Numbers RandomTensor(Codec codec, uint32_t stream, uint64_t count, float size) {
  Numbers n;
  const auto put = [](Bytes& bytes, const auto& value) {
    const auto* p = reinterpret_cast<const uint8_t*>(&value);
    bytes.insert(bytes.end(), p, p + sizeof(value));
  };
  for (uint64_t i = 0; i < count; ++i) {
    const uint32_t word = Word(stream, i);
    if (codec == Codec::kFixed32) put(n.q, static_cast<int32_t>(word) >> (i % 31));
    if (codec == Codec::kInt8) put(n.q, static_cast<int8_t>(static_cast<int>(word % 255) - 127));
    if (codec == Codec::kBf16) {
      const float value = (static_cast<float>(word % 2001) - 1000.0f) * size * 1e-3f;
      put(n.q, static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
    }
    if (codec == Codec::kInt4 && i % 2 == 0) {
      const int low = static_cast<int>(word % 15) - 7, high = static_cast<int>(word / 15 % 15) - 7;
      put(n.q, static_cast<uint8_t>((low & 15) | (i + 1 < count ? high << 4 : 0)));
    }
  }
  if (const uint64_t group = protocols::UpdateGroup(codec); group != 0) {
    for (uint64_t g = 0; g < (count + group - 1) / group; ++g) {
      const float part = static_cast<float>(1 + Word(stream + 1, g) % 1000) * 1e-3f;
      put(n.scales, g % 5 == 4 ? 0.0f : size * part / static_cast<float>(UpdateMaxQ(codec)));
    }
  }
  n.tensor = {0, count, codec, n.scales, n.q};
  return n;
}

// What a sum of integers is, one value at a time.
std::vector<int64_t> Reference(const protocols::UpdateTensor& tensor, uint32_t weight) {
  std::vector<int64_t> sum(tensor.count, 5);
  protocols::ForEachValue(tensor, [&](uint64_t i, double value) {
    sum[i] += static_cast<int64_t>(std::nearbyint(value * 0x1p32)) * weight;
  });
  return sum;
}

TEST(AddValues, EveryInstructionSetGivesTheBitsOfThePlainLoop) {
  int compared = 0;
  for (const AddLoop loop : kLoops) {
    if (!MachineRuns(loop)) continue;
    for (const Codec codec : kCodecs) {
      // Below the grid's step, usual, and so large that light weights take the loop of doubles and
      // heavy ones that of integers.
      for (const float size : {0x1p-33f, 1e-3f, 0.9f, 63.0f}) {
        for (const uint32_t weight : {1u, 3u, 8191u, 8192u, 65535u, 65536u}) {
          for (const uint64_t count : {1ull, 255ull, 256ull, 2309ull}) {
            const Numbers n = RandomTensor(codec, 100 + weight % 97, count, size);
            const auto expected = Reference(n.tensor, weight);
            std::vector<int64_t> sum(count, 5);
            AddValues(loop, n.tensor, 0, count, weight, sum.data());
            ASSERT_EQ(sum, expected)
                << "loop " << static_cast<int>(loop) << ", " << protocols::CodecName(codec) << ", "
                << size << " × " << weight << ", " << count << " values";
            ++compared;
          }
        }
      }
    }
  }
  EXPECT_GE(compared, 4 * 4 * 6 * 4);
}

TEST(AddValues, HalvesOfTheGridGoToEven) {
  for (const AddLoop loop : kLoops) {
    if (!MachineRuns(loop)) continue;
    const float half = 0x1p-33f;
    Bytes q(256, 0), scale(4);
    for (int i = 0; i < 8; ++i) q[i] = static_cast<uint8_t>(static_cast<int8_t>(i - 4));
    std::memcpy(scale.data(), &half, 4);
    const protocols::UpdateTensor tensor{0, 256, Codec::kInt8, scale, q};
    std::vector<int64_t> sum(256, 0);
    AddValues(loop, tensor, 0, 256, 10, sum.data());
    // −4 … 3 halves: −2, −1.5, −1, −0.5, 0, 0.5, 1, 1.5.
    EXPECT_EQ(std::vector<int64_t>(sum.begin(), sum.begin() + 8),
              (std::vector<int64_t>{-20, -20, -10, 0, 0, 0, 10, 20}));
  }
}

TEST(AddValues, APartOfATensorIsThatPart) {
  for (const Codec codec : kCodecs) {
    const Numbers n = RandomTensor(codec, 50, 1500, 0.5f);
    const auto whole = Reference(n.tensor, 9);
    std::vector<int64_t> part(700, 5);
    AddValues(FastestAddLoop(), n.tensor, 512, 1212, 9, part.data());
    EXPECT_EQ(part, std::vector<int64_t>(whole.begin() + 512, whole.begin() + 1212));
  }
}

// Tensors that end nowhere near a cell's end, longer and shorter than one; one is not shared.
TEST(WeightedSum, IsTheSameOnAnyNumberOfThreadsAndInAnyCompany) {
  protocols::Layout layout;
  layout.tensors.items = {
      {"a", 3, 111, 0}, {"b", 1, 50001, 1}, {"c", 7, 7, 0}, {"d", 1, 16384, 0}, {"e", 5, 70003, 0}};
  constexpr size_t kValues = 333 + 50001 + 49 + 16384 + 350015;
  std::vector<Bytes> updates;
  for (uint32_t site = 0; site < 5; ++site) {
    protocols::UpdateHeader header;
    header.codec = Codec::kFixed32;
    header.groups = 1;
    header.weight = 1;
    header.tensors = 4;
    header.values = kValues - 50001;
    Bytes bytes(protocols::UpdateBytes(layout, 1, Codec::kFixed32));
    protocols::WriteUpdateHeader(header, bytes.data());
    for (size_t at = protocols::kUpdateHeaderBytes; at < bytes.size(); at += 4) {
      const uint32_t word = Word(site, at);
      std::memcpy(bytes.data() + at, &word, 4);
    }
    updates.push_back(std::move(bytes));
  }
  std::vector<protocols::UpdateView> views;
  for (const Bytes& bytes : updates) {
    views.push_back(protocols::UpdateView::Parse(bytes, layout).value());
  }
  std::vector<int64_t> expected(kValues, 0);
  std::vector<WeightedSum::Contribution> all;
  for (size_t i = 0; i < views.size(); ++i) {
    all.push_back({&views[i], static_cast<uint32_t>(1 + 1000 * i)});
    for (const auto& tensor : views[i].tensors()) {
      protocols::ForEachValue(tensor, [&](uint64_t at, double value) {
        expected[at] += static_cast<int64_t>(value * 0x1p32) * all.back().weight;
      });
    }
  }
  for (const unsigned threads : {1u, 2u, 5u}) {
    WeightedSum together(kValues);
    ASSERT_TRUE(together.Add(all, threads).ok());
    EXPECT_EQ(std::vector<int64_t>(together.sum().begin(), together.sum().end()), expected);
  }
  WeightedSum apart(kValues);
  for (const auto& c : all) ASSERT_TRUE(apart.Add(*c.update, c.weight).ok());
  EXPECT_EQ(std::vector<int64_t>(apart.sum().begin(), apart.sum().end()), expected);
}

TEST(WeightedSum, AddsAllOfSeveralOrNone) {
  protocols::Layout layout;
  layout.tensors.items = {{"a", 1, 4, 0}};
  protocols::UpdateHeader header;
  header.codec = Codec::kFixed32;
  header.groups = header.weight = header.tensors = 1;
  header.values = 4;
  Bytes bytes(protocols::UpdateBytes(layout, 1, Codec::kFixed32), 1);
  protocols::WriteUpdateHeader(header, bytes.data());
  const auto view = protocols::UpdateView::Parse(bytes, layout).value();
  WeightedSum sum(4);
  const WeightedSum::Contribution good{&view, 1}, heavy{&view, protocols::kMaxWeight + 1};
  EXPECT_EQ(sum.Add(std::vector{good, heavy}).code(), Code::kInvalidArgument);
  const WeightedSum::Contribution most{&view, protocols::kMaxWeight};
  std::vector<WeightedSum::Contribution> full(protocols::kMaxContributions, most);
  full.push_back(good);
  EXPECT_EQ(sum.Add(full).code(), Code::kResourceExhausted);
  EXPECT_EQ(std::vector<int64_t>(sum.sum().begin(), sum.sum().end()), std::vector<int64_t>(4, 0));
  // Of smaller weights a sum takes more.
  ASSERT_TRUE(sum.Add(std::vector(protocols::kMaxSites, good), 2).ok());
  EXPECT_EQ(sum.sum()[3], int64_t{0x01010101} * 16 * protocols::kMaxSites);
}

TEST(OnThreads, RunsEachTaskOnce) {
  for (const unsigned threads : {1u, 3u, 50u}) {
    std::vector<std::atomic<int>> ran(37);
    OnThreads(threads, ran.size(), [&](size_t task) { ++ran[task]; });
    for (const auto& times : ran) EXPECT_EQ(times, 1);
  }
  OnThreads(2, 0, [](size_t) { FAIL() << "there is no task"; });
}

}  // namespace
}  // namespace tidegate::federation
