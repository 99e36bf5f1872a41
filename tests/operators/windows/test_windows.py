"""Windows against the definition, recomputed from the raw events by code that shares nothing with them.

watermark - 1h            t - 1m         t
----|------------------------(------------]      a window of 1 m at an event of time t
    gone | kept                            later entries are not seen
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise
from math import fsum, sqrt
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.language.by import by, label
from operators.language.fields import Aggregate
from operators.windows import log as module
from operators.windows.aggregates import Target
from operators.windows.log import Logs as Windows
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
        if aggregate.function == "count":
            return len(inside)
        if aggregate.function == "rate":
            return float(Fraction(1000 * len(inside), aggregate.window_ms))
        if aggregate.function == "since_last":
            recent = [entry for entry in before if entry[0] > step.time - aggregate.window_ms]
            return step.time - recent[-1][0] if recent else None
        column = self.columns.index(aggregate.of if isinstance(aggregate.of, str) else None)
        return reduce(aggregate.function, [e[2][column] for e in inside if e[2][column] is not None])


def reduce(kind: str, values: list[float]) -> Any:
    """Return one aggregate: sums correctly rounded, variances in fractions."""
    if kind == "sum":
        return fsum(values)
    if not values:
        return None
    if kind == "mean":
        return fsum(values) / len(values)
    if kind in ("var", "std"):
        variance = float(statistics.variance(map(Fraction, values))) if len(values) > 1 else 0.0
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
prices = st.integers(-1_000, 100_000).map(lambda cents: cents / 100)


@st.composite
def histories(draw: st.DrawFn, *, width: int = 2, size: int = 60) -> list[Step]:
    """Return steps that come in order, with ties, out of order within a grace of 30 ms, and late."""
    jumps = st.one_of(st.integers(0, 60), st.integers(-90, 20), st.sampled_from([0, 0, 1, 40, 500, 2000]))
    number = prices if draw(st.booleans()) else numbers
    value = st.one_of(st.none(), number) if draw(st.booleans()) else number
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
        if step.watermark >= windows.idle.due_ms:
            windows.forget(step.watermark)
        windows.step(step.key, event_of(step), step.row, out)
        found.append(out)
    return found


def build(columns: list[str | None], aggregates: list[Aggregate], event_max: int = 1000) -> Windows:
    return Windows(columns, [Target(n, a) for n, a in enumerate(aggregates)], event_max)


@pytest.fixture(params=[(1, 1), (8, 7), (8, 3)], ids=["indexed", "quiet", "short"], autouse=True)
def _thresholds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run everything with indexes nearly at once, as it is, and with few entries in a packed key."""
    monkeypatch.setattr(module, "TRIM_MIN", request.param[0])
    monkeypatch.setattr(module, "PACKED_MAX", request.param[1])


@settings(max_examples=40, deadline=None)
@given(steps=histories(), event_max=st.sampled_from([1, 3, 8, 1000]))
def test_windows_equal_their_definition(steps: list[Step], event_max: int) -> None:
    windows = build(["a", "b"], TWO_COLUMNS, event_max)
    oracle = Oracle(["a", "b"], TWO_COLUMNS, event_max)
    expected = [oracle.see(step, own=True) for step in steps]
    assert run(windows, steps) == expected
    assert windows.evicted_events == oracle.evicted


def long_history(seed: int, size: int = 1500) -> list[Step]:
    """Return a busy key and a quiet one, a tenth out of order, some late, some values missing."""
    random = np.random.default_rng(seed)
    newest, steps = 5_000, []
    for _ in range(size):
        back = random.integers(0, 45) if random.random() < 0.1 else -random.integers(0, 12)
        time = int(newest - back)
        late = time < newest - 30
        newest = max(newest, time)
        size_of = 10.0 ** random.integers(-6, 13)
        row = (
            float(random.normal() * size_of),
            None if random.random() < 0.1 else int(random.integers(-9, 9)),
        )
        steps.append(Step("x" if random.random() < 0.9 else "y", time, newest - 30, late, row))
    return steps


def test_a_long_history_equals_its_definition() -> None:
    steps = long_history(seed=7, size=500)
    wanted = [a for a in TWO_COLUMNS if a.function not in ("var", "mean") or a.window_ms == 150]
    oracle = Oracle(["a", "b"], wanted, 90)
    assert run(build(["a", "b"], wanted, 90), steps) == [oracle.see(step, own=True) for step in steps]
    assert oracle.evicted > 0
    assert sum(step.late for step in steps) > 5


LABELS = [
    by("card").count(label, 50),
    by("card").rate(label, 400),
    by("card").since_last(label, 400),
    *(getattr(by("card"), kind)(label, span) for kind in KINDS for span in (50, 400)),
]


@settings(max_examples=40, deadline=None)
@given(steps=histories(width=1), labels=st.lists(st.booleans(), min_size=60, max_size=60))
def test_label_windows_equal_their_definition(steps: list[Step], labels: list[bool]) -> None:
    """Labels come in any order, too old ones and ones ahead of all events among them."""
    windows, oracle = build([None], LABELS), Oracle([None], LABELS, 1000)
    for step, is_label in zip(steps, labels, strict=False):
        if is_label:
            windows.enter(step.key, step.time, step.watermark, step.row)
            oracle.enter(step)
            oracle.arrived += 1
        else:
            out: dict[Any, Any] = {}
            windows.read(step.key, event_of(step), out)
            assert out == oracle.see(step, own=False)


def state(windows: Windows) -> dict[str, bytes]:
    return dict(windows.entries())


def exactly(found: object) -> str:
    """Return text that tells -0.0 from 0.0 and 1 from 1.0."""
    return repr(found)


@settings(max_examples=40, deadline=None)
@given(steps=histories(), cut=st.integers(0, 60), event_max=st.sampled_from([3, 1000]))
def test_restored_windows_continue_to_the_bit(steps: list[Step], cut: int, event_max: int) -> None:
    steady = build(["a", "b"], TWO_COLUMNS, event_max)
    run(steady, steps[:cut])
    restored = build(["a", "b"], TWO_COLUMNS, event_max)
    restored.load(state(steady).items())
    assert exactly(run(restored, steps[cut:])) == exactly(run(steady, steps[cut:]))
    assert state(restored) == state(steady)
    assert len(restored) == len(steady)


@settings(max_examples=40, deadline=None)
@given(
    steps=histories(width=1), labels=st.lists(st.booleans(), min_size=60, max_size=60), cut=st.integers(0, 60)
)
def test_restored_label_windows_continue_to_the_bit(steps: list[Step], labels: list[bool], cut: int) -> None:
    """Whatever asks for a restored key first: a label, an event that reads it, time that forgets it."""

    def seen(windows: Windows, start: int, end: int) -> list[dict[Any, Any]]:
        found = []
        for step, is_label in list(zip(steps, labels, strict=False))[start:end]:
            out: dict[Any, Any] = {}
            if step.watermark >= windows.idle.due_ms:
                windows.forget(step.watermark)
            if is_label:
                windows.enter(step.key, step.time, step.watermark, step.row)
            else:
                windows.read(step.key, event_of(step), out)
            found.append(out)
        return found

    steady, restored = build([None], LABELS), build([None], LABELS)
    seen(steady, 0, cut)
    steady.changes()
    restored.load(state(steady).items())
    assert state(restored) == state(steady)
    assert exactly(seen(restored, cut, 60)) == exactly(seen(steady, cut, 60))
    assert dict(restored.changes()) == dict(steady.changes())
    assert state(restored) == state(steady)
    assert len(restored) == len(steady)


@settings(max_examples=40, deadline=None)
@given(steps=histories(), cuts=st.lists(st.integers(0, 60), max_size=4))
def test_deltas_add_up_to_the_snapshot(steps: list[Step], cuts: list[int]) -> None:
    windows, folded = build(["a", "b"], TWO_COLUMNS), {}
    bounds = [0, *sorted(cuts), len(steps)]
    for start, end in pairwise(bounds):
        run(windows, steps[start:end])
        untouched = state(windows)
        for key, data in windows.changes():
            if data is None:
                folded.pop(key, None)
            else:
                folded[key] = data
        assert folded == untouched == state(windows)
    assert not windows.changed


def test_boundaries_are_open_behind_and_closed_ahead() -> None:
    """The timeline of the module's docstring, in milliseconds.

    0    1    2    3    4         (t - 3, t] of the events at 3 and 4
         [---------]              at 3: 1, 2, 3
              [---------]         at 4: 2, 3, 4
    """
    windows = build([], [by("card").count(3), by("card").since_last(3)])
    steps = [Step("x", time, time, False, ()) for time in range(5)]
    assert run(windows, steps) == [{0: 1}, {0: 2, 1: 1}, {0: 3, 1: 1}, {0: 3, 1: 1}, {0: 3, 1: 1}]


def test_an_event_out_of_order_sees_its_own_time_and_is_seen_later() -> None:
    """Arrival: 10, 30, then 20 within the grace, then 31; the window is 15 wide."""
    windows = build(["a"], [by("card").count(15), by("card").sum("a", 15)])
    steps = [Step("x", time, 0, False, (float(time),)) for time in (10, 30, 20, 31)]
    assert [tuple(out.values()) for out in run(windows, steps)] == [
        (1, 10.0),
        (1, 30.0),
        (2, 30.0),
        (3, 81.0),
    ]


def test_a_late_event_is_scored_and_leaves_no_trace() -> None:
    windows = build(["a"], [by("card").sum("a", 100)])
    run(windows, [Step("x", 100, 100, False, (1.0,))])
    before = state(windows)
    assert run(windows, [Step("x", 90, 100, True, (5.0,))]) == [{0: 5.0}]
    assert run(windows, [Step("new", 90, 100, True, (5.0,))]) == [{0: 5.0}]
    assert state(windows) == before
    assert windows.evicted_events == 0


def test_idle_keys_go_by_event_time_alone() -> None:
    """A key goes once its newest entry has left the longest window, a sixty-fourth later at most."""
    windows = build([], [by("card").count(640)])
    run(windows, [Step("idle", 5, 5, False, ()), Step("busy", 5, 5, False, ())])
    run(windows, [Step("busy", time, time, False, ()) for time in range(6, 645)])
    assert (len(windows), windows.evicted_keys) == (2, 0)
    run(windows, [Step("busy", 645 + 10, 645 + 10, False, ())])
    assert (len(windows), windows.evicted_keys) == (1, 1)
    assert [key for key, data in windows.changes() if data is None] == ["idle"]
    run(windows, [Step("later", 10_000, 10_000, False, ())])
    assert [key for key, _ in windows.entries()] == ["later"]


@settings(max_examples=40, deadline=None)
@given(steps=histories(width=0))
def test_a_key_is_kept_as_long_as_it_may_be_seen_and_little_longer(steps: list[Step]) -> None:
    count = by("card").count(640)
    windows, newest = build([], [count]), {}
    for step in steps:
        run(windows, [step])
        if not step.late:
            newest[step.key] = max(newest.get(step.key, step.time), step.time)
        kept = {key for key, _ in windows.entries()}
        assert {key for key, time in newest.items() if time > step.watermark - 640} <= kept
        assert kept <= {key for key, time in newest.items() if time > step.watermark - 640 - 10}


def test_a_thousand_keys_that_moved_on_are_forgotten_once_each() -> None:
    windows = build([], [by("card").count(100)])
    for start in (0, 50, 90, 140):
        run(windows, [Step(str(number), start, start, False, ()) for number in range(1000)])
    run(windows, [Step("last", 1_000, 1_000, False, ())])
    assert (len(windows), windows.evicted_keys) == (1, 1000)


def test_memory_of_a_key_is_bounded_by_what_is_kept() -> None:
    windows = build(["a"], [by("card").sum("a", "1d")], event_max=50)
    run(windows, [Step("x", time, time, False, (1.0,)) for time in range(2_000)])
    (log,) = windows._logs.values()
    assert len(log.times) <= 2 * 51
    assert windows.evicted_events == 1_950


def test_out_of_range_numbers_are_missing_even_where_none_was_expected() -> None:
    """The kernels for columns without gaps give way to those that expect them, with the same values."""
    aggregates = aggregates_of((40, 300), "a")
    steps = [step._replace(row=(step.row[0],)) for step in long_history(seed=3, size=300)]
    steps[150] = steps[150]._replace(row=(None,))
    oracle = Oracle(["a"], aggregates, 1000)
    assert run(build(["a"], aggregates), steps) == [oracle.see(step, own=True) for step in steps]


def test_values_keep_their_type() -> None:
    windows = build(["a"], [by("card").last("a", 10), by("card").max("a", 10), by("card").sum("a", 10)])
    steps = [Step("x", 1, 1, False, (3,)), Step("x", 2, 2, False, (True,))]
    found = [dict(sorted(row.items())) for row in run(windows, steps)]
    assert exactly(found) == exactly([{0: 3, 1: 3, 2: 3.0}, {0: True, 1: 3, 2: 4.0}])
