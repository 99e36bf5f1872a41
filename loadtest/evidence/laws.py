"""Losses of a champion minus losses of a challenger, label by label, of many runs.

Lives here: laws by which two models err.  Never here: what is decided by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BROKEN", "COLLAPSES", "CORRELATION_LENGTHS", "EQUAL", "ERRS", "SHIFTS", "Floats", "Law"]

Floats = npt.NDArray[np.float64]
Law = Callable[[np.random.Generator, int, int], Floats]
"""(generator, runs, labels) -> loss(champion) - loss(challenger), one row a run."""

ERRS = 0.2
"""How often a model errs where nothing else is said."""
BROKEN = 0.8
"""How often a champion errs that has collapsed."""


def errors(rng: np.random.Generator, runs: int, labels: int, share: float) -> Floats:
    """Return independent errors, 1.0 or 0.0."""
    return (rng.random((runs, labels)) < share).astype(float)


def bursts(rng: np.random.Generator, runs: int, labels: int, length: int, share: float = ERRS) -> Floats:
    """Return errors in bursts of this mean length: a Markov chain of two states."""
    ends = 1.0 / length
    begins = ends * share / (1.0 - share)
    found = np.empty((runs, labels))
    state = rng.random(runs) < share
    for label in range(labels):
        chance = rng.random(runs)
        state = np.where(state, chance >= ends, chance < begins)
        found[:, label] = state
    return found


def autoregression(rng: np.random.Generator, runs: int, labels: int, of: float, noise: float = 0.0) -> Floats:
    """Return a first-order autoregression of deviation .2, cut at 1, with independent noise on top."""
    found = np.empty((runs, labels))
    innovation = 0.2 * math.sqrt(1.0 - of * of)
    state = 0.2 * rng.standard_normal(runs)
    for label in range(labels):
        state = of * state + innovation * rng.standard_normal(runs)
        found[:, label] = state
    if noise:
        found += noise * rng.standard_normal(found.shape)
    return np.clip(found, -1.0, 1.0)


def _independent(rng: np.random.Generator, runs: int, labels: int) -> Floats:
    return errors(rng, runs, labels, ERRS) - errors(rng, runs, labels, ERRS)


def _brier(rng: np.random.Generator, runs: int, labels: int) -> Floats:
    """Brier losses of two models that see the same chance, each with noise of its own."""
    chance = rng.beta(1.0, 4.0, (runs, labels))
    truth = rng.random((runs, labels)) < chance
    one, other = (np.clip(chance + 0.1 * rng.standard_normal((runs, labels)), 0.0, 1.0) for _ in range(2))
    return np.asarray((one - truth) ** 2 - (other - truth) ** 2)


def _rare(rng: np.random.Generator, runs: int, labels: int) -> Floats:
    """Brier losses where .8 % of labels are true."""
    chance = np.clip(rng.gamma(0.3, 0.008 / 0.3, (runs, labels)), 0.0, 0.9)
    truth = rng.random((runs, labels)) < chance
    one, other = (
        np.clip(chance * np.exp(0.5 * rng.standard_normal((runs, labels))), 0.0, 1.0) for _ in range(2)
    )
    return np.asarray((one - truth) ** 2 - (other - truth) ** 2)


def _heavy(rng: np.random.Generator, runs: int, labels: int) -> Floats:
    """Losses with a tail of index 1.1 (Pareto), cut at 1."""
    one, other = (np.minimum(0.01 * (rng.pareto(1.1, (runs, labels)) + 1.0), 1.0) for _ in range(2))
    return np.asarray(one - other)


def _in_bursts(length: int) -> Law:
    return lambda rng, runs, labels: bursts(rng, runs, labels, length) - bursts(rng, runs, labels, length)


def _autoregressive(of: float, noise: float = 0.0) -> Law:
    return lambda rng, runs, labels: autoregression(rng, runs, labels, of, noise)


EQUAL: dict[str, Law] = {
    "independent 0/1": _independent,
    "Brier": _brier,
    "rare, .8 %": _rare,
    "heavy tails": _heavy,
    "bursts of 5": _in_bursts(5),
    "bursts of 20": _in_bursts(20),
    "bursts of 100": _in_bursts(100),
    "bursts of 500": _in_bursts(500),
    "AR .99": _autoregressive(0.99),
    "AR .999": _autoregressive(0.999),
    "AR .999 in noise": _autoregressive(0.999, 0.4),
}
"""Two models of one law: every swap is a false one."""


def _after(labels: int, change: int) -> npt.NDArray[np.bool_]:
    return np.arange(labels) >= change


def shift(before: float, after: float) -> Callable[[int], Law]:
    """Return the law of a champion that errs .2 and a challenger that errs `before`, then `after`."""

    def of(change: int) -> Law:
        def law(rng: np.random.Generator, runs: int, labels: int) -> Floats:
            challenger = np.where(_after(labels, change), after, before)
            return errors(rng, runs, labels, ERRS) - (rng.random((runs, labels)) < challenger)

        return law

    return of


SHIFTS: dict[str, Callable[[int], Law]] = {
    "equal, then better by .05": shift(0.2, 0.15),
    "equal, then better by .02": shift(0.2, 0.18),
    "worse by .05, then better by .05": shift(0.25, 0.15),
    "worse by .3, then better by .05": shift(0.5, 0.15),
}
"""By name, the law of a challenger that becomes better at a label."""


def collapse(base: Law, amount: float = 0.0) -> Callable[[int], Law]:
    """Return the law of a champion that errs 80 % from a label on, or whose loss rises by `amount`.

    Before, and the challenger for ever, both err as `base` says.
    """

    def of(change: int) -> Law:
        def law(rng: np.random.Generator, runs: int, labels: int) -> Floats:
            after = _after(labels, change)
            if amount:
                return np.clip(base(rng, runs, labels) + amount * after, -1.0, 1.0)
            champion = np.where(after, errors(rng, runs, labels, BROKEN), base(rng, runs, labels))
            return np.asarray(champion - base(rng, runs, labels))

        return law

    return of


def _errors_in_bursts(length: int) -> Law:
    return lambda rng, runs, labels: bursts(rng, runs, labels, length)


COLLAPSES: dict[str, Callable[[int], Law]] = {
    "independent 0/1": collapse(lambda rng, runs, labels: errors(rng, runs, labels, ERRS)),
    "bursts of 20": collapse(_errors_in_bursts(20)),
    "bursts of 100": collapse(_errors_in_bursts(100)),
    "bursts of 500": collapse(_errors_in_bursts(500)),
    "AR .99": collapse(_autoregressive(0.99), BROKEN - ERRS),
    "AR .999": collapse(_autoregressive(0.999), BROKEN - ERRS),
}
"""By name, the law of a champion that breaks at a label: 20 % errors before, 80 % after."""
CORRELATION_LENGTHS: dict[str, int] = {
    "independent 0/1": 1,
    "bursts of 20": 20,
    "bursts of 100": 100,
    "bursts of 500": 500,
    "AR .99": 100,
    "AR .999": 1_000,
}
"""Labels: the mean length of a burst, or 1 / (1 - phi)."""


def disaster(every: int, by: float, better: float) -> Any:
    """Return (label, champion's score, challenger's score) of a regression, run by run.

    The challenger's error has a deviation of 1 - `better` that of the champion's, and is `by` once in `every`
    labels.
    """

    def law(rng: np.random.Generator, runs: int, labels: int) -> tuple[Floats, Floats, Floats]:
        truth = 10.0 * rng.standard_normal((runs, labels))
        champion = truth + 3.0 * rng.standard_normal((runs, labels))
        challenger = truth + 3.0 * (1.0 - better) * rng.standard_normal((runs, labels))
        challenger += by * (rng.random((runs, labels)) < 1.0 / every)
        return truth, champion, challenger

    return law
