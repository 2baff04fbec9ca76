// What people do in the demo beside the machines: the operator of a site who looks at an update
// that policy holds and releases it, a job that a site's policy refuses, and the folder that a
// regulator is given. Each by the verbs that they would type.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/subprocess.h"

namespace tidegate::demo {

struct Programs {
  std::filesystem::path dir;  // where the tidegate programs are
  std::string Path(const char* name) const { return (dir / name).native(); }
};

// Waits until the site holds an update, while `federation` runs; reviews and releases it with the
// approver's key. What the operator saw. kUnavailable when the federation ends before.
Result<std::string> ReleaseHeld(const Programs& programs, const std::filesystem::path& site,
                                ChildProcess& federation);

struct Refused {
  std::string leaf;                   // the ledger's line
  std::filesystem::path status_page;  // a picture of it; empty: there is no browser here
};
// Starts the federation's coordinator and one site again and submits a job whose adapter is larger
// than the site's policy lets out.
Result<Refused> OfferTooMuch(const Programs& programs, const std::filesystem::path& federation,
                             const std::string& site, const std::filesystem::path& base);

// `tidegate ledger export`: ledger and report for a regulator.
Status ExportLedger(const Programs& programs, const std::string& ledger, const std::string& receipt,
                    const std::string& key, const std::filesystem::path& out);

}  // namespace tidegate::demo
