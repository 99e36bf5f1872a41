"""A scorer with a deadline: an event that is old when its turn comes is answered by the backup.

Lives here: which events of a run are overdue, and who answers those.  Never here: clocks (the shell hands in
the wall clock), what the backup says (`operators/models/scoring.py`).

    age = the shell's clock - the record's timestamp      <= deadline   as without one
                                                           > deadline   backup, else the prior

Only the answer is the backup's: the others score the event like any other, and its label is learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.machines.admission import EventRead
from engine.machines.scorer import Scorer
from operators.models.scoring import Served
from operators.models.table import Table
from operators.race.routing import Serve
from topics.codec import Decoded
from topics.messages import Event, FeatureValues

__all__ = ["DeadlineScorer"]

ALL_ASKED = Table("", "", 0, ())
"""Nobody's table: so that every run asks who is to answer."""


class DeadlineScorer(Scorer):
    """The scorer of a pipeline with a deadline; files have no timestamps, and nothing of them is overdue."""

    def __init__(self, serve: Serve, *arguments: Any, **named: Any) -> None:
        """The arguments after `serve` are those of `Scorer`."""
        super().__init__(*arguments, **named)
        self._all = ALL_ASKED
        self._serve_by = serve
        self._overdue: set[str] = set()
        """Ids of the events of this run that are too old."""

    def _events(
        self, run: Sequence[EventRead], now_ms: int, lookups: Sequence[Mapping[str, object]] | None
    ) -> None:
        oldest_ms = now_ms - self._serve_by.deadline_ms
        self._overdue = {
            read.decoded.event_id
            for read in run
            if isinstance(read.decoded, Decoded)
            and read.record.timestamp_ms is not None
            and read.record.timestamp_ms < oldest_ms
        }
        super()._events(run, now_ms, lookups)

    def _pick(self, events: Sequence[Event], rows: Sequence[FeatureValues]) -> list[Served]:
        """Return the answers: those of events that are overdue by the backup."""
        late = [event.event_id in self._overdue for event in events]
        by_backup = self.scoring.serve_backup(
            [x for x, overdue in zip(rows, late, strict=True) if overdue], self._serve_by.backup
        )
        on_time = [(event, x) for event, x, overdue in zip(events, rows, late, strict=True) if not overdue]
        asked, features = [event for event, _ in on_time], [x for _, x in on_time]
        routed = self.scoring.roster.routing is not None
        in_time = super()._pick(asked, features) if routed else self.scoring.serve_all(features)
        late_ones, others = iter(by_backup), iter(in_time)
        return [next(late_ones if overdue else others) for overdue in late]
