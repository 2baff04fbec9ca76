// The verbs of tidegate-trainer that a user starts: finetune, eval, generate, data-check. Each
// parses its flags, checks what can be checked without opening a record, and then does its work
// behind the walls. Not thread-safe.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "finetune/loaded_base.h"
#include "onshore/trainer/flags_file.h"
#include "onshore/trainer/walls.h"

namespace tidegate::trainer {

struct Invocation {
  std::string verb;
  bool json = false;
  bool terminal = false;     // standard error is a terminal
  bool reads_input = false;  // `run` reads standard input; to be set by `prepare`
  LocalWalls walls;
  // Where tidegate-onshore runs the verb for a client of the site: results go into SITE/local.
  std::filesystem::path site;
  Status refused;  // what a file of flags has wrong; found before the flags are whole
  // Locks that `prepare` took, for as long as the program runs. The walled child closes them: they
  // stand with its parent.
  std::vector<Fd> held;
  // Before the walls: checks, and adds to walls.read_only and walls.read_write.
  std::function<Status()> prepare;
  // Behind the walls; prints its result. `raised` names the walls that stand.
  std::function<Status(const std::string& raised)> run;
};

// Adds the verb with --format and --walls. `usage` looks at the flags together, after the file of
// flags was read, and throws a CLI::ParseError (exit code 64).
CLI::App* AddVerb(CLI::App& app, const std::string& name, const std::string& help,
                  Invocation& invocation, std::function<Status()> prepare,
                  std::function<Status(const std::string&)> run,
                  std::function<void(const CLI::App& verb)> usage = {});

// The flags by which tidegate-onshore starts the verb: the site, the uid to become, and a
// descriptor with the verb's flags. To be called before the verb adds flags of its own.
void AddSupervisedFlags(CLI::App& verb, Invocation& invocation, FlagsFileRules rules);
// Makes the folder that a verb writes into. For a client of a site it must be SITE/local/NAME, and
// is for its owner alone.
Status MakeOutputDir(const Invocation& invocation, const std::filesystem::path& dir);

// For `usage`: refuses each of the flags that is given, saying why it would not be used.
void RefuseGiven(const CLI::App& verb, const std::vector<std::string>& flags,
                 const std::string& why);
// RefuseGiven of --bnb_4bit_use_double_quant without --load_in_4bit.
void CheckHeldWeights(const CLI::App& verb, const finetune::HeldWeights& held);

// "--lora_r" as PEFT and TRL write it, and "--lora-r".
std::string Flag(const std::string& name);

// --seed: 0 to 18446744073709551615, in digits.
void AddSeed(CLI::App& verb, uint64_t& seed, const std::string& help);

// A yes or no that is on by itself ("--packing") and takes a value too ("--packing false").
void AddSwitch(CLI::App& verb, const std::string& name, bool& value, const std::string& help);

// --device: what is not "cpu" stands behind walls that let a GPU's driver work. UseDevice is for
// `prepare`: it refuses other names, and does not look whether there is one.
void AddDevice(CLI::App& verb, std::string& device);
Status UseDevice(Invocation& invocation, const std::string& device);

// --load_in_8bit, --load_in_4bit and --bnb_4bit_use_double_quant.
void AddHeldWeights(CLI::App& verb, finetune::HeldWeights& held);

// Adds the path to the walls' read-only ones; kNotFound naming the option when it is not there.
Status AllowRead(Invocation& invocation, const std::string& option,
                 const std::filesystem::path& path);

// Prints `json`, or `text`, to standard output.
Status Print(const Invocation& invocation, const nlohmann::ordered_json& json,
             const std::string& text);

// SIGINT, SIGTERM and SIGHUP from here on ask the run to stop after the step it is in.
void CatchStopSignals();
bool StopAsked();
// Whether the signal was SIGINT, which is forgotten then.
bool TakeInterrupt();

void RegisterFinetune(CLI::App& app, Invocation& invocation);
void RegisterEval(CLI::App& app, Invocation& invocation);
void RegisterGenerate(CLI::App& app, Invocation& invocation);
void RegisterAnswer(CLI::App& app, Invocation& invocation);
void RegisterDataCheck(CLI::App& app, Invocation& invocation);
void RegisterSimulate(CLI::App& app, Invocation& invocation);
void RegisterBaseInstall(CLI::App& app, Invocation& invocation);

// Prints invocation.refused as the verb's error; returns its exit code.
int Refuse(const Invocation& invocation);

// Walls, then the verb; returns the exit code.
int RunInvocation(Invocation& invocation);

}  // namespace tidegate::trainer
