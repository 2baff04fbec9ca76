// The verb `federated`: the trainer of a site, started by the supervisor for one job.
#pragma once

#include <CLI/CLI.hpp>

#include "onshore/trainer/job_config.h"

namespace tidegate::trainer {

// Adds the verb. Its arguments are the supervisor's; a person has no use for it.
CLI::App* AddFederatedVerb(CLI::App& app, SiteOptions& options);

// Walls, READY, GO, then rounds until the gate says stop. Returns the exit code: 0 when the job has
// ended in good order.
int RunFederated(const SiteOptions& options);

}  // namespace tidegate::trainer
