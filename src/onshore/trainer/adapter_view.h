// Where the shared adapter lies in the one that is trained.
//
// A site that has a local adapter beside the shared one trains both as one adapter of rank
// r + local_r, shared rows of A and columns of B first: base + shared + local is then one PEFT
// folder that every engine loads, and the two have one scale. Without a local adapter the two are
// the same buffer. Values only move: nothing is computed here. Thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/adapter.h"
#include "train/optimizer.h"

namespace tidegate::trainer {

class AdapterView {
 public:
  // The layouts of the shared adapter and of the trained one, of the same modules.
  AdapterView(const std::vector<model::AdapterTensor>& shared,
              const std::vector<model::AdapterTensor>& trained);

  size_t shared_count() const { return shared_count_; }
  size_t trained_count() const { return trained_count_; }

  // Puts those of `groups` (bits of the layout's groups) of a trained buffer into a shared one.
  void PutShared(std::span<const float> trained, uint8_t groups, std::span<float> shared) const;
  // Puts those of `groups` into a trained buffer.
  void Put(std::span<const float> shared, uint8_t groups, std::span<float> trained) const;

  // Of the trained buffer: the shared tensors of `groups`, and the local adapter.
  train::Ranges RangesOf(uint8_t groups) const;
  train::Ranges LocalRanges() const;

 private:
  struct Run {
    int64_t trained, shared, count;
    uint8_t group;
  };
  std::vector<Run> runs_;  // ascending in both
  size_t shared_count_ = 0, trained_count_ = 0;
};

}  // namespace tidegate::trainer
