#include "onshore/trainer/simulation_charts.h"

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "chart/svg.h"

namespace tidegate::trainer {
namespace {

double Mega(uint64_t bytes) { return static_cast<double>(bytes) / 1e6; }

std::string JsonLine(const SimulatedRound& r) {
  const nlohmann::ordered_json json = {
      {"round", r.round},           {"version", r.version},
      {"asked", r.asked},           {"updates", r.updates},
      {"bytes", r.bytes},           {"bytes_down", r.bytes_down},
      {"train_loss", r.train_loss}, {"heldout_loss", r.heldout_loss}};
  return json.dump() + "\n";
}

std::string Table(const std::vector<SimulatedRound>& rounds) {
  std::string out =
      "<table><tr><th>round</th><th>version</th><th>updates</th><th>asked</th><th>MB up</th>"
      "<th>MB down</th><th>peak memory, MB</th><th>s</th></tr>";
  for (const SimulatedRound& r : rounds) {
    out += fmt::format(
        "<tr class=\"n\"><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.1f}</td><td>{:.1f}</td>"
        "<td>{:.1f}</td><td>{:.1f}</td></tr>",
        r.round, r.version, r.updates, r.asked, Mega(r.bytes), Mega(r.bytes_down),
        Mega(r.peak_bytes), r.seconds);
  }
  return out + "</table>";
}

}  // namespace

Status WriteRounds(const std::filesystem::path& out, const SimulationResult& result) {
  std::string text;
  chart::Line train{"training", false, {}}, heldout{"held out", true, {}};
  chart::Line up{"up: updates", false, {}}, down{"down: versions", true, {}};
  chart::Line memory{"of all ranks", false, {}};
  for (const SimulatedRound& r : result.rounds) {
    text += JsonLine(r);
    if (r.train_loss > 0) train.points.emplace_back(r.round, r.train_loss);
    if (r.heldout_loss > 0) heldout.points.emplace_back(r.round, r.heldout_loss);
    up.points.emplace_back(r.round, Mega(r.bytes));
    down.points.emplace_back(r.round, Mega(r.bytes_down));
    memory.points.emplace_back(r.round, Mega(r.peak_bytes));
  }
  TG_RETURN_IF_ERROR(WriteFileDurably(out / "rounds.jsonl", AsBytes(text)));
  std::vector<chart::Line> lines = {train};
  if (!heldout.points.empty()) lines.push_back(heldout);
  const std::string losses = chart::LineChart(lines, "round", "mean loss of the updates");
  TG_RETURN_IF_ERROR(WriteFileDurably(out / "rounds.svg", AsBytes(losses)));
  const std::string page =
      chart::Page(fmt::format("{} sites", result.sites),
                  fmt::format("<h1>{} sites on {} {}</h1><h2>Loss</h2>{}<h2>Bytes of a round</h2>{}"
                              "<h2>Memory</h2>{}<h2>Rounds</h2>{}",
                              result.sites, result.ranks, result.ranks == 1 ? "rank" : "ranks",
                              losses, chart::LineChart({up, down}, "round", "MB"),
                              chart::LineChart({memory}, "round", "peak resident memory, MB"),
                              Table(result.rounds)));
  return WriteFileDurably(out / "rounds.html", AsBytes(page));
}

}  // namespace tidegate::trainer
