"""What all races of one examples partition have scored together: metrics that stay few however many keys.

Lives here: which scores are summed up over races.  Never here: how a metric is computed
(`operators/race/evaluation.py`), what one race's are.

A candidate of the file is one series over all races; challengers that a race has started by itself are none,
as each race numbers its own.  What was served is a series too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.machines.field_records import Codec
from operators.race.arena import Moment
from operators.race.evaluation import Evaluation
from operators.race.field import RaceField
from operators.race.losses import Losses
from topics.messages import Decision, Example, Task

__all__ = ["Totals"]


class Totals:
    """An observer of every race of a partition, which adds up what they score."""

    def __init__(self, task: Task, field: RaceField, codec: Codec, warmup_offset: int = 0) -> None:
        self._codec = codec
        self._names = frozenset(field.candidates)
        self.evaluation = Evaluation(
            task,
            field.metrics,
            self._dump,
            self._load,
            threshold=field.threshold,
            warmup_offset=warmup_offset,
        )

    def _dump(self, value: Any) -> bytes:
        return self._codec[0](value)

    def _load(self, data: bytes) -> Any:
        return self._codec[1](data)

    def follow(self, field: RaceField, codec: Codec) -> None:
        """Go on with the candidates, metrics and threshold of another field."""
        self._codec = codec
        for name in self._names.difference(field.candidates):
            self.evaluation.forget(name)
        self._names = frozenset(field.candidates)
        self.evaluation.change(field.metrics, field.threshold)

    # -- as an observer of a race -------------------------------------------------------------------

    @property
    def stops(self) -> Sequence[int]:
        """Return no numbers of examples: it has nothing to do between them."""
        return ()

    def stop(self, _at: Moment) -> list[Decision]:
        """Decide nothing at the stops of others."""
        return []

    def forget(self, _name: str) -> None:
        """Keep what was scored: in other races the candidate goes on."""

    def observe(self, examples: Sequence[Example], tested: Sequence[Losses]) -> None:
        """Add examples that a race has learned, with their losses."""
        names = self._names
        self.evaluation.add(
            examples,
            [
                (served, {name: loss for name, loss in losses.items() if name in names})
                for served, losses in tested
            ],
        )
