// What the demo shows: summary.json and a self-contained report.html with its charts as SVG.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"

namespace tidegate::demo {

struct Score {
  double heldout_nll = 0;  // token-weighted, on both sites' held-out records
  int64_t exact = 0;       // held-out questions answered byte for byte
};

struct RoundPoint {
  int round = 0;
  double train_loss = 0, heldout_loss = 0;  // of a site, on its own held-out records
};

struct SiteOutcome {
  std::string name;
  Score alone;
  Score kept;  // of what the site keeps, shared and its own together, on its own held-out records
  std::vector<RoundPoint> rounds;
  std::string ledger, receipt, key;  // for `tidegate ledger verify LEDGER --head RECEIPT --key KEY`
  bool ledger_verified = false;
  int64_t exports = 0, bytes_out = 0;
  std::string ledger_text;  // of `tidegate ledger show`
};

struct Outcome {
  std::string model;
  int rounds = 0;
  int64_t questions = 0;
  Score base, shared;
  std::vector<SiteOutcome> sites;
  std::string question, expected, answer_before, answer_after;
  std::string adapter_dir;
  std::string held_site, held_review;  // what its operator saw before the release
  std::string refused_leaf;            // the ledger's line of a job that policy refused
  std::filesystem::path status_page;   // a picture of it; empty: none was taken
  bool trained = true;                 // false: a base of random weights, which learns nothing
  double seconds = 0;
};

Status WriteSummary(const std::filesystem::path& path, const Outcome& outcome);
Status WriteReport(const std::filesystem::path& path, const Outcome& outcome);
// The same figures for a terminal.
std::string SummaryText(const Outcome& outcome);

}  // namespace tidegate::demo
