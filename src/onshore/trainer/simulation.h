// A federated job with its sites played by one process: the same job file, the same rounds, the
// same trainer and the same numbers as with real sites, without keys, wire and gate. The plaintext
// twin of the whole: a version has the bits that the federation gives it.
//
// Sites train one after the other on one base in memory; what a site keeps between rounds is in its
// folder. Light sites keep nothing: each round they begin anew, without moments, at the first of
// their records; 100,000 of them cost their names. Over ranks each plays the sites whose place is
// its own modulo the number of ranks, all follow the same rounds, and what they trained is added in
// integers. Deterministic: the result is a function of job, records and `availability`, whatever
// the number of ranks. Not thread-safe.
#pragma once

#include <cstdio>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace tidegate::trainer {

struct SimulatedSite {
  std::string name;
  std::filesystem::path records, heldout;  // JSONL; heldout may be empty
};

// Sites that are slices of one file of records; sites 0: none.
inline constexpr uint32_t kMaxLightSites = 1'000'000;
inline constexpr uint32_t kMaxRecordsPerSite = 1 << 16;
struct LightOptions {
  uint32_t sites = 0;
  std::filesystem::path records;  // JSONL
  uint32_t records_per_site = 8;
};

struct SimulationOptions {
  std::string job_name;  // for errors, and the job's name where the file has none
  std::string job_toml;
  std::filesystem::path base;  // HF folder
  std::filesystem::path out;   // exists and is empty
  std::vector<SimulatedSite> sites;
  LightOptions light;  // instead of `sites`
  // The share of rounds in which a site is there, drawn by seed, round and site; 1: always.
  double availability = 1;
  int threads = 1;
  std::string dtype = "auto";
  std::FILE* progress = nullptr;      // a line a round, with rate and time left; null: none
  std::function<bool()> should_stop;  // asked between optimizer steps
  int rank = 0, ranks = 1;
  // Each value becomes its sum over all ranks, which make the same calls with as many values. To be
  // given with more than one rank. Rank 0 alone writes what is not a site's.
  std::function<Status(std::span<int64_t>)> add_over_ranks;
};

struct SimulatedRound {
  uint32_t round = 0, version = 0;  // the version that it made; 0: it was abandoned
  uint32_t asked = 0, updates = 0;
  uint64_t bytes = 0;                       // of the encoded updates
  uint64_t bytes_down = 0;                  // of the version, for those that are asked and there
  double train_loss = 0, heldout_loss = 0;  // means over the updates; 0: none was told
  uint64_t peak_bytes = 0;                  // resident memory so far, of all ranks together
  double seconds = 0;
};

struct SimulationResult {
  std::string job;  // id
  size_t sites = 0;
  int ranks = 1;
  bool finished = false;
  uint32_t version = 0;
  std::vector<SimulatedRound> rounds;
  std::filesystem::path adapter;  // the shared adapter as a PEFT folder
  double seconds = 0;
};

// Writes OUT/adapter, OUT/rounds.jsonl, OUT/rounds.svg, OUT/rounds.html and, but for light sites,
// OUT/sites/NAME (with the adapter that the site would keep). kCancelled when should_stop said so.
Result<SimulationResult> Simulate(const SimulationOptions& options);

}  // namespace tidegate::trainer
