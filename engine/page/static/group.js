// The group: every worker of the pipeline as it says of itself, and the sums of those that are there.

import { short } from "./charts.js";
import { absent, at, make, span } from "./elements.js";

const COLUMNS = ["worker", "says", "partitions", "answers/s", "labels/s", "refused/s", "scoring p99", "end to end p50", "p99", "lag", "serves", "checkpoint"];

/** Show the workers; `open` shows a record. */
export function showGroup({ self, trouble, partitions, workers, totals }, open) {
  absent("workers", !workers.length);
  at("group-trouble").hidden = !trouble;
  at("group-trouble").textContent = trouble && `The others do not hear of this worker, nor it of them: ${trouble}`;
  at("group-hint").textContent = [
    `${totals.ready} of ${totals.workers} ${totals.workers === 1 ? "worker" : "workers"} ready`,
    `${totals.partitions} of ${partitions} partitions owned`,
    `${short(totals.answered_per_s)} answers/s`,
    `lag ${short(totals.lag_records)}`,
  ].join(" · ");
  const table = at("workers");
  const focused = document.activeElement?.dataset.worker;
  table.tHead.replaceChildren(
    make("tr", {}, ...COLUMNS.map((name, place) => make("th", { className: place > 1 && place < 10 ? "num" : "" }, name))),
  );
  table.tBodies[0].replaceChildren(...workers.map((one) => row(one, self, open)));
  if (focused) [...table.querySelectorAll("button")].find((one) => one.dataset.worker === focused)?.focus();
}

function row({ status, gone, silent_ms: silent }, self, open) {
  const button = make("button", { title: `${status.worker}: its record` }, status.worker);
  button.dataset.worker = status.worker;
  button.addEventListener("click", () => open(`Worker ${status.worker}`, status));
  const number = (value) => make("td", { className: "num" }, gone ? "" : value);
  const ms = (value) => number(value === undefined ? "–" : `${short(value)} ms`);
  return make(
    "tr",
    { className: gone ? "left" : "" },
    make("td", {}, make("span", { className: "dot", color: gone ? "bad" : status.ready ? "good" : "warn" }), button, status.worker === self ? " · this one" : ""),
    make("td", { className: "cut", title: status.standing ?? "" }, ...says(status, gone, silent)),
    number(short(status.partitions ?? 0)),
    number(short(status.answered_per_s ?? 0)),
    number(short(status.labelled_per_s ?? 0)),
    number(short(status.refused_per_s ?? 0)),
    ms(status.scoring_p99_ms),
    ms(status.end_to_end_p50_ms),
    ms(status.end_to_end_p99_ms),
    number(short(status.lag_records ?? 0)),
    make("td", { className: "cut", title: Object.entries(status.models ?? {}).map(([name, version]) => `${name} ${version}`).join("\n") },
      status.champion ? `${status.champion} ${status.models?.[status.champion] ?? ""}` : ""),
    make("td", {}, gone || status.checkpoint_age_ms === undefined ? "" : `${span(status.checkpoint_age_ms / 1000)} ago`),
  );
}

function says(status, gone, silent) {
  if (gone) return [make("b", { className: "bad" }, "gone"), ` · silent for ${span(silent / 1000)}`];
  const alerts = Object.values(status.alerts ?? {}).reduce((total, one) => total + one, 0);
  return [
    [status.leading && "leads", status.paused && "paused", alerts && `${alerts} alerts`, status.ready ? (status.standing ?? "").replace(/^ok: /, "") : status.standing]
      .filter(Boolean)
      .join(" · "),
  ];
}
