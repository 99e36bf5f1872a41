// Charts: uPlot with the page's colours, axes and marks.  Nothing here knows what is drawn.

/* global uPlot */

const AXIS_FONT = "11px system-ui, sans-serif";

/** Return a colour of the style sheet as of now: it differs between the light and the dark scheme. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Return a number for people: three significant digits, thousands as k, M, G. */
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= unit) return `${trimmed(value / (letter === "k" ? 1e3 : unit))}${letter}`;
  }
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return size >= 1 || size === 0 ? trimmed(value) : value.toPrecision(size < 1e-3 ? 2 : 3);
}

function trimmed(value) {
  return String(Number(value.toPrecision(3)));
}

/** Return a tick of a value axis: no more digits than it has. */
function tick(value) {
  return Math.abs(value) >= 1e4 ? short(value) : String(Number(value.toPrecision(6)));
}

/** Return what writes times that are `step` ms apart, in UTC. */
function clock(step) {
  const options = step >= 86_400_000 ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit" };
  if (step < 60_000) options.second = "2-digit";
  else if (step >= 3_600_000) options.day = "numeric";
  const format = new Intl.DateTimeFormat("en", { ...options, hourCycle: "h23", timeZone: "UTC" });
  return (ms) => format.format(ms);
}

function axis(options = {}) {
  return {
    stroke: () => colour("soft"),
    font: AXIS_FONT,
    grid: { stroke: () => colour("grid"), width: 1 },
    ticks: { show: false },
    gap: 3,
    ...options,
  };
}

/**
 * One line chart in an element; its width is the element's.
 *
 * `series` are {label, color, width, dash}, each drawn in the style sheet's colour of that name; `x` is
 * "time" or a number.  `value` writes a value for the legend.
 */
export class LineChart {
  constructor(element, { x = "time", value = short, legend = true, yRange, marks = false } = {}) {
    this.element = element;
    this.options = { x, value, legend, yRange };
    this.key = "";
    this.plot = null;
    this.marks = marks ? [] : null;
    this.beyond = 0;
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.plot?.redraw(false));
  }

  size() {
    return { width: Math.max(160, this.element.clientWidth), height: Number(this.element.dataset.height) };
  }

  /** Show columns, the first of them x; built anew only where the series are others. */
  show(series, columns) {
    const key = JSON.stringify(series);
    if (key === this.key) {
      this.plot.setData(columns);
    } else {
      this.key = key;
      this.plot?.destroy();
      this.plot = new uPlot(this.built(series), columns, this.element);
    }
    this.placeMarks();
  }

  built(series) {
    const { x, value, legend, yRange } = this.options;
    return {
      ...this.size(),
      ms: 1,
      tzDate: (ms) => uPlot.tzDate(new Date(ms), "Etc/UTC"),
      legend: { show: legend, live: legend },
      cursor: { y: false, points: { size: 5 } },
      scales: { x: { time: x === "time", range: (plot, from, to) => this.reached(plot, from, to) }, ...(yRange && { y: { range: yRange } }) },
      axes: [
        axis({ size: 22, space: 80, ...(x === "time" && { values: (_, ticks, __, ___, step) => ticks.map(clock(step)) }) }),
        axis({ size: 42, space: 34, values: (_, ticks) => ticks.map(tick) }),
      ],
      series: [
        { label: x === "time" ? "UTC" : x, ...(x !== "time" && { value: (_, one) => short(one) }) },
        ...series.map((one) => ({
          label: one.label,
          stroke: () => colour(one.color),
          width: one.width ?? 1.25,
          dash: one.dash,
          spanGaps: true,
          points: { show: one.points ?? false, size: 5, fill: () => colour(one.color) },
          value: (_, shown) => (shown === null || shown === undefined ? "–" : value(shown)),
        })),
      ],
      hooks: { setScale: [() => this.placeMarks()], setSize: [() => this.placeMarks()], drawAxes: [(u) => this.drawMarks(u)] },
    };
  }

  /** Set the marks: {x, color, title, open}; one up to `beyond` behind the last point is shown, too. */
  setMarks(marks, beyond) {
    this.marks = marks;
    this.beyond = beyond;
    this.plot?.setData(this.plot.data);
    this.placeMarks();
  }

  /** Return the range of x: that of the points and of the marks behind them, but for a part that was chosen. */
  reached(plot, from, to) {
    if (from === null || to === null) return [from, to];
    const last = plot.data[0].at(-1);
    const marked = (this.marks ?? []).map((mark) => mark.x).filter((x) => x > last && x <= last + this.beyond);
    const end = to === last ? Math.max(to, ...marked) : to;
    return from === end ? [from - 1, end + 1] : [from, end];
  }

  drawMarks(plot) {
    const { ctx, bbox } = plot;
    for (const mark of this.seen(plot)) {
      const left = Math.round(plot.valToPos(mark.x, "x", true)) + 0.5;
      ctx.save();
      ctx.strokeStyle = colour(mark.color);
      ctx.globalAlpha = 0.6;
      ctx.lineWidth = devicePixelRatio;
      ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(left, bbox.top);
      ctx.lineTo(left, bbox.top + bbox.height);
      ctx.stroke();
      ctx.restore();
    }
  }

  /** Put a button at the head of each mark's line; the list of marks has the same for the keyboard. */
  placeMarks() {
    if (!this.marks || !this.plot?.over) return;
    const buttons = this.seen(this.plot).map((mark) => {
      const button = document.createElement("button");
      button.className = "mark";
      button.tabIndex = -1;
      button.title = mark.title;
      button.setAttribute("aria-label", mark.title);
      button.style.left = `${this.plot.valToPos(mark.x, "x")}px`;
      button.style.setProperty("--color", `var(--${mark.color})`);
      button.addEventListener("mousedown", (event) => event.stopPropagation());
      button.addEventListener("click", mark.open);
      return button;
    });
    this.plot.over.querySelectorAll(".mark").forEach((button) => button.remove());
    this.plot.over.append(...buttons);
  }

  seen(plot) {
    const { min, max } = plot.scales.x;
    return (this.marks ?? []).filter((mark) => mark.x >= min && mark.x <= max);
  }
}
