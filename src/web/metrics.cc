#include "web/metrics.h"

#include <fmt/format.h>

#include <functional>

namespace tidegate::web {
namespace {

using nlohmann::ordered_json;

// As a label's value: a name may hold none of these, but this does not depend on it.
std::string Escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

struct Family {
  const char* name;
  const char* type;
  const char* help;
};

class Writer {
 public:
  void Begin(const Family& family) {
    name_ = family.name;
    text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", family.name, family.help, family.name,
                         family.type);
  }
  void Sample(const std::string& labels, double value) {
    text_ += labels.empty() ? fmt::format("{} {}\n", name_, value)
                            : fmt::format("{}{{{}}} {}\n", name_, labels, value);
  }
  std::string Take() { return std::move(text_); }

 private:
  const char* name_ = "";
  std::string text_;
};

std::string Label(const char* name, const ordered_json& value) {
  return fmt::format("{}=\"{}\"", name, Escaped(value.get<std::string>()));
}

double Number(const ordered_json& value) {
  return value.is_boolean() ? (value.get<bool>() ? 1 : 0) : value.get<double>();
}

void Sites(const ordered_json& status, Writer* out) {
  const std::pair<Family, const char*> families[] = {
      {{"tidegate_site_connected", "gauge", "1 while a site has its connections."}, "connected"},
      {{"tidegate_site_received_bytes_total", "counter",
        "Bytes of updates from a site since the coordinator started."},
       "bytes_in"},
      {{"tidegate_site_refusals_total", "counter",
        "Messages of a site that were answered with an error since the coordinator started."},
       "refused"}};
  for (const auto& [family, key] : families) {
    out->Begin(family);
    for (const auto& site : status["sites"]) {
      out->Sample(Label("site", site["name"]), Number(site[key]));
    }
  }
}

void Jobs(const ordered_json& status, Writer* out) {
  const std::pair<Family, std::function<double(const ordered_json&)>> families[] = {
      {{"tidegate_job_version", "gauge", "Newest adapter version of a job."},
       [](const ordered_json& job) { return Number(job["version"]); }},
      {{"tidegate_job_rounds", "gauge", "Versions that a job is going to publish."},
       [](const ordered_json& job) { return Number(job["rounds"]); }},
      {{"tidegate_job_ended", "gauge", "1 once a job is finished or stopped."},
       [](const ordered_json& job) { return Number(job["ended"]); }},
      {{"tidegate_round_updates", "gauge", "Updates that are in of the open round."},
       [](const ordered_json& job) {
         const ordered_json& round = job["open_round"];
         return round.is_null() ? 0.0 : static_cast<double>(round["accepted"].size());
       }},
      {{"tidegate_job_received_bytes_total", "counter",
        "Bytes of updates of a job since the coordinator started."},
       [](const ordered_json& job) { return Number(job["bytes_in"]); }}};
  for (const auto& [family, value] : families) {
    out->Begin(family);
    for (const auto& job : status["jobs"]) {
      out->Sample(Label("job", job["name"]) + "," + Label("id", job["id"]), value(job));
    }
  }
}

void Losses(const ordered_json& status, Writer* out) {
  const std::pair<Family, const char*> families[] = {
      {{"tidegate_train_loss", "gauge", "Training loss of a site's last counted update."}, "train"},
      {{"tidegate_heldout_loss", "gauge",
        "Held-out loss, at a site, of the adapter that its last counted update started from."},
       "heldout"}};
  for (const auto& [family, key] : families) {
    out->Begin(family);
    for (const auto& job : status["jobs"]) {
      for (const auto& [site, losses] : job["losses"].items()) {
        // 0: the site's policy does not let it go along.
        if (Number(losses[key]) == 0) continue;
        out->Sample(Label("job", job["name"]) + "," + Label("id", job["id"]) + "," +
                        Label("site", ordered_json(site)),
                    Number(losses[key]));
      }
    }
  }
}

}  // namespace

std::string MetricsText(const ordered_json& status) {
  Writer out;
  Sites(status, &out);
  Jobs(status, &out);
  Losses(status, &out);
  const std::pair<Family, const char*> totals[] = {
      {{"tidegate_block_store_bytes", "gauge", "Bytes in the block store."}, "block_bytes"},
      {{"tidegate_equivocations_total", "counter",
        "Second contents that sites offered under a key that has one."},
       "equivocations"},
      {{"tidegate_refused_peers_total", "counter",
        "Connections and messages that were refused before a site was known."},
       "refused_peers"}};
  for (const auto& [family, key] : totals) {
    if (!status.contains(key)) continue;
    out.Begin(family);
    out.Sample("", Number(status[key]));
  }
  return out.Take();
}

}  // namespace tidegate::web
