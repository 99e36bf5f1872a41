"""What a definition may say about who answers, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from river import bandit, metrics, proba

from operators.race.routing import (
    Bandit,
    Canary,
    Guard,
    Policy,
    Serve,
    Shadow,
    Split,
    Switchback,
    check_serving,
)
from topics.errors import DefinitionError

REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: Canary(steps=()), "canary.steps"),
    (lambda: Canary(steps=(0.1, 0.05, 1.0)), "canary.steps"),
    (lambda: Canary(steps=(0.0, 1.0)), "canary.steps"),
    (lambda: Canary(steps=(0.1, 0.5)), "canary.steps"),
    (lambda: Canary(hold="1 day"), "duration"),
    (lambda: Canary(hold=0), "canary.hold"),
    (lambda: Canary(error=1.0), "canary.error"),
    (lambda: Guard(-0.1), "guard.worse"),
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
