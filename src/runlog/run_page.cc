#include "runlog/run_page.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "chart/svg.h"
#include "runlog/progress.h"

namespace tidegate::runlog {
namespace {

using chart::Line;
using nlohmann::json;
using Points = std::vector<std::pair<double, double>>;

struct Curves {
  Points loss, heldout, learning_rate, grad_norm, speed;
  json start, end;  // the last of each, null when there is none
};

// Adds (step, value of `key`) where both are numbers: a loss that is none is written as null.
void Add(const json& line, const char* key, Points* points) {
  const auto step = line.find("step"), value = line.find(key);
  if (step == line.end() || value == line.end() || !step->is_number() || !value->is_number()) {
    return;
  }
  points->emplace_back(step->get<double>(), value->get<double>());
}

void AddLine(const json& line, Curves* curves) {
  const auto event = line.find("event");
  if (event == line.end()) return;
  if (*event == "step") {
    Add(line, "loss", &curves->loss);
    Add(line, "learning_rate", &curves->learning_rate);
    Add(line, "grad_norm", &curves->grad_norm);
    Add(line, "tokens_per_second", &curves->speed);
  } else if (*event == "eval") {
    Add(line, "nll", &curves->heldout);
  } else if (*event == "start") {
    curves->start = line;
  } else if (*event == "end") {
    curves->end = line;
  }
}

Result<Curves> ReadCurves(const std::filesystem::path& path) {
  TG_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxMetricsBytes));
  Curves curves;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const auto line =
        ParseStrictJson(std::string_view(text).substr(begin, end - begin), {}, path.native());
    if (line && line->is_object()) AddLine(*line, &curves);
    begin = end + 1;
  }
  return curves;
}

// The means of at most kMaxPoints stretches of equal length.
Points Thinned(const Points& points) {
  const size_t stretch = (points.size() + kMaxPoints - 1) / kMaxPoints;
  if (stretch <= 1) return points;
  Points out;
  for (size_t begin = 0; begin < points.size(); begin += stretch) {
    const size_t count = std::min(stretch, points.size() - begin);
    double x = 0, y = 0;
    for (size_t i = begin; i < begin + count; ++i) {
      x += points[i].first;
      y += points[i].second;
    }
    out.emplace_back(x / static_cast<double>(count), y / static_cast<double>(count));
  }
  return out;
}

std::string Chart(const std::string& title, std::vector<Line> lines, const std::string& unit) {
  for (Line& line : lines) line.points = Thinned(line.points);
  std::erase_if(lines, [](const Line& line) { return line.points.empty(); });
  if (lines.empty()) return {};
  return "<h2>" + title + "</h2>" + chart::LineChart(lines, "step", unit);
}

std::string Rows(const json& object) {
  std::string rows;
  for (const auto& [name, value] : object.items()) {
    if (value.is_structured()) continue;
    rows += "<tr><td>" + chart::EscapeHtml(name) + "</td><td>" +
            chart::EscapeHtml(value.is_string() ? value.get<std::string>() : value.dump()) +
            "</td></tr>";
  }
  return rows;
}

// What the start line says of the run, a table.
std::string Settings(const json& start) {
  if (!start.is_object()) return {};
  std::string rows = Rows(start);
  for (const char* part : {"train", "run"}) {
    const auto found = start.find(part);
    if (found != start.end() && found->is_object()) rows += Rows(*found);
  }
  return "<h2>The run</h2><table>" + rows + "</table>";
}

std::string Headline(const Curves& curves) {
  std::string text = fmt::format("<h1>Fine-tuning</h1><p>{} steps", curves.loss.size());
  if (!curves.loss.empty()) text += fmt::format(", last loss {:.4f}", curves.loss.back().second);
  if (!curves.heldout.empty()) {
    text += fmt::format(", held-out NLL {:.4f}", curves.heldout.back().second);
  }
  const auto ended = [&curves](const char* how) {
    return curves.end.is_object() && curves.end.contains(how) && curves.end[how] == true;
  };
  if (ended("stopped")) return text + ". Stopped; --resume goes on.</p>";
  return text + (ended("ended_early") ? ". Stopped early: no more improvement.</p>" : ".</p>");
}

}  // namespace

Status WriteRunPage(const std::filesystem::path& dir) {
  TG_ASSIGN_OR_RETURN(const Curves curves, ReadCurves(dir / "metrics.jsonl"));
  std::string body = Headline(curves);
  body += Chart("Loss (nats a trained token)",
                {{"training", false, curves.loss}, {"held out", true, curves.heldout}}, "loss");
  body += Chart("Learning rate", {{"learning rate", false, curves.learning_rate}}, "rate");
  body += Chart("Gradient norm, before clipping", {{"norm", false, curves.grad_norm}}, "norm");
  body += Chart("Speed", {{"tokens a second", false, curves.speed}}, "tokens/s");
  body += Settings(curves.start);
  return WriteFileDurably(dir / "report.html", AsBytes(chart::Page("Tidegate fine-tuning", body)));
}

}  // namespace tidegate::runlog
