// tidegate-trainer: the only program that reads records. It walls itself before it opens one.
#include <unistd.h>

#include "base/log.h"
#include "base/program.h"
#include "onshore/trainer/federated.h"
#include "onshore/trainer/outside.h"
#include "onshore/trainer/verb.h"

int main(int argc, char** argv) {
  using namespace tidegate::trainer;
  tidegate::SetLogProcess("trainer");
  CLI::App app("Trains, evaluates and runs models on private records, behind process walls.",
               "tidegate");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("tidegate-trainer ") + tidegate::Version());
  app.get_formatter()->column_width(36);
  Invocation invocation;
  invocation.terminal = ::isatty(STDERR_FILENO) == 1;
  RegisterFinetune(app, invocation);
  RegisterEval(app, invocation);
  RegisterGenerate(app, invocation);
  RegisterAnswer(app, invocation);
  RegisterDataCheck(app, invocation);
  RegisterSimulate(app, invocation);
  RegisterBaseInstall(app, invocation);
  SiteOptions site;
  const CLI::App* federated = AddFederatedVerb(app, site);
  OutsideOptions outside;
  const CLI::App* outside_verb = AddOutsideVerb(app, outside);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    // Flags may be missing because the file that has them is wrong: that is what to say then.
    if (e.get_exit_code() != 0 && !invocation.refused.ok()) return Refuse(invocation);
    return app.exit(e) == 0 ? 0 : tidegate::kExitUsage;
  }
  if (federated->parsed()) ::_exit(RunFederated(site));
  if (outside_verb->parsed()) ::_exit(RunOutside(outside));
  return RunInvocation(invocation);
}
