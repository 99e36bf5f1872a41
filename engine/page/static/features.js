// Features: the distribution of each now beside the reference, and how it has shifted, as small drawings.

import { short } from "./charts.js";
import { absent, at, draw, make, share, stamp } from "./elements.js";

const WIDTH = 132; // of the drawing's own units: it is stretched to its column
const HEIGHT = 30;
const UNUSUAL = 3; // normal scores: the line from which on a block is out of the usual

export class FeaturePanel {
  constructor() {
    this.told = null;
    this.cells = {};
  }

  /** Take what lies in the cells: who may not see values of events gets none, and sees the shares alone. */
  name(cells) {
    this.cells = cells;
    if (this.told) this.show(this.told);
  }

  show(part) {
    this.told = part;
    const { declared, told } = part;
    const features = told?.features ?? [];
    absent("features", !features.length);
    at("features-none").textContent = !declared
      ? "Not watched: with watch=Watch() in the pipeline each feature is compared with a reference."
      : told === null
        ? "The leader has the features: this worker serves its models."
        : `The reference has ${told.reference} of ${told.reference_blocks} blocks; features are compared when it is complete.`;
    const hints = [];
    if (features.length) hints.push(`block until ${stamp(told.end_ms).slice(0, 16)} beside the reference, the most unusual first`);
    if (features.length && told.left_out) hints.push(`${told.left_out} more not shown`);
    at("features-hint").textContent = hints.join(" · ");
    at("features").tBodies[0].replaceChildren(...features.map((one) => this.row(one)));
  }

  row({ name, now, usual, shift }) {
    const last = shift.at(-1) ?? null;
    const far = last !== null && last >= UNUSUAL;
    return make(
      "tr",
      { className: far ? "far" : "" },
      make("td", { className: "cut", title: name }, name),
      make("td", {}, pair(name, now, usual, this.cells[name] ?? [])),
      make("td", { className: "num" }, now ? share(now.missing) : "–", make("span", { className: "hint" }, ` of ${share(usual.missing)}`)),
      make("td", { className: "num odd" }, now ? share(now.odd) : "–"),
      make("td", { className: "num" }, last === null ? "–" : `${short(last)} σ`),
      make("td", {}, spark(name, shift)),
    );
  }
}

/** Return a histogram: the reference as wide bars, what is now as narrow ones before them. */
function pair(name, now, usual, names) {
  const count = usual.cells.length;
  const most = Math.max(1e-9, ...usual.cells, ...(now?.cells ?? []));
  const step = WIDTH / count;
  const bars = (cells, kind, wide) =>
    cells.map((part, place) => {
      const height = (part / most) * (HEIGHT - 2);
      return draw("rect", {
        class: kind, x: (place + (1 - wide) / 2) * step, y: HEIGHT - height, width: wide * step, height,
      });
    });
  const furthest = now ? now.cells.map((part, place) => [Math.abs(part - usual.cells[place]), place]).sort(([a], [b]) => b - a)[0] : null;
  const says = furthest
    ? `${name}: ${names[furthest[1]] ?? `cell ${furthest[1] + 1} of ${count}`} has ${share(now.cells[furthest[1]])} now, ${share(usual.cells[furthest[1]])} in the reference`
    : `${name}: no block since the last verdict`;
  const titles = usual.cells.map((part, place) => {
    const area = draw("rect", { class: "area", x: place * step, y: 0, width: step, height: HEIGHT });
    area.append(draw("title"));
    area.firstChild.textContent = `${names[place] ?? `cell ${place + 1} of ${count}`}: ${now ? share(now.cells[place]) : "–"} now, ${share(part)} in the reference`;
    return area;
  });
  return drawing(
    says,
    ...bars(usual.cells, "usual", 0.92),
    ...bars(now?.cells ?? [], "now", 0.46),
    ...titles,
  );
}

/** Return the shift of the last blocks as a line, with the bound of what is usual. */
function spark(name, shift) {
  const known = shift.filter((one) => one !== null);
  const most = Math.max(UNUSUAL * 1.4, ...known);
  const least = Math.min(0, ...known);
  const y = (value) => 2 + ((most - value) / (most - least)) * (HEIGHT - 4);
  const x = (place) => (shift.length > 1 ? (place / (shift.length - 1)) * (WIDTH - 6) + 3 : WIDTH / 2);
  const points = shift.flatMap((one, place) => (one === null ? [] : [`${x(place).toFixed(1)},${y(one).toFixed(1)}`]));
  const [left, top] = points.at(-1)?.split(",") ?? [];
  return drawing(
    `${name}: shift of ${known.length} blocks, ${known.length ? short(known.at(-1)) : "none"} last`,
    draw("line", { class: "bound", x1: 0, x2: WIDTH, y1: y(UNUSUAL), y2: y(UNUSUAL) }),
    draw("polyline", { points: points.join(" ") }),
    ...(left ? [draw("line", { class: "end", x1: left, x2: left, y1: top, y2: top })] : []),
  );
}

function drawing(says, ...parts) {
  const box = { class: "drawn", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" };
  return draw("svg", { ...box, role: "img", "aria-label": says }, ...parts);
}
