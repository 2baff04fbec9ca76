// The demo: two sites with private records, a shared adapter, and what left. Drives the installed
// programs as a person would, and measures what no product process could: both sites' records at
// once.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "people.h"
#include "records.h"
#include "report.h"

namespace tidegate::demo {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kTimeoutMillis = 600'000;
constexpr int kRounds = 6, kLocalSteps = 4, kBatch = 8;
constexpr const char* kLearningRate = "3e-3";

struct Options {
  fs::path programs, base, out;
  std::string model = "SmolLM2-135M-Instruct";
  bool untrained = false;  // the base has random weights
};

class Demo {
 public:
  explicit Demo(Options options) : o_(std::move(options)) {}

  Status Run() {
    const int64_t begin = SystemClock().MonotonicMillis();
    std::error_code error;
    fs::remove_all(o_.out, error);
    fs::create_directories(o_.out, error);
    if (error) return ErrnoStatus("create", o_.out.native(), error.value());
    outcome_.model = o_.model;
    outcome_.rounds = kRounds;
    outcome_.trained = !o_.untrained;
    TG_RETURN_IF_ERROR(WriteAllRecords());
    TG_RETURN_IF_ERROR(TrainAlone());
    TG_RETURN_IF_ERROR(Federate());
    TG_RETURN_IF_ERROR(RefuseAndExport());
    TG_RETURN_IF_ERROR(MeasureAll());
    TG_RETURN_IF_ERROR(AskOnce());
    outcome_.seconds = static_cast<double>(SystemClock().MonotonicMillis() - begin) / 1000.0;
    TG_RETURN_IF_ERROR(WriteSummary(o_.out / "summary.json", outcome_));
    TG_RETURN_IF_ERROR(WriteReport(o_.out / "report.html", outcome_));
    std::printf("\n%s\nreport: %s\n", SummaryText(outcome_).c_str(),
                (o_.out / "report.html").c_str());
    return Judge();
  }

 private:
  static void Say(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  }
  std::string Program(const char* name) const { return (o_.programs / name).native(); }
  fs::path RecordsOf(const SiteRecords& site, const char* part) const {
    return o_.out / "records" / fmt::format("{}-{}.jsonl", site.name, part);
  }

  Status WriteAllRecords() {
    std::error_code error;
    fs::create_directories(o_.out / "records", error);
    std::vector<Question> heldout;
    for (const SiteRecords& site : sites_) {
      TG_RETURN_IF_ERROR(WriteRecords(RecordsOf(site, "train"), site.train));
      TG_RETURN_IF_ERROR(WriteRecords(RecordsOf(site, "heldout"), site.heldout));
      heldout.insert(heldout.end(), site.heldout.begin(), site.heldout.end());
    }
    outcome_.questions = static_cast<int64_t>(heldout.size());
    Say(fmt::format("{} and {}: {} private records each, {} held-out questions in all",
                    sites_[0].name, sites_[1].name, sites_[0].train.size(), heldout.size()));
    return WriteRecords(o_.out / "records" / "heldout.jsonl", heldout);
  }

  // Runs commands side by side, one thread each, and waits for all.
  Status Together(const std::vector<std::vector<std::string>>& commands, const std::string& name) {
    std::vector<ChildProcess> running;
    for (size_t i = 0; i < commands.size(); ++i) {
      TG_ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::Start(commands[i], LogOf(name, i)));
      running.push_back(std::move(child));
    }
    for (size_t i = 0; i < running.size(); ++i) {
      const std::optional<int> code = running[i].Wait(kTimeoutMillis);
      if (code == 0) continue;
      const auto log = ReadTextFile(LogOf(name, i), 64u << 20);
      return Internal("{} {} failed: {}", name, i, log ? *log : "");
    }
    return OkStatus();
  }
  fs::path LogOf(const std::string& name, size_t i) const {
    return o_.out / fmt::format("{}-{}.log", name, i);
  }

  // As many steps as a site makes in the federation, on its own records alone.
  Status TrainAlone() {
    Say(fmt::format("each site alone: {} steps", kRounds * kLocalSteps));
    std::vector<std::vector<std::string>> commands;
    for (const SiteRecords& site : sites_) {
      commands.push_back({Program("tidegate"),
                          "finetune",
                          "--base",
                          o_.base.native(),
                          "--data",
                          RecordsOf(site, "train").native(),
                          "--out",
                          (o_.out / ("alone-" + site.name)).native(),
                          "--max-steps",
                          std::to_string(kRounds * kLocalSteps),
                          "--packing",
                          "false",
                          "--per-device-train-batch-size",
                          std::to_string(kBatch),
                          "--gradient-accumulation-steps",
                          "1",
                          "--learning-rate",
                          kLearningRate,
                          "--lr-scheduler-type",
                          "linear",
                          "--warmup-ratio",
                          "0",
                          "--lora-r",
                          "16",
                          "--lora-alpha",
                          "32",
                          "--max-length",
                          "256",
                          "--save-steps",
                          "0",
                          "--threads",
                          "1"});
    }
    return Together(commands, "alone");
  }

  Status Federate() {
    const std::string job = fmt::format(
        "rounds = {}\nquorum = 2\ndeadline_seconds = 600\ncodec = \"int8\"\n[lora]\nr = 16\nalpha "
        "= 32\nlocal_r = 1\n[train]\nlocal_steps = {}\nbatch_size = {}\nlearning_rate = "
        "{}\nscheduler = "
        "\"linear\"\nmax_length = 256\npacking = false\nassistant_only_loss = true\n",
        kRounds, kLocalSteps, kBatch, kLearningRate);
    TG_RETURN_IF_ERROR(WriteFileDurably(o_.out / "job.toml", AsBytes(job)));
    std::vector<std::string> command = {Program("tidegate"),
                                        "poc",
                                        "--dir",
                                        (o_.out / "federation").native(),
                                        "--base",
                                        o_.base.native(),
                                        "--job",
                                        (o_.out / "job.toml").native(),
                                        "--hold",
                                        sites_[1].name,
                                        "--format",
                                        "json"};
    for (const SiteRecords& site : sites_) {
      command.insert(command.end(), {"--site", fmt::format("{}={}:{}", site.name,
                                                           RecordsOf(site, "train").native(),
                                                           RecordsOf(site, "heldout").native())});
    }
    Say("the federation: one coordinator and two sites as processes of their own");
    TG_ASSIGN_OR_RETURN(const std::string text, RunShowingProgress(command));
    const json result = json::parse(text, nullptr, false);
    if (!result.is_object()) return Internal("tidegate poc printed no JSON");
    outcome_.adapter_dir = result.at("adapter").get<std::string>();
    for (const json& site : result.at("sites")) {
      SiteOutcome s;
      s.name = site.at("name").get<std::string>();
      s.ledger = site.at("ledger").get<std::string>();
      s.receipt = site.at("receipt").get<std::string>();
      s.key = site.at("key").get<std::string>();
      s.exports = site.at("exports").get<int64_t>();
      s.bytes_out = site.at("bytes_out").get<int64_t>();
      s.ledger_verified = site.at("ledger_verified").get<bool>();
      s.ledger_text = site.at("ledger_text").get<std::string>();
      const fs::path rounds = fs::path(site.at("dir").get<std::string>()) / "trainer" /
                              result.at("job").get<std::string>() / "rounds.jsonl";
      TG_RETURN_IF_ERROR(ReadRounds(rounds, &s.rounds));
      outcome_.sites.push_back(std::move(s));
    }
    return OkStatus();
  }

  // Its progress goes to our terminal, its result comes back; meanwhile the operator does her part.
  Result<std::string> RunShowingProgress(std::vector<std::string> command) {
    const fs::path out = o_.out / "federation.json";
    std::string line;
    for (const std::string& word : command) line += "'" + word + "' ";
    const std::vector<std::string> shell = {"sh", "-c", line + "> '" + out.native() + "'"};
    TG_ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::Start(shell, "/dev/stderr"));
    outcome_.held_site = sites_[1].name;
    TG_ASSIGN_OR_RETURN(
        outcome_.held_review,
        ReleaseHeld({o_.programs}, o_.out / "federation" / outcome_.held_site, child));
    Say(fmt::format("{}'s operator has looked at it and released it", outcome_.held_site));
    const std::optional<int> code = child.Wait(kTimeoutMillis);
    if (code != 0) return Internal("tidegate poc failed; its logs are in {}", o_.out.native());
    return ReadTextFile(out, 64u << 20);
  }

  static Status ReadRounds(const fs::path& path, std::vector<RoundPoint>* points) {
    TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, 1 << 20));
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      const json line = json::parse(text.substr(at, end - at), nullptr, false);
      if (line.is_object()) {
        points->push_back({line.at("round").get<int>(), line.at("train_loss").get<double>(),
                           line.at("heldout_loss").get<double>()});
      }
      at = end + 1;
    }
    return OkStatus();
  }

  Status RefuseAndExport() {
    Say(fmt::format("a job with more than {}'s policy lets out", outcome_.held_site));
    TG_ASSIGN_OR_RETURN(const Refused refused, OfferTooMuch({o_.programs}, o_.out / "federation",
                                                            outcome_.held_site, o_.base));
    outcome_.refused_leaf = refused.leaf;
    outcome_.status_page = refused.status_page;
    Say("  " + refused.leaf);
    for (const SiteOutcome& s : outcome_.sites) {
      TG_RETURN_IF_ERROR(ExportLedger({o_.programs}, s.ledger, s.receipt, s.key,
                                      o_.out / ("regulator-" + s.name)));
    }
    return OkStatus();
  }

  std::vector<std::string> EvalCommand(const std::string& adapter, const fs::path& data,
                                       const fs::path& out) const {
    std::string line = fmt::format(
        "'{}' eval --base '{}' --data '{}' --max-length 256 --per-device-eval-batch-size 4 "
        "--exact-match --max-new-tokens 32 --threads 1 --format json",
        Program("tidegate"), o_.base.native(), data.native());
    if (!adapter.empty()) line += " --adapter '" + adapter + "'";
    return {"sh", "-c", line + " > '" + out.native() + "'"};
  }

  Status MeasureAll() {
    Say("measuring on both sites' held-out records");
    std::vector<std::string> adapters = {"", (o_.out / ("alone-" + sites_[0].name)).native(),
                                         (o_.out / ("alone-" + sites_[1].name)).native(),
                                         outcome_.adapter_dir};
    for (const SiteRecords& site : sites_) {
      adapters.push_back((o_.out / "federation" / site.name / "trainer" / "adapter").native());
    }
    std::vector<Score*> scores = {&outcome_.base,           &outcome_.sites[0].alone,
                                  &outcome_.sites[1].alone, &outcome_.shared,
                                  &outcome_.sites[0].kept,  &outcome_.sites[1].kept};
    for (size_t i = 0; i < adapters.size(); i += 2) {
      const auto file = [&](size_t k) { return o_.out / fmt::format("eval-{}.json", k); };
      const auto command = [&](size_t k) {
        const fs::path all = o_.out / "records" / "heldout.jsonl";
        const fs::path data = k < 4 ? all : RecordsOf(sites_[k - 4], "heldout");
        return EvalCommand(adapters[k], data, file(k));
      };
      TG_RETURN_IF_ERROR(Together({command(i), command(i + 1)}, "eval"));
      for (size_t k = i; k < i + 2; ++k) {
        TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file(k), 1 << 20));
        const json eval = json::parse(text, nullptr, false);
        if (!eval.is_object()) return Internal("tidegate eval printed no JSON");
        scores[k]->heldout_nll = eval.at("nll").get<double>();
        scores[k]->exact = eval.at("exact_match").at("correct").get<int64_t>();
      }
    }
    return OkStatus();
  }

  // A question of the second site's held-out ones.
  Status AskOnce() {
    const Question& q = sites_[1].heldout[2];
    outcome_.question = q.question;
    outcome_.expected = q.answer;
    for (const bool adapted : {false, true}) {
      std::vector<std::string> command = {Program("tidegate"),
                                          "generate",
                                          "--base",
                                          o_.base.native(),
                                          "--system",
                                          SystemMessage(),
                                          "--prompt",
                                          q.question,
                                          "--max-new-tokens",
                                          "32",
                                          "--threads",
                                          "1",
                                          "--format",
                                          "json"};
      if (adapted) command.insert(command.end(), {"--adapter", outcome_.adapter_dir});
      TG_ASSIGN_OR_RETURN(const std::string text, RunCommandOk(command, kTimeoutMillis));
      const json answer = json::parse(text, nullptr, false);
      if (!answer.is_object()) return Internal("tidegate generate printed no JSON");
      (adapted ? outcome_.answer_after : outcome_.answer_before) =
          answer.at("text").get<std::string>();
    }
    return OkStatus();
  }

  // What the demo is to show; not to show it is a failure.
  Status Judge() const {
    if (outcome_.held_review.empty() || outcome_.refused_leaf.empty()) {
      return Internal("nothing was held, or nothing was refused");
    }
    double best_nll = outcome_.sites[0].alone.heldout_nll;
    int64_t best_exact = 0;
    for (const SiteOutcome& s : outcome_.sites) {
      best_nll = std::min(best_nll, s.alone.heldout_nll);
      best_exact = std::max(best_exact, s.alone.exact);
      if (!s.ledger_verified) return DataLoss("the ledger of {} does not verify", s.name);
    }
    if (o_.untrained) return OkStatus();
    if (outcome_.shared.heldout_nll > 0.6 * best_nll || outcome_.shared.exact <= best_exact) {
      return Internal("the shared adapter does not beat the lone ones");
    }
    return OkStatus();
  }

  Options o_;
  std::vector<SiteRecords> sites_ = MakeRecords();
  Outcome outcome_;
};

}  // namespace
}  // namespace tidegate::demo

int main(int argc, char** argv) {
  using namespace tidegate;
  CLI::App app("Two sites with private records learn one adapter; only sealed deltas leave.",
               "tidegate-demo");
  demo::Options options;
  app.add_option("--base", options.base, "HF folder of the base model")->required();
  app.add_option("--out", options.out, "where everything goes; emptied first")->required();
  app.add_flag("--untrained", options.untrained,
               "the base has random weights: nothing is learnt, all else is shown");
  app.add_option("--model", options.model, "the model's name in the report")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 64;
  }
  std::error_code error;
  options.programs = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  options.out = std::filesystem::absolute(options.out, error);
  demo::Demo demo(std::move(options));
  const Status status = demo.Run();
  if (status.ok()) return 0;
  std::fprintf(stderr, "tidegate-demo: %s\n", status.ToString().c_str());
  return static_cast<int>(status.code());
}
