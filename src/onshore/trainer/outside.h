// The trainer that trains nothing: it hands the rounds of the site's job to a program of a client
// of the local API, over two pipes, and encodes what comes back as the site's own trainer would
// (onshore/api/rounds.h). It opens no record. docs/formats/local-api.md.
#pragma once

#include <CLI/CLI.hpp>

#include "onshore/trainer/job_config.h"

namespace tidegate::trainer {

struct OutsideOptions {
  SiteOptions site;
  uint32_t uid = 0;  // of the client, for the ledger
};

CLI::App* AddOutsideVerb(CLI::App& app, OutsideOptions& options);
// Walls, then rounds until the job ends, the client closes its pipe or the supervisor says stop:
// the exit code.
int RunOutside(const OutsideOptions& options);

}  // namespace tidegate::trainer
