"""The definition of every window and aggregate, recomputed from the raw events of a history.

Shares nothing with `operators/` but the words of the language.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st

from operators.language.expressions import Expression
from operators.language.fields import Aggregate, LabelSource
from operators.language.plan import compile_features
from operators.language.window_kinds import Decay, LastN, Session, Tiled, Tumbling
from operators.windows.evaluate import calculation
from operators.windows.features import Features
from topics.messages import Event

GRACE = 30


class Payment(msgspec.Struct):
    card: str
    amount: float | None = None
    shop: str | None = None
    kind: str = "sale"
    fee: int | None = None


class Entry(NamedTuple):
    time: int
    value: Any
    is_own: bool = False


Meanings = Mapping[str, Callable[[Payment], Any]]
"""What each condition, and each calculated column, of a definition means, by its text."""

amounts = st.one_of(
    st.none(),
    st.integers(-3, 3).map(float),
    st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-6),
)
payments = st.builds(
    Payment,
    st.sampled_from("aab"),
    amounts,
    st.sampled_from(["x", "y", "z", None]),
    st.sampled_from(["sale", "refund"]),
    st.one_of(st.none(), st.integers(0, 4)),
)
jumps = st.one_of(st.integers(0, 60), st.integers(-45, 20), st.sampled_from([0, 0, 1, 30, 40, 500, 2000]))


@st.composite
def histories(draw: st.DrawFn, *, size: int = 50) -> list[Event]:
    """Return events in order, with ties, out of order within the grace, and late."""
    newest, events = draw(st.integers(0, 3)) * 10_000, []
    least = draw(st.sampled_from([1, 5, 30]))
    steps = draw(st.lists(st.tuples(jumps, payments), min_size=least, max_size=size))
    for number, (jump, value) in enumerate(steps):
        time = max(0, newest + jump)
        late, newest = time < newest - GRACE, max(newest, time)
        events.append(Event(str(number), time, value.card, value, number, newest - GRACE, late))
    return events


def features_of(
    definition: Mapping[str, Expression],
    event_max: int = 1000,
    *,
    of: type[msgspec.Struct] = Payment,
    counts: Counter[tuple[str, str]] | None = None,
) -> Features:
    plan = compile_features(definition, of, grace_ms=GRACE, max_events_per_key=event_max, task="regression")
    return Features(plan, counts)


def value_of(expression: Expression, **values: object) -> Any:
    """Return what `expression` makes of an event with these fields."""
    return calculation(expression, {})(SimpleNamespace(**values), {}, {})


def expected(aggregate: Aggregate, history: Iterable[Event], meanings: Meanings | None = None) -> list[Any]:
    """Return the value of `aggregate` at each event, `...` at late ones (and None where it is missing)."""
    found: list[Any] = []
    arrived: list[tuple[str, Entry]] = []
    for event in history:
        if event.late:
            found.append(...)
            continue
        key = "".join(str(getattr(event.value, name)) for name in aggregate.keys)
        entries = [entry for of, entry in arrived if of == key and entry.time <= event.event_time]
        entries.append(Entry(event.event_time, event.value, is_own=True))
        entries.sort(key=lambda entry: entry.time)
        found.append(value_at(aggregate, entries, event.event_time, meanings or {}))
        arrived.append((key, Entry(event.event_time, event.value)))
    return found


def value_at(aggregate: Aggregate, entries: list[Entry], time: int, meanings: Meanings) -> Any:
    """Return the value of `aggregate` at `time`, of the entries up to then in order."""
    if not aggregate.include_current or aggregate.function == "since_last":
        entries = [entry for entry in entries if not entry.is_own]
    if aggregate.where is not None:
        entries = [entry for entry in entries if meanings[repr(aggregate.where)](entry.value)]
    if isinstance(aggregate.span, Decay):
        return decayed(aggregate, entries, time, meanings)
    inside = window_of(aggregate, entries, time)
    if aggregate.function in ("count", "rate"):
        width = aggregate.span.width_ms if isinstance(aggregate.span, Tiled) else aggregate.window_ms
        return len(inside) if aggregate.function == "count" else len(inside) * 1000 / width
    if aggregate.function == "since_last":
        return time - inside[-1].time if inside else None
    if aggregate.function in ("arg_max", "arg_min"):
        return extreme(aggregate, inside, meanings)
    values = [value_in(entry, aggregate.of, meanings) for entry in inside]
    return reduce(aggregate, [value for value in values if value is not None])


def value_in(entry: Entry, of: object, meanings: Meanings) -> Any:
    """Return what an entry has under a column: a field, what an expression means, or a label itself."""
    if isinstance(of, LabelSource):
        return entry.value
    return getattr(entry.value, of) if isinstance(of, str) else meanings[repr(of)](entry.value)


def window_of(aggregate: Aggregate, entries: list[Entry], time: int) -> list[Entry]:
    width = aggregate.window_ms
    match aggregate.span:
        case None:
            end = time - aggregate.shift_ms
            return [entry for entry in entries if end - width < entry.time <= end]
        case Tumbling(width_ms):
            return [entry for entry in entries if entry.time // width_ms == time // width_ms]
        case LastN(count, within_ms):
            return [entry for entry in entries if entry.time > time - within_ms][-count:]
        case Tiled(width_ms, step_ms):
            begin = (time - width_ms) // step_ms * step_ms
            return [entry for entry in entries if entry.time >= begin]
        case Session(gap_ms):
            inside: list[Entry] = []
            for entry in reversed(entries):
                if time - entry.time > gap_ms:
                    break
                time = entry.time
                inside.insert(0, entry)
            return inside
    raise AssertionError(aggregate)


def extreme(aggregate: Aggregate, inside: list[Entry], meanings: Meanings) -> Any:
    best: tuple[Any, Any] | None = None
    for entry in inside:
        by, value = (value_in(entry, of, meanings) for of in (aggregate.argument, aggregate.of))
        if by is None or value is None:
            continue
        if best is None or (by >= best[0] if aggregate.function == "arg_max" else by <= best[0]):
            best = (by, value)
    return None if best is None else best[1]


def decayed(aggregate: Aggregate, entries: list[Entry], time: int, meanings: Meanings) -> Any:
    assert isinstance(aggregate.span, Decay)
    weighted = []
    for entry in entries:
        value = 1.0 if aggregate.of is None else value_in(entry, aggregate.of, meanings)
        if value is not None:
            weighted.append((2.0 ** -((time - entry.time) / aggregate.span.half_life_ms), value))
    if aggregate.function == "count":
        return math.fsum(weight for weight, _ in weighted)
    total = math.fsum(weight * value for weight, value in weighted)
    weight = math.fsum(weight for weight, _ in weighted)
    return total if aggregate.function == "sum" else total / weight if weight else None


def reduce(aggregate: Aggregate, values: list[Any]) -> Any:
    kind = aggregate.function
    if kind == "sum":
        return math.fsum(values)
    if kind == "distinct":
        return len(set(values))
    if not values:
        return None
    if kind == "mean":
        return math.fsum(values) / len(values)
    if kind in ("var", "std"):
        variance = float(statistics.variance(map(Fraction, values))) if len(values) > 1 else 0.0
        return variance if kind == "var" else math.sqrt(variance)
    if kind in ("min", "max"):
        return min(values) if kind == "min" else max(values)
    if kind in ("first", "last"):
        return values[0 if kind == "first" else -1]
    if kind == "mode":
        last = {value: place for place, value in enumerate(values)}
        ranked = sorted(set(values), key=lambda value: (-values.count(value), -last[value]))
        rank = int(aggregate.number or 1)
        return ranked[rank - 1] if len(ranked) >= rank else None
    if kind == "entropy":
        shares = [count / len(values) for count in Counter(values).values()]
        return -sum(share * math.log2(share) for share in shares)
    share = 0.5 if kind == "median" else aggregate.number or 0.0
    return quantile(values, share, is_exact=not isinstance(aggregate.span, Tiled | Session))


def quantile(values: list[float], share: float, *, is_exact: bool) -> float:
    ordered = sorted(map(Fraction, values))
    place = Fraction(share) * (len(ordered) - 1)
    below = math.floor(place)
    if not is_exact:
        return float(ordered[math.floor(share * (len(ordered) - 1) + 0.5)])
    above = ordered[min(below + 1, len(ordered) - 1)]
    return float(ordered[below] + (above - ordered[below]) * (place - below))


def tolerance(aggregate: Aggregate) -> tuple[float, float]:
    """Return the relative and absolute error that are promised; (0, 0) is to the bit."""
    if aggregate.function in ("median", "quantile"):
        return (1e-9, 1e-9) if not isinstance(aggregate.span, Tiled | Session) else (1 / 128, 0.0)
    if aggregate.function == "entropy":
        return 1e-12, 1e-12
    return (1e-9, 1e-5) if isinstance(aggregate.span, Decay) else (0.0, 0.0)


def check(
    definition: Mapping[str, Aggregate],
    history: list[Event],
    meanings: Meanings | None = None,
    made: Features | None = None,
) -> None:
    """Assert that features of `history` are what the definition says at every event in time."""
    rows = (made or features_of(definition)).step_events(history)
    for name, aggregate in definition.items():
        relative, absolute = tolerance(aggregate)
        for place, wanted in enumerate(expected(aggregate, history, meanings)):
            found = rows[place].get(name)
            if wanted is ...:
                continue
            if wanted is None or found is None or isinstance(wanted, str) or not (relative or absolute):
                assert found == wanted, (place, aggregate)
            else:
                assert math.isclose(found, wanted, rel_tol=relative, abs_tol=absolute), (place, aggregate)


def check_restored(
    definition: Mapping[str, Expression], history: list[Event], cut: int, event_max: int
) -> None:
    """Assert that features restored after `cut` events go on to the bit as those they were taken from."""
    steady, restored = features_of(definition, event_max), features_of(definition, event_max)
    steady.step_events(history[:cut])
    restored.restore(steady.snapshot())
    assert repr(restored.step_events(history[cut:])) == repr(steady.step_events(history[cut:]))
    assert restored.snapshot() == steady.snapshot()
    assert restored.evicted_events == steady.evicted_events
