"""A scorer whose events are each answered by the race of their key.

Lives here: which race answers and shadows which event of a run.  Never here: the order of a run
(`engine/machines/scorer.py`), which races are in memory (`races.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from engine.machines.keyed.keyed_learner import KeyedLearner
from engine.machines.scorer import Given, Scorer
from operators.models.scoring import Reply, Shadowed
from topics.messages import Event, FeatureValues

__all__ = ["KeyedScorer"]


class KeyedScorer(Scorer):
    """The scorer of a pipeline with `per=`; races do not see each other, so runs may be cut anywhere."""

    def __init__(self, learner: KeyedLearner, *arguments: Any, **named: Any) -> None:
        """The arguments after `learner` are those of `Scorer`."""
        super().__init__(*arguments, roster=learner.roster, **named)
        self._learner = learner

    def _ask(self, key: str) -> None:
        """Let the race of a key answer from here on."""
        self.scoring = self._learner.answering(key).scoring
        self.outbox.roster = self.scoring.roster

    def _serve(self, events: Sequence[Event], rows: Sequence[FeatureValues], now_ms: int) -> list[Given]:
        """Send the answer of each event's race; answers stand in the order of their events."""
        given: list[Given] = []
        for key, same in groupby(events, lambda event: event.key):
            part = slice(len(given), len(given) + sum(1 for _ in same))
            self._ask(key)
            given += super()._serve(events[part], rows[part], now_ms)
        return given

    def _shadow(self, replies: Sequence[Reply], keys: Sequence[str]) -> list[Shadowed]:
        """Return the scores of every candidate of each event's race, race by race."""
        numbers: dict[str, list[int]] = {}
        for number, key in enumerate(keys):
            numbers.setdefault(key, []).append(number)
        shadowed: dict[int, Shadowed] = {}
        for key, places in numbers.items():
            self._ask(key)
            shadowed |= zip(places, super()._shadow([replies[at] for at in places], ()), strict=True)
        return [shadowed[number] for number in range(len(keys))]
