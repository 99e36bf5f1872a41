"""What would another policy have given: estimates from a log in which other arms answered.

Lives here: three estimates of the mean reward of a policy that never ran, each with its interval.  Never
here: reading a log, what a reward is worth (`policy_machine.py`), what a policy that learns would have said
(`policy_replay.py`).

    ips    mean of  w r                                w = p(arm by the new policy) / p(arm as logged)
    snips  sum of w r / sum of w                       steadier, a little biased in small logs
    dr     mean of  sum_a p(a) q(a)  +  w (r - q)      q(a): the reward that arm a is thought to have

(D. G. Horvitz, D. J. Thompson, 1952; A. Swaminathan, T. Joachims, "The self-normalized estimator for
counterfactual learning", 2015; M. Dudik, J. Langford, L. Li, "Doubly robust policy evaluation and learning",
2011.)  The doubly robust one is right where propensities are, which they are in our logs, however bad q is,
and the better q the narrower its interval.  q is fitted per arm on half of the keys and used on the other.

Events of one key are no independent witnesses: the variance is that of sums by key.

The probabilities of a policy that learns differ from event to event.  That is right as long as they were
known before the event's own outcome: each term is then right given the past, so their mean estimates the mean
of what the policy gives on the way that it went.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from operators.models.table import share_of

__all__ = ["Estimate", "Logged", "off_policy"]

DEVIATIONS = 1.959964
"""Half the width of a 95 % interval, in standard deviations."""
FITTED_MIN = 20
"""Rewards of an arm below which it is thought to have the mean of all."""
FOLDS = "off-policy"
"""Salt of the hash that halves the keys."""

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class Logged(NamedTuple):
    """One answered event with its reward."""

    key: str
    arm: str
    propensity: float
    reward: float
    said: Mapping[str, float]
    """A number by arm that its reward may follow from: its score of the event."""


class Estimate(NamedTuple):
    """The mean reward of a policy."""

    method: str
    value: float
    low: float
    high: float
    """Ends of the 95 % interval."""
    effective: float
    """How many rows with equal weights would say as much: (sum of w)^2 / sum of w^2."""


def off_policy(rows: Sequence[Logged], chances: Sequence[Mapping[str, float]]) -> tuple[Estimate, ...]:
    """Return the estimates for a policy; `chances` are its probabilities by arm, row by row.

    Raises ValueError where there are no rows, or none in which an arm of the policy answered.

    >>> rows = [
    ...     Logged(str(n), "ab"[n % 2], 0.5, float(n % 4 == 1), {"a": 0.1, "b": 0.5}) for n in range(2000)
    ... ]
    >>> [(one.method, round(one.value, 2)) for one in off_policy(rows, [{"b": 1.0}] * 2000)]
    [('ips', 0.5), ('snips', 0.5), ('dr', 0.5)]
    """
    if not rows:
        raise ValueError("no example says with which probability its answer was picked")
    weights = np.array(
        [chance.get(row.arm, 0.0) / row.propensity for row, chance in zip(rows, chances, strict=True)]
    )
    if not weights.any():
        raise ValueError("no arm of this policy ever answered")
    rewards = np.array([row.reward for row in rows])
    numbers: dict[str, int] = {}
    keys = np.array([numbers.setdefault(row.key, len(numbers)) for row in rows])
    thought = _thought(rows)
    ours = np.array([by_arm[row.arm] for row, by_arm in zip(rows, thought, strict=True)])
    all_arms = np.array(
        [
            sum(chance * by_arm.get(arm, 0.0) for arm, chance in one.items())
            for one, by_arm in zip(chances, thought, strict=True)
        ]
    )
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    ones = np.ones(len(rows))
    return (
        _ratio("ips", weights * rewards, ones, keys, effective),
        _ratio("snips", weights * rewards, weights, keys, effective),
        _ratio("dr", all_arms + weights * (rewards - ours), ones, keys, effective),
    )


def _ratio(
    method: str, above: Floats, below: Floats, keys: np.ndarray[tuple[int, ...], np.dtype[np.int64]], n: float
) -> Estimate:
    """Return the ratio of two sums; keys are the independent witnesses (the delta method)."""
    value = float(above.sum() / below.sum())
    apart = np.bincount(keys, above - value * below)
    count = len(apart)
    spread = float((apart**2).sum()) * count / max(count - 1, 1)
    half = DEVIATIONS * math.sqrt(spread) / float(below.sum())
    return Estimate(method, value, value - half, value + half, n)


def _thought(rows: Sequence[Logged]) -> list[dict[str, float]]:
    """Return the reward that each arm is thought to have, row by row: a line through what it said.

    Each half of the keys is told by the line through the other.
    """
    halves = [share_of(FOLDS, row.key) < 0.5 for row in rows]
    lines = {
        half: _lines([r for r, h in zip(rows, halves, strict=True) if h != half]) for half in (True, False)
    }
    arms = {arm for row in rows for arm in (row.arm, *row.said)}
    return [
        {arm: _on_line(lines[half], arm, row.said.get(arm)) for arm in arms}
        for row, half in zip(rows, halves, strict=True)
    ]


def _lines(rows: Sequence[Logged]) -> dict[str, tuple[float, float]]:
    """Return offset and slope by arm; under `` those of an arm of which too little is known."""
    mean = sum(row.reward for row in rows) / len(rows) if rows else 0.0
    lines = {"": (mean, 0.0)}
    by_arm: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        by_arm.setdefault(row.arm, []).append((row.said.get(row.arm, 0.0), row.reward))
    for arm, pairs in by_arm.items():
        if len(pairs) < FITTED_MIN:
            continue
        said, reward = np.array(pairs).T
        spread = float(said.var())
        slope = (
            float(((said - said.mean()) * (reward - reward.mean())).mean()) / spread if spread > 0 else 0.0
        )
        lines[arm] = (float(reward.mean()) - slope * float(said.mean()), slope)
    return lines


def _on_line(lines: Mapping[str, tuple[float, float]], arm: str, said: float | None) -> float:
    offset, slope = lines.get(arm, lines[""])
    return offset + slope * (said or 0.0)
