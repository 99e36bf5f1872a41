"""A second fold of the examples log, beside the race: what a candidate learns before it enters.

Lives here: which examples it learns, how far it has come.  Never here: reading the log and when to
(`engine/worker/entry.py`), the race (`../learner.py`).

Claims are counted from the start of the log (`counted_examples.py`); learned is every example that counts,
from the first whose label lies within the span on.  So offsets say all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.machines.beside.counted_examples import CountedExamples
from engine.machines.field_records import Brought
from operators.models.scoring import reason_of
from operators.models.weighted import weighted
from operators.race.learning import are_plain
from topics.messages import Example, Record

__all__ = ["WarmUp"]


class WarmUp:
    """Candidates that learn the log, each from its own place in it.

    `since_ms` is the label time from which on a candidate learns, by name.

    >>> from river import linear_model
    >>> warm = WarmUp({"a": linear_model.Perceptron()}, {"a": 0})
    >>> warm.fold([Record("p.examples", 0, 7, 0, None, None)])
    >>> warm.reading, warm.brought("a", "").updates
    (8, 0)
    """

    def __init__(self, models: Mapping[str, Any], since_ms: Mapping[str, int]) -> None:
        self.models = dict(models)
        """In their guards; one that fails at a lesson leaves."""
        self.failed: dict[str, str] = {}
        """Reasons of those that failed and are not told yet, by name."""
        self.reading = 0
        """Next offset to fold."""
        self._since_ms = since_ms
        self._examples = CountedExamples()
        self._first: dict[str, int] = {}
        self._updates = dict.fromkeys(models, 0)

    def fold(self, records: Sequence[Record]) -> None:
        """Learn records of the log, in offset order; those before `reading` are passed over."""
        for record in records:
            if record.offset < self.reading:
                continue
            self.reading = record.offset + 1
            if (example := self._examples.example(record)) is not None:
                self._learn(example, record.offset)

    def _learn(self, example: Example, offset: int) -> None:
        plain = are_plain((example,))
        for name, model in list(self.models.items()):
            if name not in self._first:
                if example.label_time < self._since_ms[name]:
                    continue
                self._first[name] = offset
            teach = model.learn_one if plain else weighted(model, model.learn_one, name, (example,))
            try:
                teach(example.features, example.label)
            except Exception as error:  # noqa: BLE001 a user's model may raise anything; the others go on
                self.failed[name] = f"{reason_of(error)}, at the lesson of offset {offset}"
                del self.models[name]
                continue
            self._updates[name] += 1

    def take_failed(self) -> dict[str, str]:
        """Return the reasons of those that failed since the last call, by name."""
        failed, self.failed = self.failed, {}
        return failed

    def brought(self, name: str, artefact: str) -> Brought:
        """Return what a candidate has learned so far, stored under the name of an artefact."""
        return Brought(artefact, self._updates[name], self._first.get(name, self.reading), self.reading)
