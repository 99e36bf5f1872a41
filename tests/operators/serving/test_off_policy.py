"""Estimates of policies that never ran cover the truth."""

from __future__ import annotations

import numpy as np
import pytest

from operators.serving.off_policy import Estimate, Logged, off_policy

RUNS = 150
MISSES_MAX = 0.05 + 3 * (0.05 * 0.95 / RUNS) ** 0.5
TARGET = {"a": 0.2, "b": 0.8}
EFFECT = {"a": 0.0, "b": 0.15}


def logs(rng: np.random.Generator, users: int, events: int) -> tuple[list[Logged], float]:
    """A log of shares that change, users who differ, scores that say something; and the target's truth."""
    base = rng.beta(2.0, 5.0, users)
    who = rng.choice(users, events, p=(weights := rng.pareto(2.0, users) + 0.2) / weights.sum())
    rows, truth = [], 0.0
    for number, user in enumerate(who):
        share = 0.5 if number < events / 2 else 0.15  # the logging policy had turned to `a`
        arm = "b" if rng.random() < share else "a"
        reward = float(rng.random() < base[user] + EFFECT[arm])
        said = {name: float(base[user] + EFFECT[name] + rng.normal(0.0, 0.1)) for name in EFFECT}
        rows.append(Logged(f"u{user}", arm, share if arm == "b" else 1.0 - share, reward, said))
    truth = float(np.mean(base[who])) + sum(TARGET[arm] * EFFECT[arm] for arm in EFFECT)
    return rows, truth


@pytest.fixture(scope="module")
def found() -> list[tuple[tuple[Estimate, ...], float]]:
    rng = np.random.default_rng(3)
    made = [logs(rng, 300, 1_500) for _ in range(RUNS)]
    return [(off_policy(rows, [TARGET] * len(rows)), truth) for rows, truth in made]


@pytest.mark.parametrize("number", range(3), ids=["ips", "snips", "dr"])
def test_the_interval_covers_what_the_policy_would_have_given(
    found: list[tuple[tuple[Estimate, ...], float]], number: int
) -> None:
    missed = [not one[number].low <= truth <= one[number].high for one, truth in found]
    assert np.mean(missed) <= MISSES_MAX


def test_a_doubly_robust_interval_is_the_narrowest(found: list[tuple[tuple[Estimate, ...], float]]) -> None:
    widths = np.array([[one.high - one.low for one in estimates] for estimates, _ in found]).mean(0)
    assert widths[2] < widths[1] < widths[0]


def test_the_mean_of_the_log_would_have_been_wrong() -> None:
    rng = np.random.default_rng(4)
    rows, truth = logs(rng, 300, 20_000)
    assert abs(np.mean([row.reward for row in rows]) - truth) > 0.05


def test_where_every_arms_reward_is_known_the_estimate_is_exact() -> None:
    rng = np.random.default_rng(5)
    rows = []
    for n in range(2_000):
        said = {"a": rng.random(), "b": rng.random()}
        arm = "ab"[int(rng.integers(0, 2))]
        rows.append(Logged(str(n % 200), arm, 0.5, said[arm], said))
    *_, dr = off_policy(rows, [{"b": 1.0}] * len(rows))
    assert dr.value == pytest.approx(np.mean([row.said["b"] for row in rows]), abs=1e-9)


def test_a_log_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no example says"):
        off_policy([], [])
    with pytest.raises(ValueError, match="no arm of this policy ever answered"):
        off_policy([Logged("k", "a", 1.0, 1.0, {})], [{"b": 1.0}])
