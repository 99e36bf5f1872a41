"""Compiled logs against the plain ones: the same values, state and counts to the bit, however events are cut.

Plain windows are held against their definition in `test_windows.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import by, columns, field, lookup
from operators.batches import MANY_MAX, MANY_MIN
from operators.columns import ColumnLogs, column_logs
from operators.features import Features
from operators.kernels import Target
from operators.language.by import Expression
from operators.language.fields import Aggregate
from operators.language.plan import compile_features
from operators.windows import Windows
from topics.messages import Event

GRACE = 30
KINDS = ("sum", "mean", "min", "max", "first", "last")


class Payment(msgspec.Struct):
    card: str
    a: float
    b: float


def definition(spans: Sequence[int], fields: Iterable[str]) -> dict[str, Expression]:
    card, found = by("card"), dict[str, Expression]()
    for span in spans:
        found[f"n{span}"], found[f"rate{span}"] = card.count(span), card.rate(span)
        found[f"since{span}"] = card.since_last(span)
        found |= {
            f"{kind}_{name}{span}": getattr(card, kind)(name, span) for name in fields for kind in KINDS
        }
    return found


TWO = definition((40, 1000), "ab") | {
    "a": field("a"),
    "share": by("card").sum("a", 40) / by("card").sum("a", 1000),
    "gap": by("card").since_last(70).default(-1),
    "found": lookup("card:{card}", "limit", default=1.0) * 2,
}
ONE = definition((150,), "a")
NONE = definition((10, 100, 5000), "")


def features_of(
    described: dict[str, Expression], event_max: int = 1000, *, compiled: bool = True
) -> Features:
    plan = compile_features(
        described, Payment, grace_ms=GRACE, max_events_per_key=event_max, task="regression"
    )
    return Features(plan, compiled=compiled)


def windows_of(features: Features) -> Windows:
    (windows,) = features._windows
    assert isinstance(windows, Windows)
    return windows


def logs_of(features: Features) -> ColumnLogs:
    logs = windows_of(features)._calm_logs
    assert isinstance(logs, ColumnLogs)
    return logs


def run(features: Features, events: Sequence[Event], sizes: Sequence[int]) -> list[Any]:
    rows: list[Any] = []
    for size in cycle(sizes):
        part = events[len(rows) : len(rows) + size]
        rows += features.step_events(part, [{"card:x": {}}] * len(part) if features.plan.lookups else None)
        if len(rows) == len(events):
            return rows
    raise AssertionError


def event(number: int, time: int, watermark: int, value: Payment, *, late: bool = False) -> Event:
    return Event(str(number), time, value.card, value, offset=number, watermark=watermark, late=late)


def long_history(seed: int, size: int, *, keys: int, odd: bool) -> list[Event]:
    """Return events of which a tenth is out of order, some late, some after a pause, some with odd values."""
    chance, newest, events = random.Random(seed), 5_000, []

    def number() -> Any:
        kind = chance.random()
        if odd and kind < 0.02:
            return chance.choice([1e-9, 3, 1e14, 1e-70, float("nan"), None, -0.0])
        return float(chance.randrange(-3, 4)) if kind < 0.3 else round(chance.lognormvariate(3, 1), 2)

    for place in range(size):
        kind = chance.random()
        step = 3_000 if kind < 0.002 else -chance.randrange(45) if kind < 0.1 else chance.randrange(12)
        time = newest + step
        late, newest = time < newest - GRACE, max(newest, time)
        card = str(int(chance.paretovariate(0.7)) % keys)
        events.append(event(place, time, newest - GRACE, Payment(card, number(), number()), late=late))
    return events


def assert_same(plain: Features, *others: Features) -> None:
    delta = plain.delta()
    for other in others:
        assert other.snapshot() == plain.snapshot()
        assert (other.evicted_events, other.evicted_keys) == (plain.evicted_events, plain.evicted_keys)
        assert other.key_count == plain.key_count
        assert other.delta() == delta


@pytest.mark.parametrize("described", [TWO, ONE, NONE], ids=["two", "one", "none"])
@pytest.mark.parametrize(("keys", "event_max"), [(3, 1000), (50, 20), (1000, 1000), (4, 5)])
@pytest.mark.parametrize("odd", [False, True])
def test_long_histories_have_the_values_of_plain_windows(
    described: dict[str, Expression], keys: int, event_max: int, odd: bool
) -> None:
    events = long_history(keys + odd, 2_500, keys=keys, odd=odd)
    plain = features_of(described, event_max, compiled=False)
    many, few = features_of(described, event_max), features_of(described, event_max)
    wanted = run(plain, events, [7])
    assert repr(run(many, events, [500, MANY_MIN, 2 * MANY_MAX])) == repr(wanted)
    assert repr(run(few, events, [1, MANY_MIN - 1, 40])) == repr(wanted)
    assert_same(plain, many, few)
    assert odd or event_max == 5 or len(logs_of(many)) > 0


numbers = st.one_of(
    st.integers(-1_000, 100_000).map(lambda cents: cents / 100),
    st.floats(-1e12, 1e12),
    st.sampled_from([0.0, -0.0, 1e-9, 1e15, 2, None]),
)
jumps = st.one_of(st.integers(0, 60), st.integers(-90, 20), st.sampled_from([0, 0, 1, 40, 500, 2000]))


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Return events in order, with ties, out of order within the grace, late, and with odd values."""
    newest, events = draw(st.integers(0, 3)) * 10_000, []
    steps = st.tuples(jumps, st.builds(Payment, st.sampled_from("xxxyz"), numbers, st.just(1.5)))
    for number, (jump, value) in enumerate(draw(st.lists(steps, min_size=MANY_MIN, max_size=90))):
        time = newest + jump
        late, newest = time < newest - GRACE, max(newest, time)
        events.append(event(number, time, newest - GRACE, value, late=late))
    return events


@settings(max_examples=60, deadline=None)
@given(
    events=histories(),
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    event_max=st.sampled_from([1, 3, 1000]),
)
def test_any_history_has_the_values_of_plain_windows(
    events: list[Event], sizes: list[int], event_max: int
) -> None:
    plain, compiled = features_of(TWO, event_max, compiled=False), features_of(TWO, event_max)
    assert repr(run(compiled, events, sizes)) == repr(run(plain, events, [1]))
    assert_same(plain, compiled)


@settings(max_examples=30, deadline=None)
@given(events=histories(), cut=st.integers(1, MANY_MIN - 1), is_compiled=st.booleans())
def test_state_goes_from_plain_windows_to_compiled_ones_and_back(
    events: list[Event], cut: int, is_compiled: bool
) -> None:
    steady, restored = features_of(TWO, compiled=is_compiled), features_of(TWO, compiled=not is_compiled)
    run(steady, events[:cut], [500])
    restored.restore(steady.snapshot())
    assert repr(run(restored, events[cut:], [500])) == repr(run(steady, events[cut:], [500]))
    assert restored.snapshot() == steady.snapshot()


def test_deltas_add_up_to_the_snapshot() -> None:
    events, features, folded = (
        long_history(3, 2_000, keys=200, odd=True),
        features_of(TWO),
        dict[str, bytes](),
    )
    for start in range(0, len(events), 90):
        run(features, events[start : start + 90], [90])
        for name, data in features.delta().items():
            if data is None:
                folded.pop(name, None)
            else:
                folded[name] = data
        assert folded == features.snapshot()


def steady_events(count: int, key: str, value: float) -> list[Event]:
    return [event(place, place, place, Payment(key, value, value)) for place in range(count)]


def test_sums_that_go_out_of_bounds_are_left_to_plain_windows() -> None:
    """The second float of this value grows in one direction, and fills its bits after 8192 entries."""
    events = steady_events(9_000, "x", 1.0 + 0.49 * 2.0**-29)
    described = {"sum": by("card").sum("a", "1h"), "mean": by("card").mean("a", 500)}
    plain, compiled = features_of(described, 100_000, compiled=False), features_of(described, 100_000)
    assert run(compiled, events[:8_000], [500]) == run(plain, events[:8_000], [500])
    assert list(logs_of(compiled)) == ["x"]
    assert run(compiled, events[8_000:], [500]) == run(plain, events[8_000:], [500])
    assert list(logs_of(compiled)) == []
    assert_same(plain, compiled)


def test_numbers_may_grow_but_not_for_ever() -> None:
    """Sums are split for numbers like the first; larger ones change that, as long as the small ones fit."""
    described = {"sum": by("card").sum("a", "1h"), "max": by("card").max("b", "1h")}
    for sizes, stay in (([0.25, 900.0, 1e6], True), ([0.1, 1e9, 2.0], False)):
        values = [size * (1 + place % 7) for place, size in enumerate(islice(cycle(sizes), 600))]
        events = [
            event(place, place, place, Payment(f"key-{place % 3 + 3 * (place // 60)}", value, value))
            for place, value in enumerate(values)
        ]
        plain = features_of(described, compiled=False)
        many, few = features_of(described), features_of(described)
        wanted = run(plain, events, [1])
        assert run(many, events, [100]) == wanted
        assert run(few, events, [1]) == wanted
        assert_same(plain, many, few)
        assert [len(windows_of(features)._logs) == 0 for features in (many, few)] == [stay, stay]


def test_numbers_of_all_sizes_go_one_by_one_for_a_while() -> None:
    """Batches that stop at every other event give way to single events, and come back when that is over."""
    chance = random.Random(11)
    values = [chance.lognormvariate(0, 12) for _ in range(1_500)] + [2.0] * 8_000
    events = [
        event(place, place, place, Payment(f"key-{place % 40}", value, value))
        for place, value in enumerate(values)
    ]
    described = definition((40, 300), "ab")
    plain, compiled = features_of(described, compiled=False), features_of(described)
    rests = []
    for start in range(0, len(events), 100):
        part = events[start : start + 100]
        assert compiled.step_events(part) == plain.step_events(part)
        rests.append(windows_of(compiled).run.__self__._rest > 0)  # type: ignore[union-attr, attr-defined]
    assert any(rests[:15])
    assert not rests[-1]
    assert_same(plain, compiled)


def test_what_forgotten_keys_had_is_used_again() -> None:
    """Ten thousand keys one after the other need the room of those in one window."""
    described = {"max": by("card").max("a", 100)}
    features = features_of(described)
    events = [event(n, n, n, Payment(f"key-{n // 20}", float(n % 7), 0.0)) for n in range(200_000)]
    run(features, events[:20_000], [500])
    sizes = [array.shape for array in logs_of(features).kept]
    run(features, events[20_000:], [500])
    assert [array.shape for array in logs_of(features).kept] == sizes
    assert features.evicted_keys > 9_900


def test_a_key_that_was_busy_is_looked_through_again() -> None:
    described = {"n": by("card").count(100), "sum": by("card").sum("a", 100)}
    slow = [event(n, 10_000 + 40 * n, 10_000 + 40 * n, Payment("x", 1.0, 0.0)) for n in range(200)]
    features, plain = features_of(described), features_of(described, compiled=False)
    for part in (steady_events(300, "x", 2.5), slow):
        assert run(features, part, [100]) == run(plain, part, [100])
    assert_same(plain, features)


def targets_of(*aggregates: Aggregate) -> list[Target]:
    return [Target(number, aggregate) for number, aggregate in enumerate(aggregates)]


def test_only_what_compiled_code_can_read_is_kept_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    card = by("card")
    wanted = targets_of(card.count("1h"), card.max("a", "1h"))
    assert column_logs(["a"], wanted, 10) is not None
    assert column_logs(["a"], targets_of(card.var("a", "1h")), 10) is None
    assert column_logs([], targets_of(card.count("1h", include_current=False)), 10) is None
    monkeypatch.setattr(columns, "find_spec", lambda _: None)
    assert column_logs(["a"], wanted, 10) is None


def test_only_groups_of_floats_that_all_events_enter_are_compiled() -> None:
    class Other(msgspec.Struct):
        card: str
        a: float
        whole: int
        maybe: float | None = None

    card = by("card")
    groups: list[tuple[dict[str, Expression], bool]] = [
        ({"n": card.count("1h")}, True),
        ({"a": card.sum("a", "1h"), "share": card.sum("a", "1m") / card.sum("a", "1h")}, True),
        ({"whole": card.sum("whole", "1h")}, False),
        ({"maybe": card.sum("maybe", "1h")}, False),
        ({"log": card.sum(field("a").log(), "1h")}, False),
        ({"some": card.sum("a", "1h", where=field("whole") > 1)}, False),
        ({"n": card.count("1h"), "all": by().count("1h")}, False),
    ]
    for described, is_compiled in groups:
        plan = compile_features(described, Other, grace_ms=0, max_events_per_key=10, task="regression")
        found = [getattr(windows, "_calm_logs", None) for windows in Features(plan)._windows]
        assert [isinstance(logs, ColumnLogs) for logs in found] == [is_compiled] * len(found)
        assert not any(
            isinstance(windows._calm_logs, ColumnLogs)
            for windows in islice(Features(plan, compiled=False)._windows, 1)
            if isinstance(windows, Windows)
        )
