"""Windows read the plain way: every value anew from the entries of one key, nothing kept running.

Lives here: what each aggregate is, said as directly as Python can.  Never here: which events are
looked at and what is compared (`comparison.py`), how windows are kept at work (`windows.py`, `slices.py`,
`tiles.py`, `chains.py`, `fading.py`), from which nothing is used.

    entries of one key, in order of time, ties as they came        |  the event itself, last
    x    x  x       x   x     x                                    |  t
            (t - w ---- inside, summed up with math.fsum ------------------ t]

Sums are correctly rounded, variances exact fractions: what the running ones are measured against.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from operator import attrgetter
from typing import Any, Final, NamedTuple

from operators.calculation import NOTHING, calculation, predicate
from operators.exact import as_number
from operators.language.fields import Aggregate, Expression
from operators.language.window_kinds import Decay, LastN, Session, Tiled, Tumbling

__all__ = ["Entry", "Plain", "is_plain", "plain_value"]

RELATIVE: Final = 1e-9
"""The promised error of sums: relative to the sum of absolute values."""
TEXT_MAX: Final = 256
"""Characters of a text that a window keeps."""

_SKETCHED: Final = frozenset(("distinct", "median", "quantile"))
_COUNTING: Final = frozenset(("count", "rate", "since_last"))
_KINDS: Final = (
    _SKETCHED
    | _COUNTING
    | frozenset(("sum", "mean", "var", "std", "min", "max"))
    | frozenset(("first", "last", "mode", "entropy", "arg_max", "arg_min"))
)


class Entry(NamedTuple):
    """One event, or one label, that has entered."""

    time: int
    number: int
    """Of a label its offset; of events, they count up."""
    value: Any
    """The user's event; of a label its own, as windows take it."""
    of: Any = None
    """Of a label its event, where a window has a condition."""


class Plain(NamedTuple):
    """One value and how far another way of computing it may be off; 0.0: not at all."""

    value: Any
    slack: float = 0.0


_time = attrgetter("time")


def is_plain(aggregate: Aggregate) -> bool:
    """Return whether `plain_value` can say what it is: sketches have errors of their own."""
    sketched = aggregate.kind in _SKETCHED and isinstance(aggregate.span, Tiled | Session)
    return aggregate.kind in _KINDS and not sketched


def plain_value(aggregate: Aggregate, entries: Sequence[Entry], time: int, own: Any = None) -> Plain:
    """Return `aggregate` for an event at `time`, of its key's `entries` in order of time; None is missing.

    `own` is the event itself, which is not among the entries; None for windows over labels.

    >>> from types import SimpleNamespace as Payment
    >>> entries = [Entry(0, 0, Payment(amount=1.0)), Entry(50, 1, Payment(amount=2.0))]
    >>> plain_value(Aggregate("sum", ("card",), "amount", 60), entries, 60, Payment(amount=4.0)).value
    6.0
    """
    seen = list(entries[: bisect_right(entries, time, key=_time)])
    if own is not None and aggregate.include_current and aggregate.kind != "since_last":
        seen.append(Entry(time, -1, own))
    if aggregate.where is not None:
        met = predicate(aggregate.where)
        seen = [entry for entry in seen if met(entry.value if entry.of is None else entry.of) is True]
    if isinstance(aggregate.span, Decay):
        return _decayed(aggregate, aggregate.span, seen, time)
    inside = _inside(aggregate, seen, time)
    match aggregate.kind:
        case "count":
            return Plain(len(inside))
        case "rate":
            width = aggregate.span.width_ms if isinstance(aggregate.span, Tiled) else aggregate.window_ms
            return Plain(len(inside) * 1000 / width)
        case "since_last":
            return Plain(time - inside[-1].time if inside else None)
        case "arg_max" | "arg_min":
            return Plain(_extreme(aggregate, inside))
    read = _reader(aggregate.of)
    return _reduced(aggregate, [found for entry in inside if (found := read(entry.value)) is not None])


def _reader(of: object) -> Callable[[Any], Any]:
    """Return how a column is read from an entry's value, None where missing; a label is its own value."""
    if not isinstance(of, str | Expression):
        return _entering  # a label
    if isinstance(of, str):
        return lambda value: _entering(getattr(value, of))
    evaluate = calculation(of, {})
    return lambda value: _entering(evaluate(value, NOTHING, NOTHING))


def _entering(found: Any) -> Any:
    """Return a value as it enters a window."""
    return found[:TEXT_MAX] if isinstance(found, str) else as_number(found)


def _inside(aggregate: Aggregate, seen: list[Entry], time: int) -> list[Entry]:
    """Return the entries that the window covers, of those up to `time`."""
    match aggregate.span:
        case Tumbling(width_ms):
            return [entry for entry in seen if entry.time // width_ms == time // width_ms]
        case LastN(count, within_ms):
            return [entry for entry in seen if entry.time > time - within_ms][-count:]
        case Tiled(width_ms, step_ms):
            begin = (time - width_ms) // step_ms * step_ms
            return [entry for entry in seen if entry.time >= begin]
        case Session(gap_ms):
            start, edge = len(seen), time
            while start and edge - seen[start - 1].time <= gap_ms:
                start -= 1
                edge = seen[start].time
            return seen[start:]
        case _:
            end = time - aggregate.shift_ms
            first, after = (bisect_right(seen, at, key=_time) for at in (end - aggregate.window_ms, end))
            return seen[first:after]


def _extreme(aggregate: Aggregate, inside: list[Entry]) -> Any:
    """Return the value beside the largest (smallest) of another field, the newest of equals."""
    best: tuple[Any, Any] | None = None
    read, read_by = _reader(aggregate.of), _reader(aggregate.argument)
    for entry in inside:
        by, value = read_by(entry.value), read(entry.value)
        if by is None or value is None:
            continue
        if best is None or (by >= best[0] if aggregate.kind == "arg_max" else by <= best[0]):
            best = (by, value)
    return None if best is None else best[1]


def _decayed(aggregate: Aggregate, span: Decay, seen: list[Entry], time: int) -> Plain:
    read = _reader(aggregate.of)
    weighted = [
        (2.0 ** -((time - entry.time) / span.half_life_ms), value)
        for entry in seen
        if (value := read(entry.value) if aggregate.is_valued else 1.0) is not None
    ]
    weight = math.fsum(weight for weight, _ in weighted)
    total = math.fsum(weight * value for weight, value in weighted)
    slack = RELATIVE * (1.0 + math.fsum(weight * abs(value) for weight, value in weighted))
    if aggregate.kind == "count":
        return Plain(weight, slack)
    if aggregate.kind == "sum":
        return Plain(total, slack)
    return Plain(total / weight, slack / weight) if weight else Plain(None)


def _reduced(aggregate: Aggregate, values: list[Any]) -> Plain:
    """Return what the values that are there come to."""
    kind = aggregate.kind
    if kind == "distinct":
        return Plain(len(set(values)))
    if kind == "sum" or (kind == "mean" and values):
        count = 1 if kind == "sum" else len(values)
        return Plain(math.fsum(values) / count, RELATIVE * math.fsum(map(abs, values)) / count)
    if not values:
        return Plain(None)
    if kind in ("min", "max"):
        return Plain(min(values) if kind == "min" else max(values))
    if kind in ("first", "last"):
        return Plain(values[0 if kind == "first" else -1])
    if kind in ("mode", "entropy"):
        return _of_counts(aggregate, values)
    if kind in ("var", "std"):
        variance = float(statistics.variance(map(Fraction, values))) if len(values) > 1 else 0.0
        slack = RELATIVE * math.fsum(value * value for value in values)
        if kind == "var":
            return Plain(variance, slack)
        return Plain(math.sqrt(variance), math.sqrt(variance + slack) - math.sqrt(variance))
    share = 0.5 if kind == "median" else aggregate.number or 0.0
    return Plain(_quantile(values, share), RELATIVE * max(map(abs, values)))


def _of_counts(aggregate: Aggregate, values: list[Any]) -> Plain:
    """Return the most frequent value (of equals the newest first), or the entropy."""
    counts = Counter(values)
    if aggregate.kind == "entropy":
        shares = [count / len(values) for count in counts.values()]
        return Plain(-math.fsum(share * math.log2(share) for share in shares), RELATIVE)
    last = {value: place for place, value in enumerate(values)}
    ranked = sorted(counts, key=lambda value: (-counts[value], -last[value]))
    rank = int(aggregate.number or 1)
    return Plain(ranked[rank - 1] if len(ranked) >= rank else None)


def _quantile(values: list[Any], share: float) -> float:
    """Return the quantile, linear between neighbours (Hyndman and Fan's type 7)."""
    ordered = sorted(map(Fraction, values))
    place = Fraction(share) * (len(ordered) - 1)
    below = math.floor(place)
    above = ordered[min(below + 1, len(ordered) - 1)]
    return float(ordered[below] + (above - ordered[below]) * (place - below))
