"""The way of a usual event through one key group, written out as one straight function.

Lives here: the text of the functions that enter an event and read its windows in one go, and their
compilation.  Never here: what is kept (`windows.py`), reading a log for any other event (`kernels.py`).

Usual: in order, of a key with an index, not late, nothing missing, numbers that fit the column's
`Split`.  Everything is checked before anything is changed; any other event is left to the caller.

Strategy: a call, an attribute and a store in a dict cost as much as an aggregate, so there is one loop
over a run of events, values stay in local names, and the feature dict is built by one display.
Windows start where they started for the last event or later, so each entry is passed once per window
instead of being searched for.  For `count` and `sum` of one column over one hour the loop's heart is

    times.append(time)
    values.append(v0)
    high0 += sums0[end + end]; sums0.append(high0)          # exact prefix sums, see exact.py
    low0 += sums0[end + end + 1]; sums0.append(low0)
    horizon = time - 3600000
    if times[s0] <= horizon:
        s0 += 1
        while times[s0] <= horizon: s0 += 1
        starts[0] = s0
    c0 = end + 1 - s0
    t0_0 = (high0 - sums0[s0 + s0]) + (low0 - sums0[s0 + s0 + 1])
    out = {'n': c0, 'sum': t0_0}

All values are equal to the bit to those of `kernels.py`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from math import sqrt
from typing import Any, Final, NamedTuple

from operators.calculation import NOTHING
from operators.exact import SCALE, UNIT, VALUE_MAX, VALUE_MIN, variance
from operators.kernels import Target, kinds_of, written_out

__all__ = ["Layout", "Output", "compile_enter", "compile_run", "hot_parts"]

_NAMES: Final = {
    "SCALE": SCALE,
    "UNIT": UNIT,
    "VALUE_MAX": VALUE_MAX,
    "VALUE_MIN": VALUE_MIN,
    "bisect_left": bisect_left,
    "bisect_right": bisect_right,
    "repeat": repeat,
    "sqrt": sqrt,
    "variance": variance,
}
_SUMMED: Final = {"sum", "mean", "var", "std"}


class Layout(NamedTuple):
    """What a group keeps and which aggregates it has, all with the event itself in its windows."""

    columns: tuple[str | None, ...]
    targets: tuple[Target, ...]
    is_sparse: bool

    @property
    def widths_ms(self) -> tuple[int, ...]:
        """Return the widths of the windows, the longest first."""
        return tuple(sorted({target.aggregate.window_ms for target in self.targets}, reverse=True))


class Output(NamedTuple):
    """How a run's feature dicts are made."""

    template: Mapping[Any, Any]
    """Every name in the order of the definition, with its default or None."""
    fields: Mapping[str, str]
    """Features that are a field as it came: name -> field."""
    key_field: str | None
    """The field that is the key; None: ask `key_of`."""
    key_of: Callable[[Any], str]
    row_of: Callable[[Any], tuple[Any, ...]]
    later: Sequence[tuple[str, Callable[..., Any]]]
    """What is calculated from the dict."""
    inner: Sequence[int]
    """Names to be taken out at the end."""
    looks_up: bool
    """Whether `later` wants values of a store."""


def compile_enter(layout: Layout, names: Mapping[str, Any]) -> Callable[..., bool]:
    """Return `enter(key, log, time, mark, row, out)`: whether the event was usual, and is done.

    `names` has `changed`, `idle`, `logs`, `make_room` and `quick` of the group's `Windows`, and itself.
    """
    row = "".join(f"v{offset}, " for offset in range(len(layout.columns)))
    body = [
        *([f"{row}= row"] if row else []),
        *_splits(layout),
        *_checks(layout, ["return False"]),
        *_entering(layout),
    ]
    lines, found = _reading(layout)
    body += [*lines, *(f"out[{name!r}] = {value}" for name, value in found.items())]
    body += [*_gaps(layout, "out.pop({}, None)"), "return True"]
    return written_out("enter", "key, log, time, mark, row, out", body, {**_NAMES, **names})


def compile_run(layout: Layout, output: Output, names: Mapping[str, Any]) -> Callable[..., Any]:
    """Return `run(events, lookups, watermark, slow)` -> (feature dicts, watermark).

    `slow(event, looked_up)` does an event that is not usual.  There are fewer dicts than events where
    the group's first missing value came: the rest is for the run that is compiled then.
    """
    refresh = [*_splits(layout), "due = idle.due_ms"]
    unusual = ["emit(slow(event, looked_up))", *refresh]
    unusual += ["continue"] if layout.is_sparse else ["if windows.is_sparse:", "    break", "continue"]
    key = "key_of(value)" if output.key_field is None else f"value.{output.key_field}"
    body = ["value = event.value", f"key = {key}", "time = event.event_time", "mark = event.watermark"]
    body += ["if mark > watermark:", "    watermark = mark", "    if mark >= due:"]
    body += ["        windows.forget(mark)", "        due = idle.due_ms"]
    usual = ["if event.late:", *("    " + line for line in unusual)]
    for n, name in enumerate(layout.columns):
        usual += [f"v{n} = value.{name}"]
        if n not in _split_columns(layout):
            bounds = f"VALUE_MIN <= v{n} <= VALUE_MAX or -VALUE_MAX <= v{n} <= -VALUE_MIN or v{n} == 0"
            usual += [f"if v{n} is not None and not ({bounds}):", *("    " + line for line in unusual)]
    usual += [*_checks(layout, unusual), *_entering(layout)]
    lines, found = _reading(layout)
    found |= {name: f"v{layout.columns.index(field)}" for name, field in output.fields.items()}
    names = {**names, **output._asdict()}
    names |= {f"default{n}": default for n, default in enumerate(output.template.values())}
    shown = [f"{name!r}: {found.get(name, f'default{n}')}" for n, name in enumerate(output.template)]
    shown += [f"{name!r}: {found.get(name)}" for name in output.inner]
    usual += [*lines, f"out = {{{', '.join(shown)}}}", *_gaps(layout, "del out[{}]")]
    quiet = ["out = template.copy()"]
    quiet += ["if event.late or not calm(key, time, mark, row_of(value), out):"]
    quiet += ["    " + line for line in unusual]
    quiet += ["due = idle.due_ms"]  # a key that is new may be the first to go
    quiet += [f"out[{name!r}] = value.{field}" for name, field in output.fields.items()]
    body += ["log = get(key)", "if log is None:", *("    " + line for line in quiet)]
    body += ["else:", *("    " + line for line in usual)]
    if output.later:
        body += ["for name, evaluate in later:", "    found = evaluate(value, out, looked_up)"]
        body += ["    if found is None:", "        del out[name]", "    else:", "        out[name] = found"]
    if output.inner:
        body += ["for number in inner:", "    out.pop(number, None)"]
    body += ["emit(out)"]
    head = ["rows = []", "emit, get = rows.append, logs.get", *refresh]
    if output.looks_up:
        loop = "for event, looked_up in zip(events, repeat(NOTHING) if lookups is None else lookups):"
    else:
        head += ["looked_up = NOTHING"]
        loop = "for event in events:"
    lines = [*head, loop, *("    " + line for line in body), "return rows, watermark"]
    space = {**_NAMES, **names, "NOTHING": NOTHING}
    return written_out("run", "events, lookups, watermark, slow", lines, space)


def _split_columns(layout: Layout) -> list[int]:
    """Return the columns whose sums are held as two floats."""
    kinds = [kinds_of(layout.targets, column) for column in layout.columns]
    return [n for n, found in enumerate(kinds) if found & {"sum", "mean"} and not found & {"var", "std"}]


def _splits(layout: Layout) -> list[str]:
    """Return the lines that take out the numbers of each `Split`; they come with a column's first index."""
    return [f"M{n}, C{n}, D{n} = quick[{n}]" for n in _split_columns(layout)]


def hot_parts(layout: Layout, log: Any) -> tuple[Any, ...] | None:
    """Return all lists of a log that a usual event touches, in one tuple; None if one is wanting.

    One tuple is one place in memory, where a chain of objects would be a cache miss each.
    """
    parts = [log.times, log.values, log.starts]
    for n, name in _lists(layout):
        if (part := getattr(log.index[n], name)) is None:
            return None
        parts.append(part)
    return tuple(parts)


def _lists(layout: Layout) -> list[tuple[int, str]]:
    """Return the lists of each column's index that are used: its number and their names."""
    found: list[tuple[int, str]] = []
    split = _split_columns(layout)
    for n, column in enumerate(layout.columns):
        kinds = kinds_of(layout.targets, column)
        found += [(n, "sums")] if n in split else []
        found += [(n, "totals"), (n, "squares")] if kinds & {"var", "std"} else []
        found += [(n, "present")] if layout.is_sparse else []
        found += [(n, stack) for kind, stack in (("max", "peaks"), ("min", "dips")) if kind in kinds]
    return found


def _checks(layout: Layout, unusual: list[str]) -> list[str]:
    """Return the lines that make sure of everything that `_entering` and `_reading` rely on."""
    act = ["    " + line for line in unusual]
    names = ["times", "values", "starts", *(f"{name}{n}" for n, name in _lists(layout))]
    unpack = ["if hot is None:", *act, f"{', '.join(names)} = hot"]
    lines = ["hot = log.hot", *unpack, "end = len(times)", "if end >= log.room:"]
    lines += ["    end = make_room(log, mark)", "    hot = log.hot", *("    " + line for line in unpack)]
    lines += ["if not end or time < times[end - 1]:", *act]
    split = _split_columns(layout)
    for n in range(len(layout.columns)):
        if n in split:
            lines += [f"if v{n} is None or not -M{n} <= v{n} <= M{n}:", *act]
            lines += [f"high{n} = v{n} + C{n} - C{n}", f"low{n} = v{n} - high{n}"]
            lines += [f"if low{n} + D{n} - D{n} != low{n}:", *act]
        else:
            lines += [f"if v{n} is None:", *act]
    return lines


def _entering(layout: Layout) -> list[str]:
    """Return the lines that put the event into its log."""
    columns = layout.columns
    lines = ["times.append(time)", "log.watermark = mark"]
    lines += ["if not log.changed:", "    log.changed = True", "    changed.add(key)"]
    row = ", ".join(f"v{n}" for n in range(len(columns)))
    lines += ["values.append(v0)"] if len(columns) == 1 else [f"values += ({row})"] if columns else []
    split = _split_columns(layout)
    for n, column in enumerate(columns):
        kinds = kinds_of(layout.targets, column)
        if n in split:
            lines += ["at = end + end", f"high{n} += sums{n}[at]", f"low{n} += sums{n}[at + 1]"]
            lines += [f"sums{n}.append(high{n})", f"sums{n}.append(low{n})"]
        elif kinds & _SUMMED:
            lines += [
                f"unit = int(v{n} * SCALE)",
            ]
            lines += [f"total{n} = totals{n}[end] + unit", f"totals{n}.append(total{n})"]
            lines += [f"square{n} = squares{n}[end] + unit * unit", f"squares{n}.append(square{n})"]
        if layout.is_sparse:
            lines += [f"there{n} = present{n}[end] + 1"]
            lines += [f"present{n}.append(there{n})"]
        for kind, stack, order in (("max", "peaks", "<="), ("min", "dips", ">=")):
            if kind in kinds:
                mine, last = f"{stack}{n}", f"{stack}{n}[-1]"
                at = last if len(columns) == 1 else f"{last} * {len(columns)} + {n}"
                lines += [f"while {mine} and values[{at}] {order} v{n}:"]
                lines += [f"    {mine}.pop()", f"{mine}.append(end)"]
    return lines


def _reading(layout: Layout) -> tuple[list[str], dict[Any, str]]:
    """Return the lines that read all windows, and the local name (or text) of each target's value."""
    stop = "end + 1"
    lines = ["".join(f"s{place}, " for place in range(len(layout.widths_ms))) + "= starts", f"stop = {stop}"]
    found: dict[Any, str] = {}
    for place, width in enumerate(layout.widths_ms):
        mine = [target for target in layout.targets if target.aggregate.window_ms == width]
        lines += [f"horizon = time - {width}", f"if times[s{place}] <= horizon:", f"    s{place} += 1"]
        lines += [f"    while times[s{place}] <= horizon:", f"        s{place} += 1"]
        lines += [f"    starts[{place}] = s{place}", f"c{place} = stop - s{place}"]
        for name, aggregate, _ in mine:
            match aggregate.kind:
                case "count":
                    found[name] = f"c{place}"
                case "rate":
                    found[name] = f"c{place} * 1000 / {width}"
        for n, column in enumerate(layout.columns):
            valued = [target for target in mine if kinds_of([target], column)]
            if valued:
                more, texts = _column(layout, n, place, {target.aggregate.kind for target in valued})
                lines += more
                found |= {target.name: texts[target.aggregate.kind] for target in valued}
    return lines, found


def _column(layout: Layout, n: int, place: int, kinds: set[str]) -> tuple[list[str], dict[str, str]]:
    """Return the lines and the texts that read one column over one window."""
    stride, start = len(layout.columns), f"s{place}"

    def at(position: str) -> str:
        return f"values[{position}]" if stride == 1 else f"values[({position}) * {stride} + {n}]"

    lines = []
    count, total, spread = f"c{place}", f"t{place}_{n}", f"d{place}_{n}"
    if layout.is_sparse:
        count = f"c{place}_{n}"
        lines += [f"{count} = there{n} - present{n}[{start}]"]
    if n in _split_columns(layout):
        if kinds & {"sum", "mean"}:
            lines += [f"at = {start} + {start}"]
            lines += [f"{total} = (high{n} - sums{n}[at]) + (low{n} - sums{n}[at + 1])"]
    elif kinds & _SUMMED:
        lines += [f"units = total{n} - totals{n}[{start}]", f"{total} = float(units) * UNIT"]
        if kinds & {"var", "std"}:
            lines += [f"{spread} = variance({count}, units, square{n} - squares{n}[{start}])"]
    first = f"bisect_right(present{n}, present{n}[{start}], {start}, stop + 1) - 1"
    texts = {
        "sum": total,
        "mean": f"{total} / {count}",
        "var": spread,
        "std": f"sqrt({spread})",
        "first": at(first if layout.is_sparse else start),
        "last": f"v{n}",
    }
    for kind, stack in (("max", "peaks"), ("min", "dips")):
        if kind in kinds:
            mine = f"{stack}{n}"
            lines += [f"x{kind}{place}_{n} = {at(f'{mine}[bisect_left({mine}, {start})]')}"]
            texts[kind] = f"x{kind}{place}_{n}"
    return lines, texts


def _gaps(layout: Layout, removal: str) -> list[str]:
    """Return the lines of `since_last`, the one kind that may be missing."""
    lines = []
    for name, aggregate, has_default in layout.targets:
        if aggregate.kind == "since_last":
            place = layout.widths_ms.index(aggregate.window_ms)
            lines += [f"if end > s{place}:", f"    out[{name!r}] = time - times[end - 1]"]
            lines += [] if has_default else ["else:", "    " + removal.format(repr(name))]
    return lines
