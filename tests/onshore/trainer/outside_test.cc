// The trainer that hands rounds to a program of a client: whose update it is, and what a client
// does to the pipes.
#include <algorithm>
#include <cerrno>

#include "onshore/api/round_reader.h"
#include "trainer_process.h"

namespace tidegate::trainer {
namespace {

using onshore::api::RoundFrame;
using onshore::api::RoundFrameType;
using onshore::api::RoundMessage;

// Gate, supervisor and client in one.
class OutsideTrainer : public TrainerProcess {
 protected:
  void Change(onshore::SpawnSpec* spec) override {
    const SiteOptions& options = site_.options();
    spec->arguments = {"outside",
                       "--generation",
                       std::to_string(generation_),
                       "--dir",
                       options.site.native(),
                       "--name",
                       options.name,
                       "--base",
                       options.base.native(),
                       "--walls",
                       options.walls,
                       "--outside_uid",
                       std::to_string(uid_)};
    int in[2], out[2];
    ASSERT_EQ(::pipe2(in, O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(out, O_CLOEXEC), 0);
    // Small: what does not fit stays in the trainer.
    ASSERT_GT(::fcntl(in[0], F_SETPIPE_SZ, 4096), 0);
    ASSERT_GT(::fcntl(out[0], F_SETPIPE_SZ, 4096), 0);
    theirs_in_ = Fd(in[0]);
    to_ = Fd(in[1]);
    from_ = Fd(out[0]);
    theirs_out_ = Fd(out[1]);
    spec->input_fd = theirs_in_.get();
    spec->output_fd = theirs_out_.get();
  }
  void StartAs(uint32_t uid) {
    uid_ = uid;
    reader_ = {};
    ASSERT_NO_FATAL_FAILURE(StartOrSkip());
    if (IsSkipped()) return;
    SetFlags(O_NONBLOCK);
    EXPECT_EQ(OutsideUid(), uid);
  }
  // Of both open file descriptions, which the trainer has too.
  void SetFlags(int flags) const {
    for (const Fd* fd : {&theirs_in_, &theirs_out_}) {
      EXPECT_EQ(::fcntl(fd->get(), F_SETFL, flags), 0);
    }
    for (const Fd* fd : {&to_, &from_}) EXPECT_EQ(::fcntl(fd->get(), F_SETFL, O_NONBLOCK), 0);
  }
  std::optional<uint32_t> OutsideUid() {
    const auto said = Next(IpcType::kOutside);
    if (!said) return std::nullopt;
    return protocols::Decode<onshore::Outside>(said->body)->uid;
  }
  void OpenRoundOf(const protocols::JobManifest& job, uint32_t round, uint32_t version) {
    ASSERT_TRUE(gate_->SendBulk(BulkKind::kJob, {}, 0, protocols::Encode(job)).ok());
    ASSERT_TRUE(
        gate_->SendBulk(BulkKind::kParameters, {}, version, BytesOf(InitialParameters())).ok());
    const onshore::RoundStart start{.job = IdOf(job), .round = round, .adapter_version = version};
    ASSERT_TRUE(gate_->Send(IpcType::kRoundStart, start).ok());
    ASSERT_TRUE(gate_->Flush().ok());
  }
  // What the trainer says next; meanwhile it is told what waits.
  std::optional<RoundMessage> Read() {
    for (const int64_t end = Now() + kWaitMillis; Now() < end;) {
      EXPECT_TRUE(gate_->Flush().ok());
      const auto missing = reader_.Missing(onshore::api::kMaxRoundWeights);
      if (!missing) return std::nullopt;
      if (*missing == 0) return reader_.Take();
      uint8_t bytes[4096];
      const ssize_t n = ::read(from_.get(), bytes, std::min(*missing, sizeof(bytes)));
      if (n > 0) {
        reader_.Add({bytes, static_cast<size_t>(n)});
        continue;
      }
      if (n == 0 || errno != EAGAIN) return std::nullopt;
      to_write_ = to_write_.subspan(Write(to_write_, 0));
      pollfd p[2] = {{from_.get(), POLLIN, 0}, {to_write_.empty() ? -1 : to_.get(), POLLOUT, 0}};
      ::poll(p, 2, 100);
    }
    return std::nullopt;
  }
  // How much of it the trainer took before it took nothing for so long.
  size_t Write(ByteSpan bytes, int stalled_millis) const {
    size_t at = 0;
    while (at < bytes.size()) {
      const ssize_t n = ::write(to_.get(), bytes.data() + at, bytes.size() - at);
      if (n > 0) at += static_cast<size_t>(n);
      if (n >= 0) continue;
      pollfd p{to_.get(), POLLOUT, 0};
      if (errno != EAGAIN || ::poll(&p, 1, stalled_millis) <= 0) break;
    }
    return at;
  }
  static Bytes Encode(RoundMessage message) {
    message.frame.type = static_cast<uint32_t>(RoundFrameType::kUpdate);
    message.frame.text_bytes = message.text.size();
    message.frame.weights_bytes = message.weights.size();
    const auto* head = reinterpret_cast<const uint8_t*>(&message.frame);
    Bytes bytes(head, head + sizeof(RoundFrame));
    bytes.insert(bytes.end(), message.text.begin(), message.text.end());
    bytes.insert(bytes.end(), message.weights.begin(), message.weights.end());
    return bytes;
  }
  // The round as it was given: an update that moves nothing.
  void SendBack(const RoundMessage& given) const {
    const Bytes bytes = Encode(given);
    EXPECT_EQ(Write(bytes, kWaitMillis), bytes.size());
  }

  uint32_t uid_ = 0;
  Fd theirs_in_, theirs_out_, to_, from_;
  onshore::api::RoundReader reader_;
  ByteSpan to_write_;
};

TEST_F(OutsideTrainer, AKeptUpdateIsMarkedWithTheUidOfTheClientThatMadeIt) {
  const protocols::JobManifest job = SampleJob();
  ASSERT_NO_FATAL_FAILURE(StartAs(1001));
  if (IsSkipped()) return;
  OpenRoundOf(job, 1, 0);
  const auto given = Read();
  ASSERT_TRUE(given.has_value()) << Log();
  SendBack(*given);
  EXPECT_EQ(OutsideUid(), 1001u);
  const Bytes update = Update();
  ASSERT_FALSE(update.empty());
  SendStop();
  EXPECT_EQ(End().end, onshore::End::kClean) << Log();

  // It was held meanwhile, and another client is here now.
  ASSERT_NO_FATAL_FAILURE(StartAs(1002));
  OpenRoundOf(job, 1, 0);
  EXPECT_EQ(OutsideUid(), 1001u);
  EXPECT_TRUE(Update() == update);
  // What that one makes itself is its own.
  OpenRoundOf(job, 2, 1);
  const auto next = Read();
  ASSERT_TRUE(next.has_value()) << Log();
  EXPECT_EQ(next->frame.round, 2u);
  SendBack(*next);
  EXPECT_EQ(OutsideUid(), 1002u);
}

TEST_F(OutsideTrainer, AClientThatClearsThePipesNonBlockingFlagHoldsNothingUp) {
  const protocols::JobManifest job = SampleJob();
  for (const bool given : {false, true}) {
    SCOPED_TRACE(given ? "a round to write" : "nothing to read");
    ASSERT_NO_FATAL_FAILURE(StartAs(1001));
    if (IsSkipped()) return;
    SetFlags(0);
    // More than the pipe holds, and nobody reads it.
    if (given) {
      OpenRoundOf(job, 1, 0);
      pollfd p{from_.get(), POLLIN, 0};
      EXPECT_EQ(::poll(&p, 1, static_cast<int>(kWaitMillis)), 1);
    }
    SendStop();
    EXPECT_EQ(End().end, onshore::End::kClean) << Log();
  }
}

TEST_F(OutsideTrainer, OfRoundsThatAClientDoesNotReadTheLatestWaits) {
  const protocols::JobManifest job = SampleJob();
  ASSERT_NO_FATAL_FAILURE(StartAs(1001));
  if (IsSkipped()) return;
  OpenRoundOf(job, 1, 0);
  const auto given = Read();
  ASSERT_TRUE(given.has_value()) << Log();
  SendBack(*given);
  ASSERT_FALSE(Update().empty());
  constexpr uint32_t kRounds = 6;
  for (uint32_t round = 2; round <= kRounds; ++round) OpenRoundOf(job, round, round - 1);
  // The update that it has is its answer to this one: all before it was heard.
  OpenRoundOf(job, 1, 0);
  ASSERT_FALSE(Update().empty());
  std::vector<uint32_t> rounds;
  do {
    const auto said = Read();
    ASSERT_TRUE(said.has_value()) << Log();
    EXPECT_EQ(said->frame.type, static_cast<uint32_t>(RoundFrameType::kRound));
    rounds.push_back(said->frame.round);
  } while (rounds.back() != kRounds);
  EXPECT_LE(rounds.size(), 2u) << "only one that was begun may be there beside the latest";
}

TEST_F(OutsideTrainer, AJobThatIsNotOneOfTheSitesBaseIsToldAndEndsNothing) {
  ASSERT_NO_FATAL_FAILURE(StartAs(1001));
  if (IsSkipped()) return;
  protocols::JobManifest job = SampleJob();
  ++job.layout.tensors.items[0].cols;
  OpenRoundOf(job, 1, 0);
  const auto told = Next(IpcType::kNoUpdate);
  ASSERT_TRUE(told.has_value()) << Log();
  const auto none = *protocols::Decode<onshore::NoUpdate>(told->body);
  EXPECT_EQ(none.job, IdOf(job));
  EXPECT_EQ(none.round, onshore::kWholeJob);
  ASSERT_TRUE(gate_->Send(IpcType::kStop, onshore::Stop{IdOf(job), 0}).ok());
  EXPECT_EQ(End().end, onshore::End::kClean) << Log();
}

TEST_F(OutsideTrainer, AClientThatReadsNoAnswerIsNotListenedToUntilItDoes) {
  ASSERT_NO_FATAL_FAILURE(StartAs(1001));
  if (IsSkipped()) return;
  constexpr size_t kUpdates = 500;
  Bytes bytes;
  for (size_t i = 0; i < kUpdates; ++i) {
    const Bytes one = Encode({});
    bytes.insert(bytes.end(), one.begin(), one.end());
  }
  const size_t at = Write(bytes, 1000);
  EXPECT_LT(at, bytes.size()) << "it keeps an answer for each of " << kUpdates;
  to_write_ = ByteSpan(bytes).subspan(at);
  for (size_t answers = 0; answers < kUpdates; ++answers) {
    const auto said = Read();
    ASSERT_TRUE(said.has_value()) << answers << " of " << kUpdates << ": " << Log();
    EXPECT_EQ(said->frame.type, static_cast<uint32_t>(RoundFrameType::kBad));
  }
}

}  // namespace
}  // namespace tidegate::trainer
