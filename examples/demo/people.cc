#include "people.h"

#include <csignal>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/file.h"

namespace tidegate::demo {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kVerbMillis = 60'000;
constexpr int kWaitMillis = 300'000;
constexpr int kEndMillis = 30'000;

Result<json> Verb(std::vector<std::string> command) {
  command.insert(command.end(), {"--format", "json"});
  TG_ASSIGN_OR_RETURN(const std::string text, RunCommandOk(command, kVerbMillis));
  json answer = json::parse(text, nullptr, false);
  if (answer.is_discarded()) return Internal("{} {} printed no JSON", command[0], command[1]);
  return answer;
}

// Where the coordinator's page is; empty when it has none.
std::string PageOf(const fs::path& coordinator) {
  const auto config = ReadTextFile(coordinator / "coordinator.toml", 1 << 20);
  if (!config) return "";
  const size_t at = config->find("\nweb = \"");
  if (at == std::string::npos) return "";
  const size_t begin = at + 8, end = config->find('"', begin);
  const std::string address = config->substr(begin, end - begin);
  return address == "off" ? "" : "http://" + address + "/";
}

// A headless browser's picture of the page, where this machine has one.
fs::path PictureOf(const std::string& url, const fs::path& out) {
  if (url.empty()) return {};
  for (const char* browser : {"chromium", "chromium-browser", "google-chrome"}) {
    const auto result = RunCommand({browser, "--headless", "--no-sandbox", "--disable-gpu",
                                    "--hide-scrollbars", "--virtual-time-budget=4000",
                                    "--window-size=1100,1500", "--screenshot=" + out.native(), url},
                                   kEndMillis);
    std::error_code error;
    if (result && result->exit_code == 0 && fs::exists(out, error)) return out;
  }
  return {};
}

Status EndOf(ChildProcess& process, const std::string& name) {
  process.Signal(SIGTERM);
  const std::optional<int> code = process.Wait(kEndMillis);
  if (code == 0) return OkStatus();
  return Internal("{} ended with {}", name, code ? std::to_string(*code) : "nothing in time");
}

// The ledger's leaf about the job, once it is there.
Result<std::string> WaitForRefusal(const Programs& programs, const fs::path& ledger,
                                   ChildProcess& site) {
  const int64_t deadline = SystemClock().MonotonicMillis() + kWaitMillis;
  while (SystemClock().MonotonicMillis() < deadline) {
    TG_ASSIGN_OR_RETURN(
        const std::string text,
        RunCommandOk({programs.Path("tidegate"), "ledger", "show", ledger.native()}, kVerbMillis));
    const size_t at = text.find("rule=layout");
    if (at != std::string::npos) {
      const size_t begin = text.rfind('\n', at) + 1;
      std::string leaf = text.substr(begin, text.find('\n', at) - begin);
      return leaf.substr(std::min(leaf.find_first_not_of(' '), leaf.size()));
    }
    if (site.Wait(200)) return Unavailable("the site ended before it was offered the job");
  }
  return DeadlineExceeded("the site refused nothing within {} s", kWaitMillis / 1000);
}

}  // namespace

Result<std::string> ReleaseHeld(const Programs& programs, const fs::path& site,
                                ChildProcess& federation) {
  const std::string tidegate = programs.Path("tidegate"), dir = site.native();
  const int64_t deadline = SystemClock().MonotonicMillis() + kWaitMillis;
  std::string name;
  while (name.empty()) {
    std::error_code error;
    if (fs::exists(site / "gate" / "held", error)) {
      TG_ASSIGN_OR_RETURN(const json held, Verb({tidegate, "hold", "--dir", dir}));
      if (!held.at("held").empty()) name = held.at("held")[0].at("name").get<std::string>();
    }
    if (SystemClock().MonotonicMillis() > deadline) {
      return DeadlineExceeded("{} held nothing within {} s", dir, kWaitMillis / 1000);
    }
    if (name.empty() && federation.Wait(200)) {
      return Unavailable("the federation ended before {} held an update", dir);
    }
  }
  TG_ASSIGN_OR_RETURN(const std::string seen,
                      RunCommandOk({tidegate, "review", name, "--dir", dir}, kVerbMillis));
  TG_RETURN_IF_ERROR([&]() -> Status {
    const auto released =
        Verb({tidegate, "release", name, "--dir", dir, "--key", (site / "approver.key").native(),
              "--approver", "operator", "--reason", "tensors, norm and size are as agreed"});
    return released ? OkStatus() : released.error();
  }());
  return seen;
}

Result<Refused> OfferTooMuch(const Programs& programs, const fs::path& federation,
                             const std::string& site, const fs::path& base) {
  const fs::path coordinator = federation / "coordinator", dir = federation / site;
  const fs::path file = federation / "too-much.toml";
  // The name is the one that policy allows; the rank is over its max_rank.
  const std::string job = fmt::format(
      "name = \"poc\"\nbase = \"{}\"\nrounds = 1\nsites = [\"{}\"]\n[lora]\nr = 128\nalpha = "
      "128\n",
      base.native(), site);
  TG_RETURN_IF_ERROR(WriteFileDurably(file, AsBytes(job)));
  std::error_code error;
  fs::remove(coordinator / "admin.sock", error);  // that of before, if it was left behind
  TG_ASSIGN_OR_RETURN(
      ChildProcess offshore,
      ChildProcess::Start({programs.Path("tidegate-coordinator"), "--dir", coordinator.native()},
                          federation / "coordinator.log"));
  TG_ASSIGN_OR_RETURN(ChildProcess onshore, ChildProcess::Start({programs.Path("tidegate-onshore"),
                                                                 "--dir", dir.native()},
                                                                federation / (site + ".log")));
  const int64_t deadline = SystemClock().MonotonicMillis() + kEndMillis;
  while (!fs::exists(coordinator / "admin.sock", error)) {
    if (offshore.Wait(20) || SystemClock().MonotonicMillis() > deadline) {
      return Unavailable("the coordinator did not start again");
    }
  }
  Refused refused;
  // Of the job that has ended, before there is a newer one.
  refused.status_page = PictureOf(PageOf(coordinator), federation / "status-page.png");
  TG_ASSIGN_OR_RETURN(const json submitted, Verb({programs.Path("tidegate"), "job", "submit",
                                                  file.native(), "--dir", coordinator.native()}));
  TG_ASSIGN_OR_RETURN(refused.leaf, WaitForRefusal(programs, dir / "gate" / "ledger", onshore));
  TG_ASSIGN_OR_RETURN(const json stopped,
                      Verb({programs.Path("tidegate"), "job", "stop",
                            submitted.at("id").get<std::string>(), "--dir", coordinator.native()}));
  TG_RETURN_IF_ERROR(EndOf(onshore, "tidegate-onshore"));
  TG_RETURN_IF_ERROR(EndOf(offshore, "tidegate-coordinator"));
  return refused;
}

Status ExportLedger(const Programs& programs, const std::string& ledger, const std::string& receipt,
                    const std::string& key, const fs::path& out) {
  const auto exported = Verb({programs.Path("tidegate"), "ledger", "export", ledger, "--head",
                              receipt, "--key", key, "--out", out.native()});
  return exported ? OkStatus() : exported.error();
}

}  // namespace tidegate::demo
