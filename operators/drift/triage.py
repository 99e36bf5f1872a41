"""What an alarm is: covariate shift, label shift, concept drift or a fault of the pipeline, and what to do.

Lives here: a verdict as a value, the decision rule.  Never here: whether there is an alarm (`budget.py`).

The first row that holds decides:

| what is seen since the change                                                       | verdict          |
|-------------------------------------------------------------------------------------|------------------|
| a partition that stopped sending, refused events or labels 2 % beyond the reference | pipeline_fault   |
| a feature: 10 % more missing, 20 % odd (a text for a number, unknown categories),   | pipeline_fault   |
|   20 % beyond the most that a block had, or one value where there were many         |                  |
| no labels yet: one class share explains the scores better than halfway (BBSE)       | label_shift      |
| no labels yet, else                                                                 | covariate_shift  |
| labels: class shares moved (5 %), the class given the answer too (5 %), but not the | label_shift      |
|   answer given the class, nor the rows of a class (1.5 of what is usual)            |                  |
| labels; least unexplained: P(truth given row) as it was                             | covariate_shift  |
| labels; least unexplained: P(row given class) as it was, rows as the classes mix    | label_shift      |
| labels; least unexplained: rows as they were                                        | concept_drift    |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from msgspec import Struct

from operators.drift.frame import ABOVE, BELOW, MISSING, ODD
from operators.drift.labelled import Contrast, Labelled, Misfit
from operators.drift.two_sample import Array

__all__ = ["ACTS", "Shift", "ShiftChange", "ShiftKind", "Sign", "fault_signs", "mixture_fit", "triage"]

ShiftKind = Literal["covariate_shift", "label_shift", "concept_drift", "pipeline_fault"]
ShiftChange = Literal["found", "updated", "ended"]


class Shift(Struct, frozen=True, omit_defaults=True):
    """One verdict, as it stands at the end of a block; all that belong together have the same `shift_id`."""

    shift_id: str
    """Pipeline and number of the block at which it was found."""
    change: ShiftChange
    """`found`, `updated` (another kind, or true losses that came) or `ended`."""
    verdict: ShiftKind
    since_ms: int
    """Event time from which on blocks are unusual."""
    decided_ms: int
    """End of the block at which this was said."""
    until_ms: int | None = None
    """Event time at which it ended; None while it lasts."""
    features: tuple[str, ...] = ()
    """Features that explain it, the most unusual first."""
    pace: Literal["sudden", "gradual"] = "sudden"
    reference_loss: float | None = None
    """Mean loss of the reference."""
    estimated_loss: float | None = None
    """Mean loss since, as estimated from the scores, before labels."""
    true_loss: float | None = None
    """Mean loss by the labels that have come since."""
    act: str = ""
    """What to do about it."""
    evidence: dict[str, float] = {}
    """What it rests on, by name: statistics of the last block, e-values, thresholds."""


MISSING_RISE: Final = 0.1
ODD_RISE: Final = 0.2
BEYOND_RISE: Final = 0.2
REFUSED_RISE: Final = 0.02
CONSTANT: Final = 0.99
VARIED: Final = 0.9
EXPLAINED: Final = 0.5
"""Of the scores' divergence, what another mix of classes must explain."""
SURE: Final = 1.96
"""Deviations by which class shares must have moved: 5 % of blocks go so far by chance."""
REFUTED: Final = 0.05
ALIKE: Final = 1.5
"""Mean square of differences of rows of a class, in what is usual: beyond it they look otherwise."""
SHARE_MIN: Final = 1e-3
EM_STEPS: Final = 100

ACTS: Final[dict[ShiftKind, str]] = {
    "covariate_shift": "look at the features named; learn from recent labels, or start a challenger on them",
    "label_shift": "correct the scores to the new class shares, or recalibrate; features are as they were",
    "concept_drift": "retrain on labels since the change, or swap to a challenger that learned them",
    "pipeline_fault": "mend the source of the features named; do not learn from these rows",
}


class Sign(NamedTuple):
    """Something broken, by name of the feature; "" for refusals."""

    feature: str
    sign: str
    share: float


def fault_signs(names: Sequence[str], now: Array, before: Array, beyond: Array, refused: float) -> list[Sign]:
    """Return what looks broken; `now` and `before` are shares of cells by feature, `refused` what rose.

    `beyond` is by feature the most that a block of the reference had outside the frame.
    """
    signs = [Sign("", "refused", refused)] if refused >= REFUSED_RISE else []
    rise = now - before
    for name, up, share, was, most in zip(names, rise, now, before, beyond, strict=True):
        if up[MISSING] >= MISSING_RISE:
            signs.append(Sign(name, "missing", float(share[MISSING])))
        elif up[ODD] >= ODD_RISE:
            signs.append(Sign(name, "odd", float(share[ODD])))
        elif share[BELOW] + share[ABOVE] >= most + BEYOND_RISE:
            signs.append(Sign(name, "beyond", float(share[BELOW] + share[ABOVE])))
        elif share.max() >= CONSTANT and was.max() < VARIED:
            signs.append(Sign(name, "constant", float(share.max())))
    return signs


def mixture_fit(now: Array, table: Labelled) -> float:
    """Return which part of the scores' divergence from the reference another mix of classes explains.

    Class shares by expectation-maximisation (Saerens et al., 2002), which on cells of scores is the
    likelihood's own answer to what BBSE solves.
    """
    counts = np.array(table.table, dtype=float) + 0.5
    given = counts / counts.sum(1, keepdims=True)
    prior = counts.sum(1) / counts.sum()
    apart = _divergence(now, prior @ given)
    if apart <= 0.0:
        return 0.0
    mixed = prior.copy()
    for _ in range(EM_STEPS):
        weights = mixed[:, None] * given
        mixed = (now * weights / weights.sum(0)).sum(1)
        mixed /= mixed.sum()
    return 1.0 - _divergence(now, mixed @ given) / apart


def triage(signs: Sequence[Sign], fit: Misfit | None, linked: Contrast | None, explained: float) -> ShiftKind:
    """Return the verdict by the table above.

    `fit` and `linked` are those of the labels since the change, None before there are enough.  A label shift
    that is not refuted goes before a concept that drifted: one change of class shares explains as much as
    any change of what rows mean, and says less.
    """
    if signs:
        return "pipeline_fault"
    if fit is None or linked is None:
        return "label_shift" if explained >= EXPLAINED else "covariate_shift"
    moved = linked.shares >= SURE and linked.p_given_answer < REFUTED
    if moved and linked.p_given_class >= REFUTED and fit.label <= ALIKE:
        return "label_shift"
    left: dict[ShiftKind, float] = {
        "covariate_shift": fit.covariate,
        "label_shift": max(fit.label, fit.mixed),
        "concept_drift": fit.concept,
    }
    return min(left, key=left.__getitem__)


def _divergence(shares: Array, reference: Array) -> float:
    one, other = np.maximum(shares, SHARE_MIN), np.maximum(reference, SHARE_MIN)
    return float((one * np.log(one / other)).sum())
