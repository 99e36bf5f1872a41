"""What a definition may say about who answers, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from river import bandit, metrics, proba

from operators.race.losses import Objective, Quantile
from operators.race.routing import (
    Bandit,
    Canary,
    FailureGuard,
    Guard,
    LatencyGuard,
    Policy,
    Serve,
    Shadow,
    Split,
    Switchback,
    check_canary,
    check_serving,
)
from topics.errors import DefinitionError
from topics.messages import Task

REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: Canary(steps=()), "canary.steps"),
    (lambda: Canary(steps=(0.1, 0.05, 1.0)), "canary.steps"),
    (lambda: Canary(steps=(0.0, 1.0)), "canary.steps"),
    (lambda: Canary(steps=(0.1, 0.5)), "canary.steps"),
    (lambda: Canary(hold="1 day"), "duration"),
    (lambda: Canary(hold=0), "canary.hold"),
    (lambda: Canary(error=1.0), "canary.error"),
    (lambda: Guard(-0.1), "guard.worse"),
    (lambda: Guard(0.1, loss="accuracy"), "guard.loss"),  # type: ignore[arg-type]
    (lambda: Guard(0.1, loss={(True, False): -1.0}), "guard.loss"),
    (lambda: Guard(0.1, difference_max=0.0), "guard.difference_max"),
    (lambda: Canary(difference_max=-1.0), "canary.difference_max"),
    (lambda: Canary(guards=["slow"]), "canary.guards"),  # type: ignore[list-item]
    (lambda: Canary(guards=[LatencyGuard(5.0), LatencyGuard(9.0)]), "twice"),
    (lambda: LatencyGuard(0.0), "latency.limit_ms"),
    (lambda: LatencyGuard(5.0, quantile=1.0), "latency.quantile"),
    (lambda: LatencyGuard(5.0, window=0), "latency.window"),
    (lambda: FailureGuard(1.0), "failures.share"),
    (lambda: FailureGuard(0.1, window=1_000_000), "failures.window"),
    (lambda: Split({"a": 1.0}), "split.shares"),
    (lambda: Split({"a": 0.5, "b": 0.4}), "split.shares"),
    (lambda: Split({"a": 1.0, "b": 0.0}), "split.shares"),
    (lambda: Split({"a": 0.5, "b": 0.5}, unit="user"), "split.unit"),  # type: ignore[arg-type]
    (lambda: Split({"a": 0.5, "b": 0.5}, outcome="mine"), "split.outcome"),  # type: ignore[arg-type]
    (lambda: Split({"a": 0.5, "b": 0.5}, reward=(1.0, 1.0)), "split.reward"),
    (lambda: Split({"a": 0.5, "b": 0.5}, error=0.0), "split.error"),
    (lambda: Split({"a": 0.5, "b": 0.5}, min_examples=0), "split.min_examples"),
    (lambda: Switchback(("a", "a")), "switchback.arms"),
    (lambda: Switchback(("a", "b", "c")), "switchback.arms"),  # type: ignore[arg-type]
    (lambda: Switchback(("a", "b"), block="5m", washout="5m"), "switchback.washout"),
    (lambda: Bandit(bandit.RandomPolicy()), "bandit.policy"),
    (lambda: Bandit(bandit.LinUCBDisjoint(alpha=1)), "bandit.policy"),
    (lambda: Bandit(bandit.EpsilonGreedy(0.1, reward_obj=metrics.MAE())), "reward_obj"),
    (lambda: Bandit(bandit.ThompsonSampling(proba.Multinomial())), "reward_obj"),
    (lambda: Bandit(bandit.ThompsonSampling()), "reward_obj"),
    (lambda: Bandit(bandit.UCB(1.0), explore=0.0), "bandit.explore"),
    (lambda: Bandit(bandit.UCB(1.0), every=0), "bandit.every"),
    (lambda: Serve("0ms", backup="a"), "deadline"),
]


@pytest.mark.parametrize(("make", "told"), REFUSED)
def test_what_cannot_work_is_refused_with_its_place(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(DefinitionError, match=told) as refused:
        make()
    assert "fix: " in str(refused.value)


@pytest.mark.parametrize(
    "policy",
    [
        Shadow(),
        Canary(),
        Split({"a": 0.5, "b": 0.5}),
        Switchback(("a", "b")),
        Bandit(bandit.ThompsonSampling(proba.Beta())),
    ],
)
def test_policies_of_known_candidates_pass(policy: Policy) -> None:
    check_serving(policy, ["a", "b"], "binary")


def test_a_policy_that_names_nobody_is_refused() -> None:
    with pytest.raises(DefinitionError, match="`c`, which is no model"):
        check_serving(Split({"a": 0.5, "c": 0.5}), ["a", "b"], "binary")
    with pytest.raises(DefinitionError, match="a class is no reward"):
        check_serving(Split({"a": 0.5, "b": 0.5}, outcome="served"), ["a", "b"], "multiclass")


@pytest.mark.parametrize(
    ("canary", "objective", "task", "inside", "told"),
    [
        (Canary(guards=[Guard(1.0)]), "brier", "binary", False, "worse is 1, and no two losses"),
        (Canary(guards=[Guard(9.0, loss={(True, False): 8.0})]), "brier", "binary", False, "than 8"),
        (
            Canary(guards=[Guard(0.1, loss=metrics.LogLoss())]),
            "brier",
            "binary",
            False,
            "`LogLoss` is missing",
        ),
        (Canary(), metrics.MAE(), "regression", False, "canary.difference_max is missing, and MAE"),
        (
            Canary(guards=[Guard(0.1, loss=metrics.F1())]),
            "brier",
            "binary",
            False,
            "not the mean of its rows",
        ),
        (Canary(guards=[Guard(0.1, loss=Quantile(0.9))]), "brier", "binary", False, "no quantiles"),
        (
            Canary(guards=[FailureGuard(0.1)]),
            "brier",
            "binary",
            True,
            "FailureGuard is given and labels come",
        ),
    ],
)
def test_a_guard_that_cannot_be_kept_is_refused(
    canary: Canary, objective: Objective, task: Task, inside: bool, told: str
) -> None:
    with pytest.raises(DefinitionError, match=told) as refused:
        check_canary(canary, objective, {}, task, inside=inside)
    assert "fix: " in str(refused.value)


def test_guards_by_any_objective_pass() -> None:
    costs = Guard(4.0, loss={(True, False): 8.0, (False, True): 1.0})
    check_canary(
        Canary(guards=[Guard(0.1, loss=metrics.Accuracy()), costs]), "log", {}, "binary", inside=True
    )
    minutes = [Guard(5.0, loss=metrics.MAE(), difference_max=60.0), Guard(0.1, loss=Quantile(0.9))]
    check_canary(Canary(guards=minutes), "brier", {}, "regression", inside=False)
    check_canary(Canary(difference_max=60.0), metrics.MAE(), {}, "regression", inside=False)
