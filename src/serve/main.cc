// tidegate-serve: an OpenAI-compatible endpoint for a base and its adapters, which a walled
// tidegate-trainer holds. What `tidegate serve` becomes.
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <filesystem>

#include "base/file.h"
#include "base/log.h"
#include "base/program.h"
#include "serve/server.h"

namespace tidegate::serve {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxKeyBytes = 4096;
constexpr int kLookMillis = 200;

volatile std::sig_atomic_t g_stop = 0;
int g_wake = -1;  // written to at a signal, for a wait that is under way

struct CommandLine {
  ServerOptions server;
  std::string base, name, device = "cpu", dtype = "auto", walls;
  std::vector<std::string> adapters;
  fs::path api_key_file;
  int threads = 0, max_new_tokens = 1024;
  bool load_in_8bit = false, load_in_4bit = false;
};

void AddOptions(CLI::App& app, CommandLine* c) {
  app.add_option("--base", c->base, "HF folder of the base model")->required();
  app.add_option("--adapter", c->adapters,
                 "PEFT folder, or NAME=FOLDER; once for each: a model of its own");
  app.add_option("--served_model_name,--served-model-name", c->name,
                 "What the base is called; default: its folder's name");
  app.add_option("--host", c->server.host, "Address to serve on")->capture_default_str();
  app.add_option("--port", c->server.port, "0: a free one")
      ->capture_default_str()
      ->check(CLI::Range(0, 65535));
  app.add_option("--api_key_file,--api-key-file", c->api_key_file,
                 "File (mode 0600) with the key that clients send; needed off loopback");
  app.add_option("--connections", c->server.connections, "Served at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  app.add_option("--max_new_tokens,--max-new-tokens", c->max_new_tokens,
                 "Of an answer whose question does not say")
      ->capture_default_str();
  app.add_option("--device", c->device, "cpu, or cuda for a GPU")->capture_default_str();
  app.add_option("--dtype", c->dtype, "auto, bf16 or f32")->capture_default_str();
  app.add_flag("--load_in_8bit,--load-in-8bit", c->load_in_8bit, "Hold the base in int8");
  app.add_flag("--load_in_4bit,--load-in-4bit", c->load_in_4bit, "Hold the base in NF4");
  app.add_option("--threads", c->threads, "0: all CPUs of this process")->capture_default_str();
  app.add_option("--walls", c->walls, "Walls that must stand around the model; default: all");
}

Status ReadKey(CommandLine* c) {
  if (c->api_key_file.empty()) return OkStatus();
  struct stat info {};
  if (::stat(c->api_key_file.c_str(), &info) == 0 && (info.st_mode & 077) != 0) {
    return PermissionDenied("{} can be read by others: chmod 600 it", c->api_key_file.native());
  }
  TG_ASSIGN_OR_RETURN(c->server.api_key, ReadTextFile(c->api_key_file, kMaxKeyBytes));
  while (!c->server.api_key.empty() && std::isspace(c->server.api_key.back()) != 0) {
    c->server.api_key.pop_back();
  }
  if (c->server.api_key.size() < 16) {
    return InvalidArgument("{} has a key of less than 16 characters", c->api_key_file.native());
  }
  return OkStatus();
}

Result<std::vector<std::string>> WorkerCommand(const CommandLine& c) {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  if (error) return Unexpected(ErrnoStatus("read", "/proc/self/exe", error.value()));
  std::vector<std::string> out = {(self.parent_path() / "tidegate-trainer").native(),
                                  "answer",
                                  "--base",
                                  c.base,
                                  "--device",
                                  c.device,
                                  "--dtype",
                                  c.dtype,
                                  "--threads",
                                  std::to_string(c.threads),
                                  "--max_new_tokens",
                                  std::to_string(c.max_new_tokens)};
  for (const std::string& adapter : c.adapters) {
    out.insert(out.end(), {"--adapter", adapter});
  }
  if (!c.name.empty()) out.insert(out.end(), {"--served_model_name", c.name});
  if (!c.walls.empty()) out.insert(out.end(), {"--walls", c.walls});
  if (c.load_in_8bit) out.push_back("--load_in_8bit");
  if (c.load_in_4bit) out.push_back("--load_in_4bit");
  return out;
}

Status Run(CommandLine& c) {
  TG_RETURN_IF_ERROR(ReadKey(&c));
  TG_ASSIGN_OR_RETURN(c.server.worker, WorkerCommand(c));
  struct sigaction action {};
  int wake[2];
  if (::pipe2(wake, O_CLOEXEC | O_NONBLOCK) != 0) return ErrnoStatus("make", "a pipe", errno);
  const Fd wake_read(wake[0]), wake_write(wake[1]);
  c.server.cancel = wake_read.get();
  g_wake = wake_write.get();
  action.sa_handler = [](int) {
    const int saved = errno;
    g_stop = 1;
    (void)!::write(g_wake, "", 1);
    errno = saved;
  };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  (void)::setenv(kOpenMpSpins[0], kOpenMpSpins[1], 0);
  const auto started = Server::Start(c.server);
  if (!started && g_stop != 0) return OkStatus();
  if (!started) return started.error();
  const auto& server = *started;
  std::string names;
  for (const std::string& name : server->models()) names += (names.empty() ? "" : ", ") + name;
  std::printf("serving %s on http://%s:%d/v1 (walls: %s)\n", names.c_str(), c.server.host.c_str(),
              server->port(), server->walls().c_str());
  std::fflush(stdout);
  while (g_stop == 0) {
    ::poll(nullptr, 0, kLookMillis);
    const Status alive = server->KeepAlive();
    if (!alive.ok() && g_stop == 0) return alive;
  }
  return OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app(
      "Serves a base and its adapters to OpenAI clients: /v1/chat/completions, /v1/completions, "
      "/v1/models. The models are held by a walled process; this one sees prompts and answers. "
      "Exit codes: docs/exit-codes.md.",
      "tidegate serve");
  CommandLine line;
  AddOptions(app, &line);
  app.set_version_flag("--version", std::string("tidegate-serve ") + Version());
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : kExitUsage;
  }
  SetLogProcess("serve");
  const Status status = Run(line);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return static_cast<int>(status.code());
}

}  // namespace
}  // namespace tidegate::serve

int main(int argc, char** argv) { return tidegate::serve::Main(argc, argv); }
