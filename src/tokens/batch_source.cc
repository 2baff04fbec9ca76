#include "tokens/batch_source.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/limits.h"
#include "base/rng.h"
#include "tokens/fingerprint.h"

namespace tidegate::tokens {
namespace {

constexpr int64_t kMaxRowsPerBatch = 4096;

class MemoryBatchSource final : public BatchSource {
 public:
  MemoryBatchSource(std::vector<TokenSequence> sequences, std::vector<Row> rows,
                    const BatchOptions& options)
      : sequences_(std::move(sequences)), rows_(std::move(rows)), options_(options) {
    Fingerprint print;
    for (const uint64_t value :
         {options.seed, uint64_t{options.shuffle}, uint64_t{options.packed},
          static_cast<uint64_t>(options.max_length), static_cast<uint64_t>(options.rows_per_batch),
          uint64_t{sequences_.size()}}) {
      print.AddNumber(value);
    }
    for (const TokenSequence& sequence : sequences_) {
      print.AddIds(sequence.ids);
      print.AddBytes(sequence.loss_mask);
    }
    for (const Row& row : rows_) {
      print.AddNumber(row.size());
      for (const uint32_t index : row) print.AddNumber(index);
    }
    fingerprint_ = print.value();
    StartEpoch(0);
  }

  Result<std::vector<PackedBatch>> NextWindow(int accumulation_steps) override {
    if (accumulation_steps < 1) {
      return InvalidArgument("accumulation steps are {}, at least 1 is needed", accumulation_steps);
    }
    const uint64_t end =
        std::min(cursor_.index + static_cast<uint64_t>(accumulation_steps), MicroBatchesPerEpoch());
    std::vector<PackedBatch> window;
    for (uint64_t i = cursor_.index; i < end; ++i) window.push_back(MicroBatch(i));
    cursor_.index = end;
    if (end == MicroBatchesPerEpoch()) StartEpoch(cursor_.epoch + 1);
    return window;
  }

  uint64_t MicroBatchesPerEpoch() const override {
    const auto rows = static_cast<uint64_t>(options_.rows_per_batch);
    return (rows_.size() + rows - 1) / rows;
  }

  Cursor cursor() const override { return cursor_; }

  Status Seek(const Cursor& cursor) override {
    if (cursor.index >= MicroBatchesPerEpoch()) {
      return InvalidArgument(
          "the saved place {} is beyond the {} micro-batches of an epoch; the data or the options "
          "changed",
          cursor.index, MicroBatchesPerEpoch());
    }
    StartEpoch(cursor.epoch);
    cursor_.index = cursor.index;
    return OkStatus();
  }

  uint64_t fingerprint() const override { return fingerprint_; }

 private:
  void StartEpoch(uint32_t epoch) {
    cursor_ = {epoch, 0};
    if (options_.shuffle) {
      order_ = EpochOrder(options_.seed, epoch, static_cast<uint32_t>(rows_.size()));
    } else if (order_.empty()) {
      order_.resize(rows_.size());
      std::iota(order_.begin(), order_.end(), 0u);
    }
  }

  PackedBatch MicroBatch(uint64_t index) const {
    const auto rows = static_cast<uint64_t>(options_.rows_per_batch);
    const uint64_t end = std::min((index + 1) * rows, uint64_t{rows_.size()});
    std::vector<uint32_t> members;
    for (uint64_t i = index * rows; i < end; ++i) {
      const Row& row = rows_[order_[i]];
      members.insert(members.end(), row.begin(), row.end());
    }
    return LayOut(sequences_, members);
  }

  std::vector<TokenSequence> sequences_;
  std::vector<Row> rows_;
  BatchOptions options_;
  uint64_t fingerprint_ = 0;
  Cursor cursor_;
  std::vector<uint32_t> order_;
};

Status CheckOptions(const BatchOptions& options) {
  if (options.max_length < 2 || options.max_length > kMaxSequenceLength) {
    return InvalidArgument("max_length is {}, allowed are 2 to {}", options.max_length,
                           kMaxSequenceLength);
  }
  if (options.rows_per_batch < 1 || options.rows_per_batch > kMaxRowsPerBatch) {
    return InvalidArgument("the batch size is {}, allowed are 1 to {}", options.rows_per_batch,
                           kMaxRowsPerBatch);
  }
  if (options.rows_per_batch * options.max_length > INT32_MAX) {
    return InvalidArgument("a batch of {} rows of {} tokens is beyond 2^31 tokens; make it smaller",
                           options.rows_per_batch, options.max_length);
  }
  return OkStatus();
}

}  // namespace

std::vector<uint32_t> EpochOrder(uint64_t seed, uint32_t epoch, uint32_t count) {
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0u);
  for (uint32_t i = count; i > 1; --i) {
    const uint32_t word = RandomWords(seed, RngPurpose::kDataOrder, epoch, i - 1)[0];
    std::swap(order[i - 1], order[UniformBelow(word, i)]);
  }
  return order;
}

Result<std::unique_ptr<BatchSource>> MakeBatchSource(std::vector<TokenSequence> sequences,
                                                     const BatchOptions& options) {
  TG_RETURN_IF_ERROR(CheckOptions(options));
  if (sequences.empty()) return InvalidArgument("there are no sequences to train on");
  if (sequences.size() > kMaxRecords) {
    return ResourceExhausted("{} sequences are given, the limit is {}", sequences.size(),
                             kMaxRecords);
  }
  std::vector<int64_t> lengths;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const TokenSequence& sequence = sequences[i];
    const auto length = static_cast<int64_t>(sequence.ids.size());
    if (sequence.loss_mask.size() != sequence.ids.size() || CountTargets(sequence) == 0) {
      return InvalidArgument("sequence {} has no trained token or a mask of another length", i);
    }
    if (length > options.max_length) {
      return InvalidArgument("sequence {} has {} tokens, the limit is max_length {}", i, length,
                             options.max_length);
    }
    lengths.push_back(length);
  }
  std::vector<Row> rows;
  if (options.packed) {
    TG_ASSIGN_OR_RETURN(rows, PlanBestFit(lengths, options.max_length));
  } else {
    for (uint32_t i = 0; i < sequences.size(); ++i) rows.push_back({i});
  }
  return std::unique_ptr<BatchSource>(
      std::make_unique<MemoryBatchSource>(std::move(sequences), std::move(rows), options));
}

}  // namespace tidegate::tokens
