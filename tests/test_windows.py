"""Windows against the definition, recomputed from the raw events by code that shares nothing with them.

    watermark - 1h            t - 1m         t
    ----|------------------------(------------]      a window of 1 m at an event of time t
        gone | kept                            later entries are not seen
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from math import fsum, sqrt
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import windows as module
from operators.expressions import LABEL, Aggregate, by, label
from operators.kernels import Target
from operators.windows import Windows
from topics.messages import Event

KINDS = ("sum", "mean", "min", "max", "var", "std", "first", "last")


class Step(NamedTuple):
    """One event (or label) on its way into the windows of one group."""

    key: str
    time: int
    watermark: int
    late: bool
    row: tuple[float | None, ...]
    is_label: bool = False


class Oracle:
    """The definition: all entries in a list, every window filtered out of it."""

    def __init__(self, columns: list[str | None], aggregates: list[Aggregate], event_max: int) -> None:
        self.columns, self.aggregates, self.event_max = columns, aggregates, event_max
        self.longest = max(aggregate.window_ms for aggregate in aggregates)
        self.entries: dict[str, list[tuple[int, int, tuple[float | None, ...]]]] = {}
        self.arrived = 0
        self.evicted = 0

    def enter(self, step: Step) -> None:
        floor = step.watermark - self.longest
        if step.time <= floor:
            return
        mine = sorted(entry for entry in self.entries.get(step.key, []) if entry[0] > floor)
        if len(mine) >= self.event_max:
            del mine[0]
            self.evicted += 1
        mine.append((step.time, self.arrived, step.row))
        self.entries[step.key] = mine

    def see(self, step: Step, *, own: bool) -> dict[Any, Any]:
        """Return all aggregates as of `step`; `own`: it is an event and part of its windows."""
        self.arrived += 1
        floor = step.watermark - self.longest
        before = sorted(e for e in self.entries.get(step.key, []) if floor < e[0] <= step.time)
        if own and not step.late and len(self.entries.get(step.key, [])) >= self.event_max:
            kept = sorted(e for e in self.entries[step.key] if e[0] > floor)
            if len(kept) >= self.event_max:
                before = [entry for entry in before if entry != kept[0]]
        out = {}
        for number, aggregate in enumerate(self.aggregates):
            seen = before + [(step.time, self.arrived, step.row)] * (own and aggregate.include_current)
            inside = [entry for entry in seen if entry[0] > step.time - aggregate.window_ms]
            value = self.value(aggregate, inside, before, step)
            if value is not None:
                out[number] = value
        if own and not step.late:
            self.enter(step)
        return out

    def value(self, aggregate: Aggregate, inside: list[Any], before: list[Any], step: Step) -> Any:
        if aggregate.kind == "count":
            return len(inside)
        if aggregate.kind == "rate":
            return float(Fraction(1000 * len(inside), aggregate.window_ms))
        if aggregate.kind == "since_last":
            recent = [entry for entry in before if entry[0] > step.time - aggregate.window_ms]
            return step.time - recent[-1][0] if recent else None
        column = self.columns.index(aggregate.of if isinstance(aggregate.of, str) else None)
        return reduce(aggregate.kind, [e[2][column] for e in inside if e[2][column] is not None])


def reduce(kind: str, values: list[float]) -> Any:
    if kind == "sum":
        return float(sum(map(Fraction, values)))
    if not values:
        return None
    exact = [Fraction(value) for value in values]
    if kind == "mean":
        return float(sum(exact)) / len(exact)
    if kind in ("var", "std"):
        middle = sum(exact) / len(exact)
        spread = sum((value - middle) ** 2 for value in exact)
        variance = float(spread / (len(exact) - 1)) if len(exact) > 1 else 0.0
        return variance if kind == "var" else sqrt(variance)
    if kind in ("min", "max"):
        return min(values) if kind == "min" else max(values)
    return values[0 if kind == "first" else -1]


def aggregates_of(spans: Iterable[int], columns: Iterable[str], **options: Any) -> list[Aggregate]:
    card = by("card")
    found = []
    for span in spans:
        found += [card.count(span, **options), card.rate(span, **options), card.since_last(span)]
        found += [getattr(card, kind)(name, span, **options) for name in columns for kind in KINDS]
    return found


TWO_COLUMNS = aggregates_of((40, 1000), "ab") + aggregates_of((40, 150), "ab", include_current=False)
TWO_COLUMNS = list(dict.fromkeys(TWO_COLUMNS))
numbers = st.one_of(
    st.integers(-3, 3),
    st.floats(-1e12, 1e12).filter(lambda value: value == 0 or abs(value) > 1e-6),
    st.sampled_from([1e-6, 1e12, -1e12, 0.0, 1e15]),
)


@st.composite
def histories(draw: st.DrawFn, *, width: int = 2, size: int = 60) -> list[Step]:
    """Return steps that come in order, with ties, out of order within a grace of 30 ms, and late."""
    jumps = st.one_of(st.integers(0, 60), st.integers(-90, 20), st.sampled_from([0, 0, 1, 40, 500, 2000]))
    value = st.one_of(st.none(), numbers) if draw(st.booleans()) else numbers
    row = st.tuples(*[value] * width)
    newest = draw(st.integers(0, 3)) * 10_000
    steps = []
    for jump, key, values in draw(
        st.lists(st.tuples(jumps, st.sampled_from("xxxy"), row), min_size=1, max_size=size)
    ):
        time = newest + jump
        late = time < newest - 30
        newest = max(newest, time)
        steps.append(Step(key, time, newest - 30, late, values))
    return steps


def event_of(step: Step) -> Event:
    return Event("id", step.time, step.key, None, offset=0, watermark=step.watermark, late=step.late)


def run(windows: Windows, steps: Iterable[Step]) -> list[dict[Any, Any]]:
    found = []
    for step in steps:
        out: dict[Any, Any] = {}
        if step.watermark >= windows.due_ms:
            windows.forget(step.watermark)
        windows.step(step.key, event_of(step), step.row, out)
        found.append(out)
    return found


def build(columns: list[str | None], aggregates: list[Aggregate], event_max: int = 1000) -> Windows:
    return Windows(columns, [Target(n, a) for n, a in enumerate(aggregates)], event_max)


@pytest.fixture(params=[(2, 1), (32, 8)], ids=["indexed", "plain"], autouse=True)
def _thresholds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run everything with indexes nearly at once, and as it is."""
    monkeypatch.setattr(module, "INDEX_MIN", request.param[0])
    monkeypatch.setattr(module, "TRIM_MIN", request.param[1])


fixtures_are_constant = settings(max_examples=60, deadline=None)


@fixtures_are_constant
@given(steps=histories(), event_max=st.sampled_from([1, 3, 8, 1000]))
def test_windows_equal_their_definition(steps: list[Step], event_max: int) -> None:
    windows = build(["a", "b"], TWO_COLUMNS, event_max)
    oracle = Oracle(["a", "b"], TWO_COLUMNS, event_max)
    expected = [oracle.see(step, own=True) for step in steps]
    assert run(windows, steps) == expected
    assert windows.evicted_events == oracle.evicted
