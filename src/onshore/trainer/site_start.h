// How a trainer that is started by tidegate-onshore begins: its flags, and its walls. Not
// thread-safe.
#pragma once

#include <CLI/CLI.hpp>

#include "onshore/start/start.h"
#include "onshore/trainer/job_config.h"

namespace tidegate::trainer {

// The flags that every such trainer has.
void AddSiteOptions(CLI::App& verb, SiteOptions& options);

// Walls around the base, the records that `options` names, if any, and SITE/trainer, which is made
// for the site's user alone. As onshore::StartWalled.
Result<onshore::Started> StartOnSite(const SiteOptions& options);

}  // namespace tidegate::trainer
