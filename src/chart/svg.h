// Small charts as SVG text and the page around them: self-contained, without scripts.
// Thread-safety: functions of their arguments.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace tidegate::chart {

std::string EscapeHtml(const std::string& text);

// A whole HTML page; `body` is HTML, `title` text.
std::string Page(const std::string& title, const std::string& body);

struct Bar {
  std::string name;
  double value = 0;
  bool strong = false;  // drawn in the accent colour
};
std::string BarChart(const std::vector<Bar>& bars, const std::string& unit, int decimals);

struct Line {
  std::string name;
  bool dashed = false;
  std::vector<std::pair<double, double>> points;
};
std::string LineChart(const std::vector<Line>& lines, const std::string& x_name,
                      const std::string& y_name);

}  // namespace tidegate::chart
