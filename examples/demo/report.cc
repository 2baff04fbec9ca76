#include "report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "chart/svg.h"

namespace tidegate::demo {
namespace {

using chart::Bar;
using chart::BarChart;
using chart::EscapeHtml;
using chart::Line;
using chart::LineChart;

int64_t TotalExports(const Outcome& o) {
  int64_t n = 0;
  for (const SiteOutcome& s : o.sites) n += s.exports;
  return n;
}

int64_t TotalBytes(const Outcome& o) {
  int64_t n = 0;
  for (const SiteOutcome& s : o.sites) n += s.bytes_out;
  return n;
}

bool AllVerified(const Outcome& o) {
  return std::all_of(o.sites.begin(), o.sites.end(),
                     [](const SiteOutcome& s) { return s.ledger_verified; });
}

// `ledger show` ends by saying that it verified nothing; the table above its text says what did.
std::string LeavesOf(const std::string& ledger_text) {
  return ledger_text.substr(0, ledger_text.rfind("not verified:"));
}

// The report of an adapter of many tensors would be little else.
std::string FirstLines(const std::string& text, int most) {
  size_t at = 0;
  for (int line = 0; line < most; ++line) {
    at = text.find('\n', at);
    if (at == std::string::npos) return text;
    ++at;
  }
  const auto left = std::count(text.begin() + static_cast<std::ptrdiff_t>(at), text.end(), '\n');
  return text.substr(0, at) + fmt::format("  and {} more\n", left);
}

std::vector<Bar> Bars(const Outcome& o, bool exact) {
  const auto value = [exact](const Score& s) {
    return exact ? static_cast<double>(s.exact) : s.heldout_nll;
  };
  std::vector<Bar> bars = {{"base model", value(o.base), false}};
  for (const SiteOutcome& s : o.sites) bars.push_back({s.name + " alone", value(s.alone), false});
  bars.push_back({"shared adapter", value(o.shared), true});
  return bars;
}

std::vector<Line> Lines(const Outcome& o) {
  std::vector<Line> lines;
  for (const SiteOutcome& s : o.sites) {
    Line train{s.name + ", training", false, {}}, heldout{s.name + ", held out", true, {}};
    for (const RoundPoint& p : s.rounds) {
      train.points.push_back({static_cast<double>(p.round), p.train_loss});
      heldout.points.push_back({static_cast<double>(p.round), p.heldout_loss});
    }
    lines.push_back(train);
    lines.push_back(heldout);
  }
  return lines;
}

}  // namespace

Status WriteSummary(const std::filesystem::path& path, const Outcome& o) {
  nlohmann::ordered_json alone_nll = nlohmann::ordered_json::array();
  nlohmann::ordered_json alone_exact = nlohmann::ordered_json::array();
  nlohmann::ordered_json kept_nll = nlohmann::ordered_json::array();
  nlohmann::ordered_json kept_exact = nlohmann::ordered_json::array();
  nlohmann::ordered_json ledgers = nlohmann::ordered_json::array();
  for (const SiteOutcome& s : o.sites) {
    alone_nll.push_back(s.alone.heldout_nll);
    alone_exact.push_back(s.alone.exact);
    kept_nll.push_back(s.kept.heldout_nll);
    kept_exact.push_back(s.kept.exact);
    ledgers.push_back({{"path", s.ledger}, {"receipt", s.receipt}, {"key", s.key}});
  }
  const nlohmann::ordered_json json = {{"model", o.model},
                                       {"rounds", o.rounds},
                                       {"held_out_nll",
                                        {{"base", o.base.heldout_nll},
                                         {"site_alone", alone_nll},
                                         {"shared", o.shared.heldout_nll},
                                         {"kept", kept_nll}}},
                                       {"exact",
                                        {{"base", o.base.exact},
                                         {"site_alone", alone_exact},
                                         {"shared", o.shared.exact},
                                         {"kept", kept_exact}}},
                                       {"questions", o.questions},
                                       {"exports", TotalExports(o)},
                                       {"bytes_out", TotalBytes(o)},
                                       {"adapter_dir", o.adapter_dir},
                                       {"held_site", o.held_site},
                                       {"refused", o.refused_leaf},
                                       {"ledgers", ledgers},
                                       {"ledgers_verified", AllVerified(o)},
                                       {"seconds", o.seconds}};
  return WriteFileDurably(path, AsBytes(json.dump(2) + "\n"));
}

std::string SummaryText(const Outcome& o) {
  std::string out = fmt::format("{:<18}{:>14}{:>16}\n", "", "held-out NLL",
                                fmt::format("exact of {}", o.questions));
  const auto row = [&out](const std::string& name, const Score& s) {
    out += fmt::format("{:<18}{:>14.3f}{:>16}\n", name, s.heldout_nll, s.exact);
  };
  row("base model", o.base);
  for (const SiteOutcome& s : o.sites) row(s.name + " alone", s.alone);
  row("shared adapter", o.shared);
  out += fmt::format("\nQ: {}\nexpected: {}\nbefore:   {}\nafter:    {}\n\n", o.question,
                     o.expected, o.answer_before, o.answer_after);
  for (const SiteOutcome& s : o.sites) {
    out += fmt::format("{} keeps shared + its own adapter: {} of its own {} answered exactly\n",
                       s.name, s.kept.exact, o.questions / static_cast<int64_t>(o.sites.size()));
  }
  for (const SiteOutcome& s : o.sites) {
    out += fmt::format(
        "{}: {} exports, {:.1f} MB left; ledger {}\n", s.name, s.exports,
        static_cast<double>(s.bytes_out) / 1e6,
        s.ledger_verified ? "verified against the coordinator's receipt" : "NOT verified");
  }
  out += fmt::format("{}: its first update was held, reviewed and released by an operator\n",
                     o.held_site);
  out += fmt::format("{}: a job was refused: {}\n", o.held_site, o.refused_leaf);
  out += fmt::format("{} rounds, {:.0f} s in all\n", o.rounds, o.seconds);
  return out;
}

Status WriteReport(const std::filesystem::path& path, const Outcome& o) {
  std::string html = fmt::format(
      "<h1>Two sites, one adapter, every record at home</h1>"
      "<p>{} was fine-tuned by two sites on records of their own: invented storage rules that no "
      "base model knows. Each site alone learns its own rules; the shared adapter learned both "
      "from {} sealed updates. Held-out questions use phrasings that were never trained; the codes "
      "and rules are the same, so this shows that knowledge was shared, not how well it "
      "generalises.</p>",
      EscapeHtml(o.model), TotalExports(o));
  html += "<h2>Loss on both sites' held-out records (lower is better)</h2>" +
          BarChart(Bars(o, false), "nats a token", 3);
  html += fmt::format("<h2>Held-out questions answered exactly, of {}</h2>", o.questions) +
          BarChart(Bars(o, true), "questions", 0);
  html +=
      "<p>Beside the shared adapter each site trained a small one of its own, which never leaves. "
      "With "
      "both, on its own held-out questions: ";
  for (const SiteOutcome& s : o.sites) {
    html += fmt::format("{} answers {} of {} exactly. ", EscapeHtml(s.name), s.kept.exact,
                        o.questions / static_cast<int64_t>(o.sites.size()));
  }
  html += "</p><h2>Loss over the rounds, at each site</h2>" + LineChart(Lines(o), "round", "loss");
  html += fmt::format(
      "<h2>One question, before and after</h2><p class=\"q\"><b>{}</b><br>rule: {}<br>base model: "
      "{}<br>with the shared adapter: {}</p>",
      EscapeHtml(o.question), EscapeHtml(o.expected), EscapeHtml(o.answer_before),
      EscapeHtml(o.answer_after));
  html +=
      "<h2>What left</h2><table><tr><th>site</th><th class=\"n\">exports</th>"
      "<th class=\"n\">bytes</th><th>ledger</th></tr>";
  for (const SiteOutcome& s : o.sites) {
    html += fmt::format(
        "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
        EscapeHtml(s.name), s.exports, s.bytes_out,
        s.ledger_verified ? "verified against the coordinator's receipt" : "NOT verified");
  }
  html += "</table>";
  html += fmt::format(
      "<h2>What {}'s operator saw before the first update left</h2><pre>{}</pre>"
      "<h2>What {}'s policy refused</h2><pre>{}</pre>",
      EscapeHtml(o.held_site), EscapeHtml(FirstLines(o.held_review, 32)), EscapeHtml(o.held_site),
      EscapeHtml(o.refused_leaf));
  html += "<p>For a regulator:";
  for (const SiteOutcome& s : o.sites) {
    html += fmt::format(" <a href=\"regulator-{0}/report.html\">{0}</a>", EscapeHtml(s.name));
  }
  html += ".</p>";
  if (!o.status_page.empty()) {
    html +=
        "<h2>The coordinator's status page</h2><img src=\"federation/status-page.png\" "
        "alt=\"status page\" style=\"max-width:100%\">";
  }
  for (const SiteOutcome& s : o.sites) {
    html += fmt::format("<h2>Ledger of {}</h2><pre>{}</pre>", EscapeHtml(s.name),
                        EscapeHtml(LeavesOf(s.ledger_text)));
  }
  html += fmt::format("<p>{:.0f} seconds in all.</p>", o.seconds);
  return WriteFileDurably(path, AsBytes(chart::Page("Tidegate demo", html)));
}

}  // namespace tidegate::demo
