"""What all races of one examples partition have scored together: figures that stay few however many keys.

Lives here: which scores are summed up over races, in metrics, a calibration curve and an estimate.  Never
here: how they are computed (`operators/race/evaluation.py`, `operators/monitor`), what one race's are.

A candidate of the file is one series over all races; challengers that a race has started by itself are none,
as each race numbers its own.  What was served is a series too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.machines.field_records import Codec
from operators.models.scoring import Roster
from operators.monitor.monitors import MonitorContext, Monitors
from operators.race.arena import Moment
from operators.race.evaluation import Evaluation
from operators.race.field import RaceField
from operators.race.learning import GATHERED_MAX
from operators.race.losses import Losses
from operators.state import StateDelta, StateEntries
from topics.messages import Decision, Example, Task

__all__ = ["Totals"]


class Totals:
    """An observer of every race of a partition, which adds up what they score."""

    def __init__(
        self, pipeline: str, task: Task, field: RaceField, codec: Codec, warmup_offset: int = 0
    ) -> None:
        self._codec = codec
        no_models = Roster(task, (), field.first_champion)
        self.monitors = Monitors(
            field.monitors,
            MonitorContext(pipeline, task, field.threshold, field.promotion.loss, no_models),
        )
        """Of what was served and of the candidates of the file, over all races; they read no models."""
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

    def follow(self, field: RaceField, codec: Codec, time_ms: int) -> None:
        """Go on with the candidates, metrics, monitors and threshold of another field.

        `time_ms` is the newest label time so far.
        """
        self._codec = codec
        for name in self._names.difference(field.candidates):
            self.evaluation.forget(name)
            self.monitors.forget(name)
        self.monitors.follow(field.monitors, field.threshold, field.promotion.loss, time_ms)
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
        of_file: list[Losses] = [
            (served, {name: loss for name, loss in losses.items() if name in names})
            for served, losses in tested
        ]
        self.evaluation.add(examples, of_file)
        if self.monitors.parts:
            self.monitors.gathered += zip(examples, of_file, strict=True)
            if len(self.monitors.gathered) >= GATHERED_MAX:
                self.monitors.look()

    # -- state --------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return self.evaluation.snapshot() | self.monitors.snapshot()

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call."""
        return self.evaluation.delta() | self.monitors.delta()

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; checkpoints of earlier versions know no monitors, which begin anew."""
        self.evaluation.restore(entries)
        self.monitors.restore(entries)
