// finetune, eval, generate and data check: this program links no code that reads records, so these
// verbs become tidegate-trainer, which raises its walls first and has the flags and their help.
// `serve` becomes tidegate-serve in the same way.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "base/program.h"
#include "cli/verb.h"

namespace tidegate::cli {
namespace {

Result<std::filesystem::path> PathOf(const std::string& program) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return Unexpected(ErrnoStatus("read", "/proc/self/exe", error.value()));
  return self.parent_path() / program;
}

// `verb` may be empty. Returns only when it failed.
Status Become(const std::string& program, const std::string& verb,
              const std::vector<std::string>& flags) {
  TG_ASSIGN_OR_RETURN(const std::filesystem::path path, PathOf(program));
  std::vector<std::string> words = {path.native()};
  if (!verb.empty()) words.push_back(verb);
  words.insert(words.end(), flags.begin(), flags.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  (void)::setenv(kOpenMpSpins[0], kOpenMpSpins[1], 0);  // what the user chose stands
  ::execv(path.c_str(), argv.data());
  return ErrnoStatus("execute", path.native(), errno)
      .WithContext(program + " must be installed beside tidegate");
}

// Everything after the verb, --help included, is the program's to judge.
void AddPassThrough(CLI::App& parent, const std::string& name, const std::string& help,
                    const std::string& program_verb, Invocation& invocation,
                    const std::string& program = "tidegate-trainer") {
  CLI::App* verb = parent.add_subcommand(name, help);
  verb->set_help_flag();
  verb->prefix_command();
  verb->callback([verb, program, program_verb, &invocation] {
    invocation.verb = FullName(verb);
    invocation.run = [verb, program, program_verb] {
      return Become(program, program_verb, verb->remaining());
    };
  });
}

// A simulation over ranks is for the program outside the walls that MPI can start.
void AddSimulate(CLI::App& app, Invocation& invocation) {
  CLI::App* verb =
      app.add_subcommand("simulate", "Play a federated job with all its sites on this machine");
  verb->set_help_flag();
  verb->prefix_command();
  verb->callback([verb, &invocation] {
    invocation.verb = "simulate";
    invocation.run = [verb] {
      const std::vector<std::string> words = verb->remaining();
      const bool ranks = std::any_of(words.begin(), words.end(), [](const std::string& word) {
        return word == "--nproc" || word.starts_with("--nproc=");
      });
      return ranks ? Become("tidegate-simulate", "", words)
                   : Become("tidegate-trainer", "simulate", words);
    };
  });
}

}  // namespace

void RegisterTrainerVerbs(CLI::App& app, Invocation& invocation) {
  AddPassThrough(app, "finetune", "Train a LoRA adapter on records of this machine", "finetune",
                 invocation);
  AddPassThrough(app, "eval", "Measure a base or an adapter on records", "eval", invocation);
  AddPassThrough(app, "generate", "Complete a prompt", "generate", invocation);
  AddSimulate(app, invocation);
  AddPassThrough(app, "serve", "Answer OpenAI clients from a base and its adapters", "", invocation,
                 "tidegate-serve");
  CLI::App* data = AddGroup(app, "data", "Look at records before training");
  AddPassThrough(*data, "check", "Read every record and report what training would use",
                 "data-check", invocation);
}

}  // namespace tidegate::cli
