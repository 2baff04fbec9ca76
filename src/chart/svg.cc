#include "chart/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace tidegate::chart {
namespace {

constexpr double kWidth = 720;
constexpr const char* kColours[] = {"#00796b", "#00796b", "#c2571a",
                                    "#c2571a", "#3949ab", "#3949ab"};

std::string Text(double x, double y, const std::string& anchor, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>", x, y, anchor,
                     EscapeHtml(text));
}

std::string Open(double height) {
  return fmt::format(
      "<svg viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" font-family=\"system-ui,sans-serif\" "
      "font-size=\"13\" fill=\"#1c2733\">",
      kWidth, height);
}

constexpr const char* kStyle =
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#1c2733}h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}table{border-collapse:"
    "collapse}td,th{border-bottom:1px solid #cfd8dc;padding:.3rem .8rem;text-align:left}"
    ".n{text-align:right}pre{background:#f3f6f8;padding:1rem;overflow:auto;font-size:.8rem}"
    ".q{background:#f3f6f8;border-left:4px solid #00796b;padding:.6rem "
    "1rem}svg{width:100%;height:auto}";

}  // namespace

std::string Page(const std::string& title, const std::string& body) {
  return fmt::format(
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>"
      "<meta name=\"viewport\" content=\"width=device-width\"><style>{}</style></head><body>{}"
      "</body></html>\n",
      EscapeHtml(title), kStyle, body);
}

std::string EscapeHtml(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string BarChart(const std::vector<Bar>& bars, const std::string& unit, int decimals) {
  constexpr double kRow = 34, kLeft = 130, kRight = 110;
  double max = 0;
  for (const Bar& bar : bars) max = std::max(max, bar.value);
  std::string out = Open(kRow * static_cast<double>(bars.size()) + 24);
  for (size_t i = 0; i < bars.size(); ++i) {
    const double y = kRow * static_cast<double>(i) + 6;
    const double w = max > 0 ? bars[i].value / max * (kWidth - kLeft - kRight) : 0;
    out += Text(kLeft - 10, y + 17, "end", bars[i].name);
    out += fmt::format(
        "<rect x=\"{}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"24\" rx=\"3\" fill=\"{}\"/>", kLeft,
        y, std::max(w, 1.0), bars[i].strong ? "#00796b" : "#90a4ae");
    out += Text(kLeft + std::max(w, 1.0) + 8, y + 17, "start",
                fmt::format("{:.{}f}", bars[i].value, decimals));
  }
  out += Text(kLeft, kRow * static_cast<double>(bars.size()) + 18, "start", unit);
  return out + "</svg>";
}

std::string LineChart(const std::vector<Line>& lines, const std::string& x_name,
                      const std::string& y_name) {
  constexpr double kHeight = 300, kLeft = 50, kRight = 180, kTop = 34, kBottom = 40;
  double max_x = 1, max_y = 0, min_x = 1;
  for (const Line& line : lines) {
    for (const auto& [x, y] : line.points) {
      max_x = std::max(max_x, x);
      min_x = std::min(min_x, x);
      max_y = std::max(max_y, y);
    }
  }
  if (max_y <= 0) max_y = 1;
  const double span = std::max(max_x - min_x, 1.0);
  const auto px = [&](double x) { return kLeft + (x - min_x) / span * (kWidth - kLeft - kRight); };
  const auto py = [&](double y) {
    return kHeight - kBottom - y / max_y * (kHeight - kTop - kBottom);
  };
  std::string out = Open(kHeight);
  for (int i = 0; i <= 4; ++i) {
    const double y = max_y * i / 4;
    out += fmt::format(
        "<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#e0e6ea\"/>", kLeft,
        kWidth - kRight, py(y), py(y));
    out += Text(kLeft - 8, py(y) + 4, "end", fmt::format("{:.3g}", y));
  }
  for (double x = min_x; x <= max_x; x += std::max(1.0, std::ceil(span / 10))) {
    out += Text(px(x), kHeight - kBottom + 18, "middle", fmt::format("{:.0f}", x));
  }
  for (size_t i = 0; i < lines.size(); ++i) {
    const char* colour = kColours[i % std::size(kColours)];
    std::string points;
    for (const auto& [x, y] : lines[i].points)
      points += fmt::format("{:.1f},{:.1f} ", px(x), py(y));
    const char* dash = lines[i].dashed ? " stroke-dasharray=\"6 4\"" : "";
    out +=
        fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2.5\"{}/>",
                    points, colour, dash);
    const double ly = kTop + 20.0 * static_cast<double>(i);
    out += fmt::format(
        "<line x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" stroke=\"{3}\" "
        "stroke-width=\"2.5\"{4}/>",
        kWidth - kRight + 12, kWidth - kRight + 40, ly, colour, dash);
    out += Text(kWidth - kRight + 46, ly + 4, "start", lines[i].name);
  }
  out += Text((kLeft + kWidth - kRight) / 2, kHeight - 6, "middle", x_name);
  out += Text(8, 14, "start", y_name);
  return out + "</svg>";
}

}  // namespace tidegate::chart
