"""Guards take a canary back: by any loss, by measured times, by failed scores; nothing else does."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, metrics

from operators.models.scoring import Racer, Reply, Roster, Scoring
from operators.models.table import Table
from operators.race.arena import Arena, Moment
from operators.race.evidence import Promotion
from operators.race.losses import Objective, Quantile, loss_of
from operators.race.routing import Canary, CanaryGuard, FailureGuard, Guard, LatencyGuard, Timed
from operators.serving.canary import CanaryMachine
from operators.serving.policy_machine import Setting
from operators.serving.routes import routing_of
from topics.messages import Decision, Example, Slow, Task

NAMES = "ab"


def canary(
    *guards: CanaryGuard, task: Task = "binary", objective: Objective = "brier", **settings: Any
) -> tuple[CanaryMachine, Roster]:
    """A canary of `b` beside `a`, which has just begun."""
    roster = Roster(task, [Racer(n, None, version=v) for v, n in enumerate(NAMES, 1)], "a")
    setting = Setting("shop", Arena("shop", 0, roster, Promotion(loss=objective)), 0)
    policy = Canary(steps=(0.2, 1.0), hold=10_000, guards=guards, **settings)
    machine = routing_of(
        policy, setting, task=task, threshold=0.5, objective=objective, dump=pickle.dumps, load=pickle.loads
    )
    assert isinstance(machine, CanaryMachine)
    machine.begin(Moment(0, 0, 0), "b", {})
    return machine, roster


def example(number: int, label: Any, scores: dict[str, Any], revision: int = 1, **more: Any) -> Example:
    told = {"policy": "canary", "policy_revision": revision, "propensity": 0.8} | more
    return Example(
        f"e{number}", "k", number, number, label, {}, scores, None, "champion", "a", 0, number, number, 1,
        number, **told,
    )  # fmt: skip


def step(machine: CanaryMachine, row: Example, losses: dict[str, float | None]) -> list[Decision]:
    return machine.act(Moment(row.event_offset, row.label_time, 0)) if machine.observe(row, losses) else []


# -- failed scores ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.booleans(), max_size=120),
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25]), st.integers(1, 40)), min_size=1, max_size=2),
    st.integers(0, 120),
)
def test_a_failure_guard_breaks_where_its_window_holds_more_than_its_share(
    failed: list[bool], asked: list[tuple[float, int]], cut: int
) -> None:
    """Against all rows written down; a restore in the middle changes nothing."""
    guards = [FailureGuard(share, window, f"{n}") for n, (share, window) in enumerate(asked)]
    machine, roster = canary(*guards)
    for number, fails in enumerate(failed):
        if number == cut:
            entries, (machine, roster) = machine.snapshot(), canary(*guards)
            machine.restore(entries)
        row = example(number, True, {"a": 0.5} if fails else {"a": 0.5, "b": 0.5})
        decisions = step(machine, row, {"a": 0.1} if fails else {"a": 0.1, "b": 0.1})
        seen = failed[: number + 1]
        broken = [one for one in guards if sum(seen[-one.window :]) > one.share * one.window]
        assert [one.reason for one in decisions] == [f"guard: {one.named}" for one in broken[:1]]
        if broken:
            evidence = decisions[0].evidence
            assert evidence["failed"] == sum(seen[-broken[0].window :])
            assert evidence["window"] == min(number + 1, broken[0].window)
            assert roster.routing is None
            return
    assert roster.routing is not None
    assert roster.routing.tolerated == ("b",)


def test_a_pick_that_had_no_answer_is_a_failure_and_what_was_answered_before_is_none() -> None:
    machine, _ = canary(FailureGuard(0.0))
    losses: dict[str, float | None] = {"a": 0.1, "b": 0.1}
    both = {"a": 0.5, "b": 0.5}
    assert step(machine, example(1, True, {"a": 0.5}, policy="", policy_revision=0), {"a": 0.1}) == []
    assert step(machine, example(2, True, {"a": 0.5}, revision=0), {"a": 0.1}) == []
    assert step(machine, example(3, True, both), losses) == []
    [aborted] = step(machine, example(4, True, both, propensity=None), losses)
    assert (aborted.type, aborted.reason) == ("canary.aborted", "guard: failures")
    assert (aborted.evidence["failed"], aborted.evidence["window"], aborted.evidence["allowed"]) == (
        1,
        2,
        0.0,
    )


@pytest.mark.parametrize(("rate", "taken_back"), [(0.002, 0), (0.03, 10)])
def test_a_share_of_failures_far_from_the_bound_is_told_from_it(rate: float, taken_back: int) -> None:
    """Of 10 canaries with a bound of 1 % over 1,000 rows, for 3,000 rows each."""
    rng, aborted = np.random.default_rng(5), 0
    for _ in range(10):
        machine, roster = canary(FailureGuard(0.01, window=1_000))
        for number in range(3_000):
            fails = bool(rng.random() < rate)
            scores: dict[str, Any] = {"a": 0.5} if fails else {"a": 0.5, "b": 0.5}
            step(machine, example(number, True, scores), dict.fromkeys(scores, 0.1))
            if roster.routing is None:
                aborted += 1
                break
    assert aborted == taken_back


class Odd(linear_model.LogisticRegression):
    """Fails at some rows."""

    def predict_proba_one(self, x: Any) -> Any:
        if x["x"] < 0:
            raise RuntimeError("odd")
        return super().predict_proba_one(x)


@pytest.mark.parametrize("tolerated", [(), ("b",)])
def test_a_tolerated_candidate_loses_the_event_and_is_asked_again(tolerated: tuple[str, ...]) -> None:
    racers = [Racer("a", linear_model.LogisticRegression(), version=1), Racer("b", Odd(), version=2)]
    roster = Roster("binary", racers, "a")
    roster.routing = Table("canary", "s", 1, (("b", 1.0), ("a", 0.0)), tolerated=tolerated)
    scoring = Scoring("binary", roster)
    rows = [{"x": 1.0}, {"x": -1.0}, {"x": 1.0}, {"x": -1.0}]
    picks = [roster.routing.pick("k", str(n), 0) for n in range(4)]
    served = scoring.serve_picked(rows, picks)
    again = scoring.shadow_all(
        [Reply(x, one.model_name, one.score) for x, one in zip(rows, served, strict=True)]
    )
    answered = ["b", "a", "b", "a"] if tolerated else ["b", "a", "a", "a"]
    assert [one.model_name for one in served] == answered
    assert [one.pick is not None and one.pick.propensity for one in served] == [
        1.0 if name == "b" else None for name in answered
    ]
    assert ["b" in one.scores for one in again] == [name == "b" for name in answered]
    told = [failure.tolerated for one in (*served, *again) for failure in one.failures]
    assert told == ([True] * 4 if tolerated else [False])


# -- times --------------------------------------------------------------------------------------------


def test_a_measured_time_takes_back_the_canary_that_it_is_of() -> None:
    guards = LatencyGuard(5.0, name="slow"), LatencyGuard(20.0, quantile=0.99)
    machine, roster = canary(*guards)
    assert machine.timed == Timed("b", 1, guards)
    at, report = Moment(9, 9, 9), Slow("b", 2, 0, 31.5, 20.0, 1_000, "latency at 0.99")
    for other in (
        Slow("a", 1, 0, 31.5, 20.0, 1_000, "slow"),
        Slow("b", 1, 0, 31.5, 20.0, 1_000, "slow"),
        Slow("b", 2, 0, 31.5, 20.0, 1_000, "latency at 0.5"),
    ):
        assert machine.too_slow(at, other) == []
    [aborted] = machine.too_slow(at, report)
    assert (aborted.type, aborted.reason) == ("canary.aborted", "guard: latency at 0.99")
    assert aborted.evidence == {
        "share": 0.2, "examples": 0, "latency_ms": 31.5, "quantile": 0.99, "window": 1_000, "allowed": 20.0,
        "challenger": "b",
    }  # fmt: skip
    assert (roster.routing, machine.timed) == (None, None)
    assert machine.too_slow(at, report) == [], "there is nothing to take back"


# -- losses -------------------------------------------------------------------------------------------


def turned(
    guards: Sequence[Guard], rows: Sequence[tuple[Any, dict[str, Any]]], task: Task, **settings: Any
) -> Any:
    """What takes a canary back, after how many rows; by the loss of the race its challenger is better."""
    machine, _ = canary(*guards, task=task, **settings)
    for number, (label, scores) in enumerate(rows, 1):
        if number == 20:
            entries = machine.snapshot()
            machine, _ = canary(*guards, task=task, **settings)
            machine.restore(entries)
        if decisions := step(machine, example(number, label, scores), {"a": 0.2, "b": 0.1}):
            return decisions[0].reason, number, decisions[0].evidence
    return None


def binary_rows() -> list[tuple[bool, dict[str, Any]]]:
    rng = np.random.default_rng(8)
    labels = rng.random(1_500) < 0.5
    return [
        (bool(y), {"a": 0.9 if y else 0.1, "b": 0.6 if y ^ (rng.random() < 0.4) else 0.4}) for y in labels
    ]


def test_a_guard_by_a_metric_is_the_guard_by_the_loss_that_it_is() -> None:
    rows = binary_rows()
    by_name = turned([Guard(0.1, loss="zero_one", name="errors")], rows, "binary")
    by_metric = turned([Guard(0.1, loss=metrics.Accuracy(), name="errors")], rows, "binary")
    by_costs = {(True, False): 1.0, (False, True): 1.0}
    assert by_name is not None
    assert by_name[0] == "guard: errors"
    assert by_name == by_metric == turned([Guard(0.1, loss=by_costs, name="errors")], rows, "binary")


def test_costs_are_told_in_their_units() -> None:
    tenfold = {(True, False): 10.0, (False, True): 10.0}
    reason, number, evidence = turned([Guard(1.0, loss=tenfold)], binary_rows(), "binary")
    one = turned([Guard(0.1, loss="zero_one", name="cost")], binary_rows(), "binary")
    assert (reason, number) == ("guard: cost", one[1])
    assert evidence["allowed"] == 1.0
    assert evidence["worse"] == pytest.approx(10.0 * one[2]["worse"])
    assert evidence["low"] > 1.0


@pytest.mark.parametrize(
    "guard",
    [
        Guard(5.0, loss=metrics.MAE(), difference_max=60.0),
        Guard(25.0, loss=metrics.MSE(), difference_max=3_600.0),
        Guard(0.05, loss=Quantile(0.9)),
    ],
    ids=lambda guard: guard.named,
)
def test_a_regression_is_guarded_by_metrics_and_quantiles(guard: Guard) -> None:
    """The scale of a quantile's loss goes through the restore in the middle: `turned` makes one."""
    rng = np.random.default_rng(9)
    labels = rng.normal(100.0, 20.0, 3_000)
    low = [(float(y), {"a": float(y), "b": float(y) - 30.0}) for y in labels]
    same = [(float(y), {"a": float(y), "b": float(y) - 1.0}) for y in labels]
    reason, number, evidence = turned([guard], low, "regression")
    assert reason == f"guard: {guard.named}"
    assert 20 < number < 500
    loss = loss_of("regression", guard.loss or "brier")
    if isinstance(guard.loss, metrics.base.Metric):
        assert evidence["worse"] == pytest.approx(loss(130.0, 100.0), rel=0.05)
    else:
        assert evidence["worse"] == pytest.approx(1.8 * 30.0 / (4 * 20.0), rel=0.2)
    assert turned([guard], same, "regression") is None
