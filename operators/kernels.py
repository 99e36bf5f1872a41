"""The loop over a group's windows, written out for its definition as straight Python.

Lives here: the text of the two functions that read a log, and their compilation.  Never here:
what is kept (`windows.py`); nothing of a definition but names of features and numbers gets into the text.

Strategy: a loop that asks for each of twelve aggregates what it is costs three times the
aggregates themselves, so the loop is unrolled once, when the plan is built.  The same
aggregates are read in two ways that agree to the bit: `plain` slices a short log, `indexed`
asks a `ColumnIndex`.  For `count`, `sum`, `max` of one column over one hour, `plain` is

    def plain(log, end, time, out):
        times, values, start = log.times, log.values, log.base
        start = bisect_right(times, time - 3600000, start, end)
        out['n'] = end - start
        found = values[start:end]
        if found:
            total = fsum(found)
            out['sum'] = total
            out['max'] = max(found[::-1])
        else:
            out['sum'] = 0.0
            out.pop('max', None)

`end` is the position after the last entry to see.  `[::-1]` lets the newest of equals win, as
in the index.  Windows go from the longest to the shortest, each starting where the last did.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import fsum, sqrt
from typing import Any, Final, NamedTuple

from operators.exact import UNIT, variance, variance_of
from operators.language.fields import Aggregate

__all__ = ["Kernels", "Read", "Target", "build", "kinds_of", "written_out"]

Read = Callable[[Any, int, int, dict[Any, Any]], None]
"""(log, position after the last entry to see, time of the event, where the values go)."""

_NAMES: Final = {
    "UNIT": UNIT,
    "bisect_left": bisect_left,
    "bisect_right": bisect_right,
    "fsum": fsum,
    "sqrt": sqrt,
    "variance": variance,
    "variance_of": variance_of,
}
_PLAIN: Final = {
    "sum": "total",
    "mean": "total / len(found)",
    "var": "variance_of(found)",
    "std": "sqrt(variance_of(found))",
    "min": "min(found[::-1])",
    "max": "max(found[::-1])",
    "first": "found[0]",
    "last": "found[-1]",
}
"""Each aggregate of `found`, the values that are present, at least one."""


class Target(NamedTuple):
    """Where an aggregate goes."""

    name: str | int
    aggregate: Aggregate
    has_default: bool = False
    """A missing value leaves what is there; otherwise it takes the name out."""


class Kernels(NamedTuple):
    """How a log is read, by slices and by index."""

    plain: Read
    indexed: Read


def build(columns: Sequence[str | None], targets: Iterable[Target], *, sparse: bool) -> Kernels:
    """Compile the functions that write `targets` for rows of `columns`.

    `sparse` says that values may be missing.
    """
    targets = list(targets)
    made: list[Read] = []
    for name, preface, emit in (("plain", _plain_preface, _plain), ("indexed", _indexed_preface, _indexed)):
        lines = ["times, values, start = log.times, log.values, log.base"]
        used = [(offset, kinds_of(targets, column)) for offset, column in enumerate(columns)]
        lines += [line for offset, kinds in used if kinds for line in preface(kinds, offset, sparse)]
        for width in sorted({target.aggregate.window_ms for target in targets}, reverse=True):
            mine = [target for target in targets if target.aggregate.window_ms == width]
            lines += [f"start = bisect_right(times, time - {width}, start, end)"]
            lines += [line for target in mine for line in _counting(target)]
            for offset, column in enumerate(columns):
                valued = [target for target in mine if kinds_of([target], column)]
                if valued:
                    lines += emit(valued, offset, len(columns), sparse)
        made.append(written_out(name, "log, end, time, out", lines, _NAMES))
    return Kernels(*made)


def written_out(
    name: str, arguments: str, lines: Iterable[str], names: Mapping[str, Any]
) -> Callable[..., Any]:
    """Return the function with these lines, which hold reprs of names, identifiers of fields, and numbers.

    >>> written_out("twice", "number", ["return number * two"], {"two": 2})(21)
    42
    """
    space = dict(names)
    exec("\n    ".join([f"def {name}({arguments}):", *lines]), space)  # noqa: S102
    return space[name]  # type: ignore[no-any-return]


def kinds_of(targets: Iterable[Target], column: str | None) -> set[str]:
    """Return what is wanted of the values of `column`."""
    return {a.kind for _, a, _ in targets if a.kind in _PLAIN and a.column == column}


def _counting(target: Target) -> list[str]:
    """Return the lines of what needs no values.  The event itself is no previous event of its own."""
    name, aggregate, _ = target
    match aggregate.kind:
        case "count":
            return [f"out[{name!r}] = end - start"]
        case "rate":
            return [f"out[{name!r}] = (end - start) * 1000 / {aggregate.window_ms}"]
        case "since_last":
            back = 2 if aggregate.source == "events" else 1
            return [
                f"if end - {back} >= start:",
                f"    out[{name!r}] = time - times[end - {back}]",
                *_otherwise([target]),
            ]
        case _:
            return []


def _plain_preface(_kinds: set[str], _offset: int, _sparse: bool) -> list[str]:
    return []


def _plain(targets: Sequence[Target], offset: int, stride: int, sparse: bool) -> list[str]:
    """Return the lines that read one column over one window from a slice."""
    cut = "start:end" if stride == 1 else f"start * {stride} + {offset} : end * {stride} : {stride}"
    lines = [f"found = values[{cut}]"]
    if sparse:
        lines += ["found = [value for value in found if value is not None]"]
    lines += ["if found:"]
    if any(target.aggregate.kind in ("sum", "mean") for target in targets):
        lines += ["    total = fsum(found)"]
    lines += [f"    out[{name!r}] = {_PLAIN[aggregate.kind]}" for name, aggregate, _ in targets]
    return lines + _otherwise(targets)


def _indexed_preface(kinds: set[str], offset: int, sparse: bool) -> list[str]:
    """Return the lines that take one column's lists out of its index."""
    lines = [f"index = log.index[{offset}]"]
    if sparse:
        lines += [f"present{offset} = index.present"]
    if kinds & {"var", "std"}:
        lines += [
            f"sums{offset}, totals{offset} = None, index.totals",
            f"units{offset} = totals{offset}[end]",
        ]
    elif kinds & {"sum", "mean"}:
        lines += [f"sums{offset}, totals{offset} = index.sums, index.totals"]
    if kinds & {"var", "std"}:
        lines += [f"squares{offset} = index.squares"]
    if "max" in kinds:
        lines += [f"peaks{offset} = index.peaks"]
    if "min" in kinds:
        lines += [f"dips{offset} = index.dips"]
    return lines


def _indexed(targets: Sequence[Target], offset: int, stride: int, sparse: bool) -> list[str]:
    """Return the lines that read one column over one window from its index."""

    def at(position: str) -> str:
        return f"values[{position}]" if stride == 1 else f"values[({position}) * {stride} + {offset}]"

    present = f"present{offset}"
    lines = [f"count = {present}[end] - {present}[start]" if sparse else "count = end - start"]
    lines += ["if count:"]
    kinds = {target.aggregate.kind for target in targets}
    if kinds & {"var", "std"}:
        lines += [f"    units = units{offset} - totals{offset}[start]", "    total = float(units) * UNIT"]
    elif kinds & {"sum", "mean"}:
        sums, totals = f"sums{offset}", f"totals{offset}"
        lines += [
            f"    if {sums} is None:",
            f"        total = float({totals}[end] - {totals}[start]) * UNIT",
            "    else:",
            f"        high = {sums}[end + end] - {sums}[start + start]",
            f"        total = high + ({sums}[end + end + 1] - {sums}[start + start + 1])",
        ]
    if kinds & {"var", "std"}:
        lines += [f"    spread = variance(count, units, squares{offset}[end] - squares{offset}[start])"]
    texts = {"sum": "total", "mean": "total / count", "var": "spread", "std": "sqrt(spread)"}
    if sparse:
        texts["first"] = at(f"bisect_right({present}, {present}[start], start, end + 1) - 1")
        texts["last"] = at(f"bisect_left({present}, {present}[end], start, end + 1) - 1")
    else:
        texts |= {"first": at("start"), "last": at("end - 1")}
    for target in targets:
        name, kind = target.name, target.aggregate.kind
        if kind not in ("min", "max"):
            lines += [f"    out[{name!r}] = {texts[kind]}"]
            continue
        stack = f"peaks{offset}" if kind == "max" else f"dips{offset}"
        # Entries after `end` may hide the extreme of those before it: then look at all of them.
        lines += [f"    place = {stack}[bisect_left({stack}, start)]"]
        lines += ["    if place < end:", f"        out[{name!r}] = {at('place')}", "    else:"]
        lines += ["        " + line for line in _plain([target], offset, stride, sparse)]
    return lines + _otherwise(targets)


def _otherwise(targets: Iterable[Target]) -> list[str]:
    """Return the lines for a window without values."""
    lines = [
        f"    out[{name!r}] = 0.0" if aggregate.kind == "sum" else f"    out.pop({name!r}, None)"
        for name, aggregate, has_default in targets
        if aggregate.kind == "sum" or not has_default
    ]
    return ["else:", *lines] if lines else []
