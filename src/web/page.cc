#include "web/page.h"

namespace tidegate::web {

const std::string_view kPageHtml = R"html(<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tidegate coordinator</title>
<link rel="stylesheet" href="/style.css">
<script src="/chart.js"></script>
<script src="/page.js" defer></script>
</head>
<body>
<header>
<h1>Tidegate coordinator <span id="name"></span></h1>
<p id="state" role="status">reading …</p>
</header>
<main>
<section>
<h2>Jobs</h2>
<table id="jobs"><thead><tr><th>Job</th><th>State</th><th>Version</th><th>Open round</th><th>Updates in</th><th>Deadline</th><th>Received since the start</th></tr></thead><tbody></tbody></table>
</section>
<section id="charts">
<figure><figcaption>Loss, mean of the round's sites <span class="of"></span></figcaption><canvas id="loss" height="220"></canvas></figure>
<figure><figcaption>Bytes received, by round <span class="of"></span></figcaption><canvas id="bytes" height="220"></canvas></figure>
</section>
<section>
<h2>Rounds <span class="of"></span></h2>
<table id="rounds"><thead><tr><th>Round</th><th>Opened</th><th>Seconds</th><th>Updates</th><th>Bytes</th><th>Train loss</th><th>Held-out loss</th></tr></thead><tbody></tbody></table>
</section>
<section>
<h2>Sites</h2>
<table id="sites"><thead><tr><th>Site</th><th>Connected</th><th>Last heard</th><th>Received since the start</th><th>Refused</th><th>Key</th></tr></thead><tbody></tbody></table>
</section>
</main>
</body>
</html>
)html";

const std::string_view kPageCss = R"css(
:root { color-scheme: light dark; --line: #8885; --good: #1a7f37; --bad: #b42318; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem 1.5rem 3rem; }
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
#state { color: #777; margin: .2rem 0 0; } #state.stale { color: var(--bad); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem .3rem 0; text-align: left; }
th { font-weight: 600; }
td.yes { color: var(--good); } td.no { color: var(--bad); }
code { font-size: .85em; }
#charts { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); margin-top: 1.2rem; }
figure { margin: 0; min-width: 0; } figcaption { margin-bottom: .3rem; }
.of { color: #777; font-weight: normal; }
.nochart { border: 1px dashed var(--line); color: #777; padding: 1rem; }
)css";

const std::string_view kPageJs = R"js("use strict";
const every = 2000;
const charts = {};

function bytes(n) {
  if (n === 0) return "0";
  const units = ["B", "kB", "MB", "GB", "TB"];
  const i = Math.min(units.length - 1, Math.floor(Math.log10(n) / 3));
  return (n / 1000 ** i).toFixed(i === 0 ? 0 : 1) + " " + units[i];
}

function fill(id, rows) {
  const body = document.querySelector("#" + id + " tbody");
  body.replaceChildren(...rows.map(cells => {
    const row = document.createElement("tr");
    for (const cell of cells) {
      const td = document.createElement("td");
      const [text, kind] = Array.isArray(cell) ? cell : [cell, ""];
      td.textContent = text;
      if (kind) td.className = kind;
      row.append(td);
    }
    return row;
  }));
}

function draw(id, type, labels, series) {
  const canvas = document.getElementById(id);
  if (!canvas) return;
  if (typeof Chart === "undefined") {
    const note = document.createElement("p");
    note.className = "nochart";
    note.textContent = "No chart: Chart.js is not installed on the coordinator (package libjs-chart.js).";
    canvas.replaceWith(note);
    return;
  }
  const colours = ["#2f6fde", "#d9822b"];
  const datasets = series.map(([label, data], i) => ({
    label, data, spanGaps: true, borderColor: colours[i], backgroundColor: colours[i] + "99", pointRadius: labels.length > 40 ? 0 : 3,
  }));
  if (charts[id]) {
    charts[id].data = { labels, datasets };
    charts[id].update("none");
  } else {
    charts[id] = new Chart(canvas, {
      type, data: { labels, datasets },
      options: { animation: false, scales: { x: { title: { display: true, text: "round" } }, y: { beginAtZero: id === "bytes" } } },
    });
  }
}

function show(status) {
  document.getElementById("name").textContent = status.federation.name;
  fill("jobs", status.jobs.map(job => {
    const round = job.open_round || {};
    return [job.name, [job.state, job.state === "stopped" ? "no" : ""], job.version + " of " + job.rounds, round.round ?? "",
            round.accepted ? round.accepted.length + " of " + job.sites.length : "", round.deadline ?? "", bytes(job.bytes_in)];
  }));
  fill("sites", status.sites.map(site => [site.name, site.connected ? ["yes", "yes"] : ["no", "no"], site.seen || "not since the start",
                                          bytes(site.bytes_in), site.refused, site.fingerprint.slice(0, 16)]));
  const job = status.jobs.at(-1);
  for (const of of document.querySelectorAll(".of")) of.textContent = job ? "of " + job.name : "";
  const rounds = job ? job.history : [];
  fill("rounds", rounds.slice(-20).reverse().map(r => [r.round, r.opened, r.seconds ?? "", r.updates, bytes(r.bytes), r.train_loss ?? "", r.heldout_loss ?? ""]));
  const labels = rounds.map(r => r.round);
  draw("loss", "line", labels, [["training", rounds.map(r => r.train_loss)], ["held-out, at the round's start", rounds.map(r => r.heldout_loss)]]);
  draw("bytes", "bar", labels, [["bytes", rounds.map(r => r.bytes)]]);
}

async function look() {
  const state = document.getElementById("state");
  try {
    const answer = await fetch("/api/status", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const status = await answer.json();
    show(status);
    state.textContent = "as of " + status.time;
    state.className = "";
    document.body.dataset.ready = "yes";
  } catch (error) {
    state.textContent = "no answer from the coordinator (" + error.message + "); what is shown is old";
    state.className = "stale";
  }
  setTimeout(look, every);
}
look();
)js";

}  // namespace tidegate::web
