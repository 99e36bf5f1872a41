"""Labelling functions: a label by vote for an event that got none (programmatic labelling).

Lives here: what a function says of an event, how votes become one label, how often each was right where the
truth came.  Never here: what a definition may say (`engine/definition/weak.py`), when an event's wait is over
(`join.py`).

At the horizon of an event without a label every function sees the features as served and votes or abstains:

    functions       odd_hour -> true (weight 0.6)   large -> true (0.9)   known_shop -> false (0.7)
    for true        0.6 + 0.9 = 1.5                 for false  0.7
    label           true, the heavier side; equal sides: no label
    weight          1.5 / 3 that voted = 0.5

So the weight is the share that agrees, times what these functions are worth: give each the share of events on
which it is right (its accuracy) as its weight, and a vote of one function alone counts for that.  Where truth
comes, each is counted right or wrong, which says what to write.  (A. Ratner and others, "Snorkel: rapid
training data creation with weak supervision", VLDB 2017, estimate it from disagreement instead.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import fsum
from typing import NamedTuple

from topics.messages import FeatureValue, LabelValue

__all__ = ["WEAK_VOTES", "Voter", "WeakLabels"]

WEAK_VOTES = "weak_votes"
"""Counted by (outcome, function): `voted`, `abstained` at a horizon; `right`, `wrong`, `silent` where truth
came; `failed` in either place."""

Vote = Callable[[Mapping[str, FeatureValue]], LabelValue | None]
"""Features as served -> a label, or None: no vote.  It may raise whatever it wants."""


class Voter(NamedTuple):
    """One labelling function."""

    name: str
    vote: Vote
    weight: float


class WeakLabels:
    """The labelling functions of a pipeline; nothing but `counts` remembers anything, and that is no state.

    >>> def large(row):
    ...     return True if row["amount"] > 100 else None
    >>> weak = WeakLabels([Voter("large", large, 0.9), Voter("small", lambda row: row["amount"] > 50, 0.6)])
    >>> [weak.label({"amount": amount}) for amount in (120.0, 70.0, 20.0)]
    [(True, 0.75), (True, 0.6), (False, 0.6)]
    >>> weak.label({}), weak.counts["weak_votes", "failed large"]
    (None, 1)
    """

    def __init__(self, voters: Sequence[Voter], counts: Counter[tuple[str, str]] | None = None) -> None:
        self.counts: Counter[tuple[str, str]] = Counter() if counts is None else counts
        self._voters = tuple(voters)

    def label(self, features: Mapping[str, FeatureValue]) -> tuple[LabelValue, float] | None:
        """Return the label that the functions vote for, and its weight; None where none wins."""
        votes: dict[LabelValue, list[float]] = {}
        cast = 0
        for name, vote, weight in self._voters:
            said = self._ask(name, vote, features)
            self.counts[WEAK_VOTES, f"{'abstained' if said is None else 'voted'} {name}"] += 1
            if said is not None:
                votes.setdefault(said, []).append(weight)
                cast += 1
        # Sums are exact to the last rounding: the order of functions decides no tie.
        ranked = sorted(((fsum(weights), label) for label, weights in votes.items()), key=_weight)
        if not ranked or (len(ranked) > 1 and ranked[-1][0] == ranked[-2][0]):
            return None
        heaviest, label = ranked[-1]
        return label, heaviest / cast

    def compare(self, features: Mapping[str, FeatureValue], truth: LabelValue) -> None:
        """Count which functions would have been right about an event whose label came."""
        for name, vote, _ in self._voters:
            said = self._ask(name, vote, features)
            outcome = "silent" if said is None else "right" if said == truth else "wrong"
            self.counts[WEAK_VOTES, f"{outcome} {name}"] += 1

    def _ask(self, name: str, vote: Vote, features: Mapping[str, FeatureValue]) -> LabelValue | None:
        """Return what one function says; one that fails abstains."""
        try:
            return vote(features)
        except Exception:  # noqa: BLE001 - the user's own code may raise anything
            self.counts[WEAK_VOTES, f"failed {name}"] += 1
            return None


def _weight(ranked: tuple[float, LabelValue]) -> float:
    return ranked[0]
