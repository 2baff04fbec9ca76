// SITE/site.toml: where things are. No secrets, no rules (those are policy.toml, the gate's).
#pragma once

#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace tidegate::onshore {

struct SiteConfig {
  std::string name;
  std::filesystem::path base;     // HF folder
  std::filesystem::path records;  // JSONL
  std::filesystem::path heldout;  // JSONL, may be empty
  int threads = 1;                // of the trainer
  int ready_seconds = 120;        // a process that takes longer to start is started again
  int stripes = 1;                // link's connections for bulk
  uint64_t max_spool_bytes = 0;  // of sealed updates that wait for their receipts; 0: as many as go
  std::string device = "cpu";    // of the trainer and of local jobs: "cpu", "cuda"
  std::string dtype = "auto";
  std::string coordinator;  // "tcp://192.0.2.1:7443" or "tcp://name:7443"
  std::string proxy;        // "socks5://198.51.100.1:1080"; empty: none
  std::string proxy_user;   // empty: none; with it a password's file
  std::filesystem::path proxy_password_file;
  bool proxy_resolves = false;  // it gets the coordinator's name, where there is one
  // A start as root: the uid and gid of trainer, gate and link, in this order.
  std::optional<std::array<uint32_t, 3>> separate_uids;
  // The local API: its socket (SITE/api.sock), and who may use it beside root and the site's user.
  std::filesystem::path api_socket;
  std::optional<uint32_t> api_group;
  std::vector<uint32_t> api_users;
  int free_trainer_seconds = 1800;  // without an answered LEASE, until the trainer is ended
  std::string walls;                // demanded of each process; default: kDefaultDemanded
};

// Unknown keys are errors, with the line. Relative paths are from `dir`. docs/formats/site.md.
Result<SiteConfig> LoadSiteConfig(const std::filesystem::path& dir);

}  // namespace tidegate::onshore
