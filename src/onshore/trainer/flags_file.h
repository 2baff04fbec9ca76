// A verb's flags in a file: TOML, a key a flag, named as the flag is. What the command line says
// too is the command line's. Not thread-safe.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <set>
#include <string>

#include "base/status.h"

namespace tidegate::trainer {

// What a verb lets a file say.
struct FlagsFileRules {
  std::set<std::string> paths{};     // flags whose value is a path: taken from the file's folder
  std::set<std::string> lists{};     // flags whose value may be a list: "a,b" on the command line
  std::set<std::string> tables{};    // flags whose value may be a table: JSON on the command line
  std::set<std::string> excluded{};  // flags that only the command line may give
};

// Gives the verb the values of the file's keys; to be called before the verb looks at its flags,
// after the command line was read. kInvalidArgument names file, line and key: one that is no flag,
// twice the same flag, a value of another kind than the flag's.
Status ApplyFlagsFile(CLI::App& verb, const std::filesystem::path& path,
                      const FlagsFileRules& rules);
// The same of an inherited descriptor, with paths taken from `folder`. With a `uid` above 0, for a
// start as root, the TOML is read and parsed by a process of that user (as_user.h).
Status ApplyFlagsDescriptor(CLI::App& verb, int descriptor, const std::filesystem::path& folder,
                            const FlagsFileRules& rules, uint32_t uid = 0);

}  // namespace tidegate::trainer
