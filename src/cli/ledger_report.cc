#include "cli/ledger_report.h"

#include <fmt/format.h>

#include <map>
#include <sstream>
#include <string_view>
#include <vector>

#include "chart/svg.h"

namespace tidegate::cli {
namespace {

using nlohmann::ordered_json;

constexpr const char* kStyle =
    "body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:0 auto;padding:1.5rem}"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;"
    "width:100%;font-variant-numeric:tabular-nums}th,td{border-bottom:1px solid #ccc;padding:.3rem "
    ".6rem .3rem 0;text-align:left;vertical-align:top}th{font-weight:600}code{font-size:.85em;"
    "overflow-wrap:anywhere}.zh{color:#555}.good{color:#1a7f37}.bad{color:#b42318}td.n{text-align:"
    "right}details{margin:.3rem 0}pre{white-space:pre-wrap;background:#8881;padding:.6rem}";

std::string Both(std::string_view english, std::string_view chinese) {
  return fmt::format("{} <span class=\"zh\" lang=\"zh\">{}</span>", english, chinese);
}

std::string Word(const ordered_json& leaf, const char* key) {
  const auto it = leaf.find(key);
  if (it == leaf.end() || it->is_null()) return "";
  return chart::EscapeHtml(it->is_string() ? it->get<std::string>() : it->dump());
}

// A digest by its beginning; the whole shows when it is pointed at, and is in the text.
std::string ShortDigest(const ordered_json& leaf, const char* key) {
  const std::string text = Word(leaf, key);
  if (text.empty()) return "";
  return fmt::format("<code title=\"{}\">{}…</code>", text, text.substr(0, 12));
}

std::string Row(const std::vector<std::string>& cells, const char* tag = "td") {
  std::string row = "<tr>";
  for (const std::string& cell : cells) row += fmt::format("<{0}>{1}</{0}>", tag, cell);
  return row + "</tr>\n";
}

bool Is(const ordered_json& leaf, std::string_view type) { return leaf["type"] == type; }

std::string KeyOf(const ordered_json& leaf) {
  return Word(leaf, "job") + "-" + Word(leaf, "round") + "-" + Word(leaf, "phase");
}

class Report {
 public:
  Report(const ordered_json& leaves, const ordered_json& verification)
      : leaves_(leaves), verification_(verification) {
    for (const auto& leaf : leaves_) {
      if (Is(leaf, "job")) jobs_[Word(leaf, "job")] = Word(leaf, "name");
      if (Is(leaf, "receipt")) receipts_[Word(leaf, "content")] = &leaf;
      if (Is(leaf, "approval")) approvals_[KeyOf(leaf)].push_back(&leaf);
    }
  }

  std::string Html() {
    Head();
    Ground();
    Exports();
    Lineage();
    Refusals();
    Walls();
    Limits();
    return chart::Page("Tidegate: what left " + verification_["site"].get<std::string>(),
                       std::string("<style>") + kStyle + "</style>\n" + body_);
  }

 private:
  void Section(std::string_view english, std::string_view chinese) {
    body_ += "<h2>" + Both(english, chinese) + "</h2>\n";
  }
  void Text(std::string_view english, std::string_view chinese) {
    body_ += fmt::format("<p>{}</p>\n<p class=\"zh\" lang=\"zh\">{}</p>\n", english, chinese);
  }
  void Table(const std::vector<std::string>& names, const std::string& rows) {
    if (rows.empty()) {
      body_ += "<p>" + Both("none", "无") + "</p>\n";
      return;
    }
    body_ +=
        "<table><thead>" + Row(names, "th") + "</thead><tbody>\n" + rows + "</tbody></table>\n";
  }
  std::string JobName(const ordered_json& leaf) const {
    const auto it = jobs_.find(Word(leaf, "job"));
    return it == jobs_.end() ? ShortDigest(leaf, "job") : it->second;
  }

  void Head() {
    body_ += "<h1>" + Both("What left this site", "本站点出境记录") + "</h1>\n<table><tbody>";
    const std::pair<const char*, std::string> rows[] = {
        {"site", Both("Site", "站点")},
        {"site_key", Both("Site's signing key", "站点签名公钥")},
        {"leaves", Both("Ledger entries", "账本条目")},
        {"exports", Both("Exports", "出境次数")},
        {"export_bytes", Both("Bytes exported (sealed)", "出境字节数（密文）")},
        {"refusals", Both("Refusals", "拒绝次数")}};
    for (const auto& [key, name] : rows) body_ += Row({name, Word(verification_, key)});
    body_ += "</tbody></table>\n";
    if (verification_["head_covers"].is_null()) {
      body_ +=
          "<p class=\"bad\">" +
          Both(
              "Internally consistent only: no receipt that was kept elsewhere was held against "
              "it, so an end that was cut or a past that the key's owner rewrote would not "
              "show.",
              "仅内部一致：未与他处保存的回执核对，末尾被截断或被密钥持有人改写的历史不会显现。") +
          "</p>\n";
    } else {
      body_ +=
          "<p class=\"good\">" +
          Both(fmt::format("Verified: entries 0 to {} are unchanged, by a receipt that was kept "
                           "elsewhere.",
                           verification_["head_covers"].get<uint64_t>() - 1),
               "已核验：与他处保存的回执一致，所述条目未被更改。") +
          "</p>\n";
    }
  }

  // The policy in force last, whole: what the site itself has said on what ground it exports.
  void Ground() {
    Section("Policy and legal ground", "策略与法律依据");
    std::string newest;
    size_t policies = 0;
    for (const auto& leaf : leaves_) {
      if (!Is(leaf, "policy")) continue;
      ++policies;
      newest = Word(leaf, "policy");
    }
    Text(
        fmt::format("The newest of {} policies in the ledger, whole; [ground] has the transfer "
                    "mechanism, the impact assessment and the consent basis as the site gave them.",
                    policies),
        "账本中最新的策略全文；[ground] 一节为站点填写的出境机制、影响评估与同意依据。");
    body_ += "<details open><summary>policy.toml</summary><pre>" + newest + "</pre></details>\n";
  }

  std::string Approvers(const ordered_json& intent) const {
    const auto it = approvals_.find(KeyOf(intent));
    if (it == approvals_.end()) return Both("by policy", "按策略");
    std::string names;
    for (const ordered_json* leaf : it->second) {
      if ((*leaf)["plaintext_sha256"] != intent["plaintext_sha256"]) continue;
      names += (names.empty() ? "" : ", ") + Word(*leaf, "approver");
    }
    return names;
  }

  void Exports() {
    Section("Exports", "出境明细");
    std::string rows;
    for (const auto& leaf : leaves_) {
      if (!Is(leaf, "intent")) continue;
      const auto receipt = receipts_.find(Word(leaf, "content"));
      rows +=
          Row({Word(leaf, "index"), Word(leaf, "time"), JobName(leaf), Word(leaf, "round"),
               Word(leaf, "values"), Word(leaf, "ciphertext_bytes"),
               fmt::format("{:.0f}", leaf["capacity_bits"].get<double>()),
               fmt::format("{:.4g}", leaf["l2_norm"].get<double>()), Approvers(leaf),
               ShortDigest(leaf, "plaintext_sha256"), ShortDigest(leaf, "content"),
               receipt == receipts_.end()
                   ? "<span class=\"bad\">" + Both("none", "无") + "</span>"
                   : Word(*receipt->second, "outcome") + " " + Word(*receipt->second, "accepted")});
    }
    Table({"#", Both("Time", "时间"), Both("Job", "任务"), Both("Round", "轮次"),
           Both("Numbers", "数值个数"), Both("Bytes", "字节"),
           Both("Most bits it could carry", "信息量上限（比特）"), Both("Norm", "范数"),
           Both("Released by", "放行人"), Both("Update", "更新"), Both("Ciphertext", "密文"),
           Both("Receipt", "回执")},
          rows);
  }

  // Which files went into which exports, and what came back: for a request to erase.
  void Lineage() {
    Section("Lineage", "数据沿革");
    Text(
        "Which records file stood behind which rounds, and the adapter versions that came after. "
        "Digests are SHA-256, as the trainer said when it opened the file.",
        "各记录文件对应的轮次，以及其后收到的适配器版本。摘要为训练进程打开文件时给出的 SHA-256。");
    std::string rows;
    for (size_t i = 0; i < leaves_.size(); ++i) {
      if (!Is(leaves_[i], "dataset")) continue;
      const std::string job = Word(leaves_[i], "job");
      std::string rounds, versions;
      for (size_t k = i + 1; k < leaves_.size(); ++k) {
        const ordered_json& leaf = leaves_[k];
        if (Word(leaf, "job") != job) continue;
        if (Is(leaf, "dataset")) break;
        if (Is(leaf, "intent")) rounds += Word(leaf, "round") + " ";
        if (Is(leaf, "adapter") && !rounds.empty()) versions += Word(leaf, "version") + " ";
      }
      rows += Row({Word(leaves_[i], "time"), JobName(leaves_[i]),
                   "<code>" + Word(leaves_[i], "records_sha256") + "</code>",
                   Word(leaves_[i], "records_bytes"), rounds, versions});
    }
    Table({Both("From", "自"), Both("Job", "任务"), Both("Records file", "记录文件"),
           Both("Bytes", "字节"), Both("Rounds exported", "出境轮次"),
           Both("Adapter versions after", "其后的适配器版本")},
          rows);
  }

  void Refusals() {
    Section("Refusals", "拒绝记录");
    std::string rows;
    for (const auto& leaf : leaves_) {
      if (!Is(leaf, "refusal")) continue;
      rows += Row({Word(leaf, "index"), Word(leaf, "time"), Word(leaf, "what"), JobName(leaf),
                   Word(leaf, "round"), Word(leaf, "rule"), Word(leaf, "reason")});
    }
    Table({"#", Both("Time", "时间"), Both("What", "对象"), Both("Job", "任务"),
           Both("Round", "轮次"), Both("Rule", "规则"), Both("Reason", "原因")},
          rows);
  }

  void Walls() {
    Section("Walls", "隔离措施");
    Text(
        "Of each process the newest isolation statement: what stood, and whether each thing that "
        "it "
        "must not be able to do was tried and refused.",
        "各进程最近一次隔离声明：已建立的隔离，以及禁止行为逐项尝试是否均被拒绝。");
    std::map<std::string, const ordered_json*> newest;
    for (const auto& leaf : leaves_) {
      if (Is(leaf, "isolation")) newest[Word(leaf, "process")] = &leaf;
    }
    std::string rows;
    for (const auto& [process, leaf] : newest) {
      std::string walls;
      size_t tries = 0, refused = 0;
      if (leaf->contains("walls")) {
        for (const auto& wall : (*leaf)["walls"]) {
          if (wall["state"] == "up") walls += Word(wall, "wall") + " ";
        }
        for (const auto& one : (*leaf)["tries"]) {
          ++tries;
          refused += one["verdict"] == "refused" ? 1 : 0;
        }
      }
      rows += Row({process, Word(*leaf, "time"), Word(*leaf, "kernel"), walls,
                   fmt::format("{} / {}", refused, tries), Word(*leaf, "pinned_address")});
    }
    Table({Both("Process", "进程"), Both("Since", "自"), Both("Kernel", "内核"),
           Both("Walls up", "已建立"), Both("Tries refused", "被拒绝的尝试"),
           Both("Only address", "唯一地址")},
          rows);
  }

  void Limits() {
    Section("What is not guaranteed", "不作保证的事项");
    Text(
        "An update is made from records and may carry information on them, up to the bits shown; "
        "encryption ends at the coordinator, which sees each update in clear. There is no "
        "differential privacy. Dataset digests are the trainer's own words. The ledger shows what "
        "this gate let out, not what other programs of the machine or people may have done. What a "
        "receipt does not cover are the entries after the head in it.",
        "更新由记录训练得出，可能携带不超过所示比特数的信息；加密止于协调方，协调方可见每份更新的明"
        "文。"
        "未实施差分隐私。数据集摘要为训练进程自述。账本仅表明本网关放行的内容，不涵盖本机其他程序或"
        "人员的行为。"
        "回执不覆盖其所含账本头之后的条目。");
  }

  const ordered_json& leaves_;
  const ordered_json& verification_;
  std::map<std::string, std::string> jobs_;                            // id → name
  std::map<std::string, const ordered_json*> receipts_;                // by content
  std::map<std::string, std::vector<const ordered_json*>> approvals_;  // by key
  std::string body_;
};

}  // namespace

std::string LedgerReport(const ordered_json& leaves, const ordered_json& verification) {
  return Report(leaves, verification).Html();
}

}  // namespace tidegate::cli
