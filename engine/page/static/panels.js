// The panels: each takes a part of the stream and shows it.

import { LineChart, short } from "./charts.js";
import { absent, at, bar, make, rows, share, span, stamp, sum } from "./elements.js";
import { FeaturePanel } from "./features.js";
import { showGroup } from "./group.js";

const HISTORY_MAX = 300; // moments, five minutes
const WINDOW_MS = 10_000; // for quantiles: buckets of a second hold too little
const LOSS_METRICS = { brier: "Brier", log: "LogLoss", zero_one: "Accuracy" }; // where the pipeline has them
const SERVED = "served";
const SERIES_COLOURS = 8;

/** Return a quantile of bucketed times in seconds, on a line within its bucket; null without any, or Infinity. */
export function quantile({ bounds, counts }, part) {
  const total = counts.reduce((a, b) => a + b, 0);
  if (!total) return null;
  let left = part * total;
  for (let place = 0; place < bounds.length; place += 1) {
    if (left <= counts[place]) {
      const from = place ? bounds[place - 1] : 0;
      return from + (bounds[place] - from) * (left / counts[place]);
    }
    left -= counts[place];
  }
  return Infinity; // beyond the last bucket: a replay of old events, mostly
}

const grown = (now, before) => ({
  bounds: now.bounds,
  counts: now.counts.map((count, place) => count - before.counts[place]),
});

export class Panels {
  constructor() {
    this.about = { alerts: [], explain: "headrace explain PIPELINE.py PREDICTION_ID" };
    this.history = [];
    this.colours = new Map([[SERVED, "ink"]]);
    this.marks = [];
    this.race = null;
    this.champion = "";
    this.time = "by_event_time";
    this.loss = new LineChart(at("loss"), { marks: true });
    this.rate = new LineChart(at("rate"), { yRange: (_, __, most) => [0, Math.max(1, most * 1.1)] });
    this.latency = new LineChart(at("latency"), { yRange: (_, __, most) => [0, Math.max(1, most * 1.1)] });
    this.features = new FeaturePanel();
    this.calibration = new LineChart(at("calibration"), { x: "score", yRange: () => [0, 1] });
    for (const choice of document.querySelectorAll("input[name=time]")) {
      choice.addEventListener("change", () => {
        this.time = choice.value;
        this.showCurves();
      });
    }
    at("record-close").addEventListener("click", () => at("record").close());
    at("record").addEventListener("click", (event) => {
      if (event.target === at("record")) at("record").close();
    });
  }

  /** Show one part of the stream. */
  show(event, part) {
    switch (event) {
      case "about": return this.showAbout(part);
      case "facts": return this.showFacts(part);
      case "marks": return this.showMarks(part);
      case "group": return showGroup(part, (title, record) => this.open(title, record));
      case "race": return this.showRace(part);
      case "features": return this.features.show(part);
      case "cells": return this.features.name(part);
      case "persons": return this.showPersons(part);
      case "slices": return this.showSlices(part);
      default: return undefined; // a newer worker says more
    }
  }

  colourOf(name) {
    if (!this.colours.has(name)) this.colours.set(name, `s${(this.colours.size - 1) % SERIES_COLOURS}`);
    return this.colours.get(name);
  }

  named(name) {
    const dot = make("span", { className: name === SERVED ? "dot dashed" : "dot", color: this.colourOf(name) });
    return [dot, name === SERVED ? "as served" : name];
  }

  open(title, record, command = "") {
    at("record-title").textContent = title;
    at("record-text").textContent = JSON.stringify(record, null, 2);
    at("record-command").replaceChildren(...(command ? ["in a terminal: ", make("code", {}, command)] : []));
    at("record").showModal();
  }

  // -- parts ------------------------------------------------------------------------------------------

  showAbout(about) {
    if (this.about.started_ms !== about.started_ms) this.history = [];
    this.about = about;
    document.title = `${about.pipeline} · Headrace`;
    at("pipeline").textContent = about.pipeline;
    at("race-hint").textContent = about.per
      ? `one race for each ${about.per}, told together`
      : `${about.loss}: mean of labelled events, lower is better`;
    at("footer").textContent =
      `Headrace ${about.version}, River ${about.river}, ${about.task}; up since ${stamp(about.started_ms)} UTC`;
    const topics = Object.entries(about.topics).map(([topic, role]) => `${role}: ${topic}`);
    at("footer").title = topics.join("\n");
    this.metric = about.task === "regression" ? "MAE" : LOSS_METRICS[about.objective];
  }

  showFacts(facts) {
    const last = this.history.at(-1);
    const answers = sum(facts.counts.predictions) - (facts.counts.predictions.again ?? 0);
    if (last && answers < last.answers) this.history = []; // another worker than before
    this.history.push({ ...facts, answers });
    if (this.history.length > HISTORY_MAX) this.history.shift();
    this.facts = facts;
    this.champion = facts.models.find((model) => model.alias === "champion")?.name ?? "";
    this.showStanding(facts);
    this.showTiles(facts);
    this.showField();
    this.showRates();
    this.showLag(facts);
    this.showLabels(facts);
    this.showAlerts(facts);
    this.showShift(facts.shift);
    this.letterCounts = facts.counts.dead_letters;
    this.showLetters();
  }

  showStanding(facts) {
    const chip = at("standing");
    chip.textContent = facts.ready ? "ready" : facts.standing;
    chip.className = `chip ${facts.ready ? "good" : "bad"}`;
    const flags = [
      [facts.leading, "leads", ""],
      [facts.ready && !facts.partitions, "standby", "warn"],
      [facts.paused, "learning paused", "warn"],
      [facts.pinned, "champion pinned", "warn"],
      [facts.champion_quarantined, "the prior answers", "bad"],
      [facts.store_outage_s > 0, `store away for ${span(facts.store_outage_s)}`, "bad"],
    ];
    at("flags").replaceChildren(
      ...flags.filter(([is]) => is).map(([, text, kind]) => make("span", { className: `chip ${kind}` }, text)),
    );
  }

  /** Return the moment about ten seconds before the last one. */
  before() {
    const now = this.history.at(-1).clock_ms;
    return this.history.findLast((one) => now - one.clock_ms >= WINDOW_MS) ?? this.history[0];
  }

  showTiles(facts) {
    const before = this.before();
    const now = this.history.at(-1);
    const seconds = Math.max(0.001, (now.clock_ms - before.clock_ms) / 1000);
    const joined = (one) => one.counts.labels.joined ?? 0;
    const window = now === before ? null : grown(now.end_to_end_s, before.end_to_end_s);
    const scoring = now === before ? null : grown(now.scoring_s, before.scoring_s);
    const per = (count) => (now === before ? null : count / seconds);
    const ms = (buckets, part) => {
      const value = buckets && quantile(buckets, part);
      return value === null ? null : value * 1000;
    };
    this.tiles([
      ["Answers", per(now.answers - before.answers), "/s"],
      ["Labels joined", per(joined(now) - joined(before)), "/s"],
      ["End to end p50", ms(window, 0.5), "ms"],
      ["End to end p99", ms(window, 0.99), "ms"],
      ["Scoring p99", ms(scoring, 0.99), "ms"],
      ["Lag", sum(facts.lag_by_topic), "records"],
      ["Learned", facts.examples, "examples"],
      ["Refused", sum(facts.counts.dead_letters), "records"],
    ]);
  }

  tiles(values) {
    at("tiles").replaceChildren(
      ...values.map(([name, value, unit]) =>
        tile(name, value, make("dt", { title: name }, name), make("dd", {}, ...(value === Infinity ? ["> 60 ", make("small", {}, "s")] : [short(value), " ", make("small", {}, unit)]))),
      ),
    );
  }

  // -- the race ---------------------------------------------------------------------------------------

  showRace(race) {
    this.race = race;
    this.showCurves();
    this.showField();
    this.showCalibration(race?.calibration ?? null);
  }

  showCurves() {
    const curve = this.race?.[this.time];
    const none = !curve?.times.length;
    absent("loss", none);
    at("loss-none").textContent = this.about.per
      ? `Each ${this.about.per} has a race of its own, and no curve stands for all; the table has the means.`
      : this.race === null
        ? "The leader has the curves: this worker serves its models."
        : "No curve yet: it begins with the first label that joins an answer.";
    if (none) return;
    const names = Object.keys(curve.series);
    const racing = new Set(this.facts?.models.map((model) => model.name));
    const series = names.map((name) => ({
      label: name === SERVED ? "as served" : name,
      color: this.colourOf(name),
      width: name === this.champion ? 2.25 : racing.has(name) ? 1.25 : 0.75,
      dash: name === SERVED ? [5, 3] : undefined,
    }));
    this.loss.show(series, [curve.times, ...names.map((name) => curve.series[name])]);
  }

  showField() {
    if (!this.facts) return;
    const { models, shares, scores } = this.facts;
    const told = Object.keys(scores.all[SERVED] ?? {});
    const metric = told.includes(this.metric) ? this.metric : told[0] ?? "";
    at("metric-all").textContent = metric;
    const leads = this.race?.leads ?? {};
    const reach = Math.max(...Object.values(leads).map(({ mean, lower, upper }) =>
      Math.max(Math.abs(mean), Math.abs(lower ?? mean), Math.abs(upper ?? mean)),
    ), 1e-9);
    const racing = models.map((model) => ({ ...model, racing: true }));
    const others = Object.keys(scores.all).filter((name) => name !== SERVED && !models.some((model) => model.name === name));
    const rows = [...racing, ...(models.length ? [] : others.map((name) => ({ name }))), { name: SERVED }];
    at("field").tBodies[0].replaceChildren(
      ...rows.map((row) => {
        const score = (window) => short(scores[window][row.name]?.[metric]);
        return make(
          "tr",
          { className: row.alias === "champion" ? "champion" : row.alias === "quarantined" ? "left" : "" },
          make("td", {}, ...this.named(row.name), row.alias === "challenger" || !row.alias ? "" : ` · ${row.alias}`),
          make("td", { className: "cut", title: row.class_name ?? "" }, row.racing ? `${row.class_name} v${row.version}` : ""),
          make("td", { className: "num" }, row.racing ? short(row.updates) : ""),
          make("td", { className: "num" }, score("all")),
          make("td", { className: "num" }, score("recent")),
          make("td", { className: "num" }, shareOf(row, shares)),
          make("td", { className: "lead" }, ...lead(leads[row.name], reach, this.colourOf(row.name))),
          make("td", {}, ...(leads[row.name] ? [bar(row.evidence, this.colourOf(row.name)), short(row.evidence)] : [])),
        );
      }),
    );
  }

  showMarks(marks) {
    this.marks = marks;
    absent("marks", !marks.length);
    const focused = document.activeElement?.dataset.number;
    at("marks").replaceChildren(...marks.toReversed().map((mark) => make("li", {}, this.markButton(mark))));
    at("marks").querySelector(`[data-number="${focused}"]`)?.focus();
    this.loss.setMarks(
      marks.map((mark) => ({
        x: mark.time,
        color: `m-${mark.kind}`,
        title: `${mark.type} ${mark.name}: ${mark.says}`,
        open: () => this.openMark(mark),
      })),
      this.about.wait_ms, // a decision lies at the time of a label, which may be so much later than its event
    );
  }

  markButton(mark) {
    const button = make(
      "button",
      {},
      make("span", { className: "dot", color: `m-${mark.kind}` }),
      make("span", { className: "what" }, make("span", {}, `${mark.type} `, mark.name), make("time", {}, stamp(mark.time))),
      make("span", { className: "why" }, mark.says),
    );
    button.dataset.number = mark.number;
    button.addEventListener("click", () => this.openMark(mark));
    return button;
  }

  openMark(mark) {
    this.open(`${mark.type} · ${mark.name}`, mark.record);
  }

  // -- the worker -------------------------------------------------------------------------------------

  showRates() {
    const times = [];
    const columns = [[], [], [], [], []];
    let from = 0;
    for (let place = 1; place < this.history.length; place += 1) {
      const [before, now] = [this.history[place - 1], this.history[place]];
      while (now.clock_ms - this.history[from + 1].clock_ms >= WINDOW_MS) from += 1;
      const seconds = Math.max(0.001, (now.clock_ms - before.clock_ms) / 1000);
      const window = grown(now.end_to_end_s, this.history[from].end_to_end_s);
      const scoring = grown(now.scoring_s, this.history[from].scoring_s);
      const ms = (value) => (value === null || value === Infinity ? null : value * 1000);
      times.push(now.now_ms);
      columns[0].push((now.answers - before.answers) / seconds);
      columns[1].push(((now.counts.labels.joined ?? 0) - (before.counts.labels.joined ?? 0)) / seconds);
      columns[2].push(ms(quantile(window, 0.5)));
      columns[3].push(ms(quantile(window, 0.99)));
      columns[4].push(ms(quantile(scoring, 0.99)));
    }
    this.rate.show(
      [{ label: "answers", color: "s0", width: 1.5 }, { label: "labels joined", color: "s1" }],
      [times, columns[0], columns[1]],
    );
    this.latency.show(
      [{ label: "p50", color: "s0", width: 1.5 }, { label: "p99", color: "s1" }, { label: "scoring p99", color: "s7" }],
      [times, ...columns.slice(2)],
    );
  }

  showLag(facts) {
    absent("lag", !facts.lag.length);
    const most = Math.max(1, ...facts.lag.map(([, , records]) => records));
    at("lag").tBodies[0].replaceChildren(
      ...facts.lag.map(([topic, partition, records]) =>
        make(
          "tr",
          {},
          make("td", { className: "cut", title: topic }, topic),
          make("td", { className: "num" }, `${partition}`),
          make("td", {}, bar(records / most, records ? "s1" : "s0")),
          make("td", { className: "num" }, short(records)),
        ),
      ),
    );
  }

  showLabels(facts) {
    const { labels, aged, aged_labelled: labelled } = facts.counts;
    const median = quantile(facts.label_delay_s, 0.5);
    at("labels-hint").textContent = median === null ? "none yet" : median === Infinity ? "over a month late" : `median delay ${span(median)}, in event time`;
    const { bounds, counts } = facts.label_delay_s;
    const total = Math.max(1, counts.reduce((a, b) => a + b, 0));
    at("delay").replaceChildren(
      rows(counts.map((count, place) => [
        place < bounds.length ? `≤ ${span(bounds[place])}` : "later", count / total, short(count), "s0",
      ])),
    );
    at("completeness").replaceChildren(
      rows(Object.keys(aged).sort((a, b) => a - b).map((age) => [
        `by ${100 * age} % of wait`,
        aged[age] ? labelled[age] / aged[age] : 0,
        aged[age] ? share(labelled[age] / aged[age]) : "–",
        "s3",
      ])),
    );
    const fates = Object.entries(labels).filter(([, count]) => count);
    at("label-fates").textContent = fates.map(([fate, count]) => `${fate} ${short(count)}`).join(" · ");
  }

  showAlerts(facts) {
    absent("alerts", !this.about.alerts.length);
    const firing = sum(facts.firing);
    at("alerts-hint").textContent = firing ? `${firing} firing, told by this worker` : "none fires that this worker tells of";
    at("alerts").tBodies[0].replaceChildren(
      ...this.about.alerts
        .map((alert) => ({ ...alert, firing: facts.firing[alert.policy] ?? 0 }))
        .sort((a, b) => b.firing - a.firing)
        .map(({ policy, severity, firing }) =>
          make(
            "tr",
            {},
            make("td", {}, make("span", { className: "dot", color: firing ? "bad" : "good" }), policy),
            make("td", {}, severity),
            make("td", { className: "num" }, firing ? `${firing} firing` : "well"),
          ),
        ),
    );
  }

  showShift(shift) {
    absent("shift", !shift);
    if (!shift) return;
    at("shift-hint").textContent = shift.verdict
      ? `${shift.verdict.replaceAll("_", " ")} lasts`
      : `no verdict; evidence ${short(shift.evidence)} of 1`;
    const compared = Object.keys(shift.unusual).length;
    if (!compared) at("shift-hint").textContent = "watched; no block of event time was compared yet";
    const unusual = Object.entries(shift.unusual).sort(([, a], [, b]) => b - a).slice(0, 10);
    at("shift").replaceChildren(
      rows(unusual.map(([name, score]) => [ // below 0 is closer to the reference than usual
        name.replace("feature:", ""), score / 6, `${short(score)} σ`, score >= 3 ? "warn" : "s0",
      ])),
    );
  }

  showCalibration(calibration) {
    const told = Object.entries(calibration ?? {}).filter(([, one]) => one.curve.length);
    absent("calibration", !told.length);
    if (!told.length) return;
    at("calibration-hint").textContent =
      `error ${short(told[0][1].calibration_error)}, recent ${short(told[0][1].recent_calibration_error)}`;
    const scores = [...new Set([0, 1, ...told.flatMap(([, one]) => one.curve.map((bin) => bin.mean_score))])].sort((a, b) => a - b);
    const column = (curve) => {
      const known = new Map(curve.map((bin) => [bin.mean_score, bin.label_rate]));
      return scores.map((score) => known.get(score) ?? null);
    };
    this.calibration.show(
      [
        { label: "ideal", color: "soft", dash: [2, 3], width: 1 },
        ...told.map(([name]) => ({
          label: name === SERVED ? "as served" : name,
          color: this.colourOf(name),
          width: name === SERVED ? 2 : 1,
          points: name === SERVED,
        })),
      ],
      [scores, scores, ...told.map(([, one]) => column(one.curve))],
    );
  }

  // -- persons ----------------------------------------------------------------------------------------

  showPersons({ answers, letters }) {
    this.letters = letters;
    this.showLetters();
    absent("answers", !answers.length);
    const table = at("answers");
    const held = table.matches(":hover, :focus-within");
    at("last-hint").textContent = held ? "held while you are in it" : "newest first; an event opens its answer";
    if (held) return;
    table.tBodies[0].replaceChildren(...answers.map((one) => this.answerRow(one)));
  }

  answerRow({ key, answer, scores }) {
    const button = make("button", { title: answer.event_id }, answer.event_id);
    button.addEventListener("click", () =>
      this.open(`Answer to ${answer.event_id}`, { key, ...answer, candidates: scores }, this.about.explain.replace("PREDICTION_ID", answer.prediction_id)),
    );
    const flags = [answer.late && "late", answer.cold_start && "cold", answer.abstain && "abstains"].filter(Boolean);
    return make(
      "tr",
      {},
      make("td", {}, button),
      make("td", { className: "cut", title: key }, key),
      make("td", {}, stamp(answer.event_time)),
      make("td", {}, ...this.named(answer.model_name), answer.served_by === "champion" ? "" : ` · ${answer.served_by}`),
      make("td", { className: "num cut", title: scoreText(answer.prediction_score) }, scoreText(answer.prediction_score)),
      make("td", { className: "cut", title: labelText(answer.prediction_label) }, labelText(answer.prediction_label), ...flags.map((flag) => ` · ${flag}`)),
      make("td", { className: "says" }, Object.entries(scores).map(([name, score]) => `${name} ${scoreText(score)}`).join(" · ")),
    );
  }

  showLetters() {
    const counts = Object.entries(this.letterCounts ?? {}).filter(([, count]) => count);
    absent("letters", !counts.length);
    const last = new Map((this.letters ?? []).map((letter) => [letter.stage, letter]));
    at("letters").tBodies[0].replaceChildren(
      ...counts.flatMap(([stage, count]) => {
        const letter = last.get(stage);
        return [
          make(
            "tr",
            {},
            make("td", {}, make("span", { className: "dot", color: "warn" }), stage),
            make("td", { className: "num" }, short(count)),
            make("td", { className: "says" }, letter ? letter.message : "the token shows why"),
          ),
          ...(letter ? [make("tr", {}, make("td", { className: "sample", colSpan: 3 },
            `${letter.topic}:${letter.partition}:${letter.offset}  ${letter.sample}`))] : []),
        ];
      }),
    );
  }

  showSlices(slices) {
    const bodies = Object.entries(slices).flatMap(([by, values]) =>
      Object.entries(values).map(([value, figures]) => {
        const served = figures[SERVED] ?? Object.values(figures)[0] ?? {};
        const { rows: count, ...others } = served;
        const [name, figure] = Object.entries(others)[0] ?? ["", null];
        return { by, value, count, name, figure };
      }),
    );
    absent("slices", !bodies.length);
    at("slices-hint").textContent = bodies.length ? `${bodies[0].name} as served` : "";
    at("slices").tBodies[0].replaceChildren(
      ...bodies.map(({ by, value, count, figure }) =>
        make(
          "tr",
          {},
          make("td", {}, by),
          make("td", { className: "cut", title: value }, value),
          make("td", { className: "num" }, short(count)),
          make("td", { className: "num" }, short(figure)),
        ),
      ),
    );
  }
}

function tile(name, value, ...children) {
  const element = make("div", {}, ...children);
  element.dataset.name = name;
  element.dataset.value = value;
  return element;
}

function shareOf(row, shares) {
  if (!row.racing) return "";
  if (row.name in shares) return share(shares[row.name]);
  if (Object.keys(shares).length) return "";
  return row.alias === "champion" ? "100 %" : "";
}

function scoreText(score) {
  if (score === null || score === undefined) return "–";
  if (typeof score === "number") return numberText(score);
  const [label, chance] = Object.entries(score).sort(([, a], [, b]) => b - a)[0] ?? ["–", 0];
  return `${label} ${chance.toFixed(2)}`;
}

const numberText = (value) => (Math.abs(value) < 100 ? value.toFixed(3) : String(Number(value.toPrecision(6))));
const labelText = (label) => (typeof label === "number" ? numberText(label) : `${label ?? "–"}`);

/** Return how far a challenger is ahead: a mean, its interval on a line whose middle is 0, and words. */
function lead(told, reach, color) {
  if (!told) return [];
  const place = (value) => `${50 + (50 * value) / reach}%`;
  const line = make("span", { className: "span", color });
  const point = make("b");
  point.style.left = place(told.mean);
  if (told.lower !== null) {
    const reachLine = make("i");
    reachLine.style.left = place(told.lower);
    reachLine.style.right = `${50 - (50 * told.upper) / reach}%`;
    line.append(reachLine);
  }
  line.append(point);
  line.title = `${told.blocks} blocks, ${told.examples} examples`;
  const bounds = told.lower === null ? "too few blocks" : `[${signed(told.lower)}, ${signed(told.upper)}]`;
  return [line, `${signed(told.mean)} `, make("span", { className: "hint" }, bounds)];
}

function signed(value) {
  return `${value > 0 ? "+" : ""}${short(value)}`;
}
