// tidegate: the command line. Verbs that open records are executed by tidegate-trainer.
#include "base/log.h"
#include "cli/verb.h"

int main(int argc, char** argv) {
  using namespace tidegate::cli;
  tidegate::SetLogProcess("tidegate");
  CLI::App app("Tidegate: fine-tune language models where the data may not travel.", "tidegate");
  app.require_subcommand(1);
  app.get_formatter()->column_width(36);
  Invocation invocation;
  RegisterTrainerVerbs(app, invocation);
  RegisterBaseVerb(app, invocation);
  RegisterAdapterVerb(app, invocation);
  RegisterDoctorVerb(app, invocation);
  RegisterCoordinatorVerb(app, invocation);
  RegisterSiteVerb(app, invocation);
  RegisterSiteDaemonVerbs(app, invocation);
  RegisterSitePeopleVerbs(app, invocation);
  RegisterJobVerb(app, invocation);
  RegisterStatusVerb(app, invocation);
  RegisterLedgerVerb(app, invocation);
  RegisterApprovalVerbs(app, invocation);
  RegisterPocVerb(app, invocation);
  RegisterPreflightVerb(app, invocation);
  RegisterTokenizerVerbs(app, invocation);
  return RunMain(app, invocation, argc, argv);
}
