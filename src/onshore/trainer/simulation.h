// A federated job with its sites played by one process: the same job file, the same rounds, the
// same trainer and the same numbers as with real sites, without keys, wire and gate. The plaintext
// twin of the whole: a version has the bits that the federation gives it.
//
// Sites train one after the other on one base in memory; what a site keeps between rounds is in its
// folder. Deterministic: the result is a function of job, records and `availability`. Not
// thread-safe.
#pragma once

#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"

namespace tidegate::trainer {

struct SimulatedSite {
  std::string name;
  std::filesystem::path records, heldout;  // JSONL; heldout may be empty
};

struct SimulationOptions {
  std::string job_name;  // for errors, and the job's name where the file has none
  std::string job_toml;
  std::filesystem::path base;  // HF folder
  std::filesystem::path out;   // exists and is empty
  std::vector<SimulatedSite> sites;
  // The share of rounds in which a site is there, drawn by seed, round and site; 1: always.
  double availability = 1;
  int threads = 1;
  std::string dtype = "auto";
  std::FILE* progress = nullptr;      // a line a round, with rate and time left; null: none
  std::function<bool()> should_stop;  // asked between optimizer steps
};

struct SimulatedRound {
  uint32_t round = 0, version = 0;  // the version that it made; 0: it was abandoned
  uint32_t asked = 0, updates = 0;
  uint64_t bytes = 0;                       // of the encoded updates
  double train_loss = 0, heldout_loss = 0;  // means over the updates; 0: none was told
};

struct SimulationResult {
  std::string job;  // id
  bool finished = false;
  uint32_t version = 0;
  std::vector<SimulatedRound> rounds;
  std::filesystem::path adapter;  // the shared adapter as a PEFT folder
  double seconds = 0;
};

// Writes OUT/adapter, OUT/rounds.jsonl, OUT/rounds.svg and OUT/sites/NAME (with the adapter that
// the site would keep). kCancelled when should_stop said so.
Result<SimulationResult> Simulate(const SimulationOptions& options);

}  // namespace tidegate::trainer
