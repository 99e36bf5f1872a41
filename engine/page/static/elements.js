// Elements: what panels are made of.  Everything shown is text, never markup.

import { short } from "./charts.js";

export const at = (id) => document.getElementById(id);

/** Return an element with properties and children; strings become text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  const { color, ...plain } = properties;
  Object.assign(element, plain);
  if (color) element.style.setProperty("--color", `var(--${color})`);
  element.append(...children);
  return element;
}

/** Show text instead of a panel's content where there is none. */
export function absent(id, none) {
  at(`${id}-none`).hidden = !none;
  at(id).hidden = none;
}

export const sum = (counts) => Object.values(counts ?? {}).reduce((total, one) => total + one, 0);
export const share = (value) => `${short(100 * value)} %`;
export const bar = (part, color) => {
  const inner = make("i", { color });
  inner.style.width = `${100 * Math.min(1, Math.max(0, part))}%`;
  return make("span", { className: "bar" }, inner);
};

/** Return a time of the logs for a table: UTC, without what it shares with all. */
export function stamp(ms) {
  return new Date(ms).toISOString().replace("T", " ").slice(0, 19);
}

/** Return a span of time in one unit. */
export function span(seconds) {
  for (const [unit, size] of [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]]) {
    if (seconds >= size) return `${short(seconds / size)} ${unit}`;
  }
  return `${short(seconds * 1000)} ms`;
}

/** Return an element of a drawing with attributes and children. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Return a table of named bars. */
export function rows(told) {
  return make(
    "div",
    { className: "rows" },
    ...told.flatMap(([name, part, text, color]) => [
      make("span", { title: name }, name), bar(part, color), make("span", {}, text),
    ]),
  );
}
