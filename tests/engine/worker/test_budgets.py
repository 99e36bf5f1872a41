"""The times of a model are of that model: not of the one that had its name, nor of those that have left."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.worker.budgets import LOOKS, ROWS_MIN, TURNS_MIN, Budgets, Latencies
from operators.models.scoring import Racer
from operators.race.routing import LatencyGuard, Timed


def measured(budgets: Budgets, name: str, ms: float) -> None:
    for _ in range(TURNS_MIN):
        rows = ROWS_MIN // TURNS_MIN + 1
        budgets.measure({("score", name): ms * rows / 1_000}, scored=rows, learned=0)


def test_another_model_of_the_name_begins_anew() -> None:
    budgets, tree = Budgets({"tree": 2.0}), Racer("tree", None, version=1)
    measured(budgets, "tree", 5.0)
    assert [slow.model_version for slow in budgets.over({"tree": tree}, 0)] == [1]
    assert budgets.over({"tree": tree}, 1) == [], "told once"
    tree.version = 2
    assert budgets.over({"tree": tree}, 2) == []
    measured(budgets, "tree", 1.0)
    assert budgets.over({"tree": tree}, 3) == []
    tree.version = 3
    assert budgets.over({"tree": tree}, 4) == []
    measured(budgets, "tree", 5.0)
    assert [slow.model_version for slow in budgets.over({"tree": tree}, 5)] == [3]


def test_nothing_is_kept_of_those_that_have_left() -> None:
    budgets = Budgets({"tree": 2.0})
    for version in range(1, 50):
        name = f"tree-{version}"
        measured(budgets, name, 5.0)
        budgets.over({name: Racer(name, None, version=version, definition="tree")}, version)
    assert len(budgets._spent_ms) == len(budgets._rows) == len(budgets._told) == 1


@given(
    st.lists(st.tuples(st.floats(0.1, 9.0), st.integers(0, 30)), max_size=60),
    st.lists(st.tuples(st.sampled_from([0.5, 0.9, 0.99]), st.integers(1, 200)), min_size=1, max_size=2),
)
def test_a_guard_sees_the_quantile_of_the_latest_events(
    turns: list[tuple[float, int]], asked: list[tuple[float, int]]
) -> None:
    """Against every event written down with the mean of its turn."""
    guards = tuple(LatencyGuard(5.0, q, window, name=f"{n}") for n, (q, window) in enumerate(asked))
    latencies, events, unlooked = Latencies(Timed("b", 1, guards), version=2), list[float](), 0
    told: set[str] = set()
    for ms, rows in turns:
        latencies.measure({("score", "b"): ms * rows / 1_000, ("learn", "b"): 9.0}, scored=rows)
        events += [ms] * rows
        unlooked += rows
        expected = []
        if unlooked >= min(window for _, window in asked) / LOOKS:
            unlooked = 0
            for guard in guards:
                latest = sorted(events[-guard.window :])
                if guard.named in told or len(events) < guard.window:
                    continue
                found = latest[ceil(guard.quantile * guard.window) - 1]
                if found > guard.limit_ms + 1e-9:
                    expected.append((guard.named, pytest.approx(found), 2))
                    told.add(guard.named)
        if not any(abs(ms - 5.0) < 1e-6 for ms, _ in turns):
            found_now = latencies.over(7)
            assert [(one.guard, one.median_ms, one.model_version) for one in found_now] == expected
            assert len(latencies._turns) <= max(window for _, window in asked) + 1
