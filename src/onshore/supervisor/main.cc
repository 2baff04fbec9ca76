// tidegate-onshore: the supervisor of a site.
#include <CLI/CLI.hpp>
#include <csignal>

#include "base/file.h"
#include "base/log.h"
#include "base/program.h"
#include "onshore/supervisor/supervisor.h"

int main(int argc, char** argv) {
  using namespace tidegate;
  SetLogProcess("onshore");
  CLI::App app("Runs a site: gate, link and trainer behind their walls.", "tidegate-onshore");
  onshore::SupervisorOptions options;
  app.add_option("--dir", options.site, "the site's folder (site.toml, policy.toml, keys/)")
      ->required();
  auto* once = app.add_flag("--once", options.once, "end when a job has ended");
  app.add_option("--folder", options.folder,
                 "a folder that is carried to the coordinator: no network; ends when nothing more "
                 "is to be done without it")
      ->excludes(once);
  app.set_version_flag("--version", std::string("tidegate-onshore ") + Version());
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : kExitUsage;
  }
  std::error_code error;
  const std::filesystem::path site = std::filesystem::canonical(options.site, error);
  if (error) {
    const Status status = ErrnoStatus("use --dir", options.site.native(), error.value());
    LogError("onshore_ended {}", status.ToString());
    return static_cast<int>(status.code());
  }
  options.site = site;
  if (!options.folder.empty()) {
    const std::filesystem::path folder = std::filesystem::canonical(options.folder, error);
    if (error) {
      const Status status = ErrnoStatus("use --folder", options.folder.native(), error.value());
      LogError("onshore_ended {}", status.ToString());
      return static_cast<int>(status.code());
    }
    options.folder = folder;
  }
  // The reader of the log may go away; the site does not stop for that.
  std::signal(SIGPIPE, SIG_IGN);
  options.programs = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  auto supervisor = onshore::Supervisor::Create(options);
  Status status = supervisor ? (*supervisor)->Run() : supervisor.error();
  if (status.ok()) return 0;
  LogError("onshore_ended {}", status.ToString());
  return static_cast<int>(status.code());
}
