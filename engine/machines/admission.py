"""Admission: what a decoded event is by its place in the log, before anything is computed of it.

Lives here: the watermark, whether an event came before, is late, or waits for a label, and whether its
record lies under its key.  Never here: bytes, and times too far ahead (`intake.py`: a record must be read
before it has a place), what is done about any of it (`scorer.py`, `engine/rekeying/router.py`).

Events of one partition in log order, `grace` 20, `wait` 60:

    time          10    50    40    20    10    15
    watermark     --    30    30    30    30    30      largest time so far minus grace
    admitted      yes   yes   yes   late  seen  late    (the same id at 10: known until the watermark has
                                                        passed its time plus `wait`)

The scorer and the router of one partition take the same records, and so admit the same events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Generic, cast

from msgspec import Struct

from engine.definition.pipeline import Pipeline
from engine.machines.intake import EventRead
from operators.join.entries import Answered
from operators.join.join import Join, Open
from operators.state import StoredEntries
from topics.codec import Decoded
from topics.messages import Event, LabelValue

__all__ = ["Admission", "Admitted", "Position", "new_join"]

_NEVER = 1 << 62


class Position(Struct):
    """How far a partition has been read: part of a checkpoint."""

    events: int = 0
    """Next offset of the events partition."""
    labels: int = 0
    """Next offset of the labels partition."""
    time_max: int = -1
    """Largest event time seen, ms; -1 before the first event."""


def new_join(
    pipeline: Pipeline,
    counts: Counter[tuple[str, str]] | None = None,
    *,
    stored: StoredEntries | None = None,
) -> Join[Open]:
    """Return the empty join of a definition: its wait, its implicit label, its bounds.

    `stored` reads the entries as of the last checkpoint; without it all are in memory.
    """
    labels = pipeline.labels
    return Join(
        counts,
        wait_ms=labels.wait_ms,
        implicit=pipeline.implicit_label,
        pending_max=labels.pending_max,
        early_max=labels.early_max,
        stored=stored,
    )


class Admission(Generic[Open]):
    """Admits the events of one partition; `position` is the machine's own, and moves with them."""

    def __init__(self, pipeline: Pipeline, position: Position, join: Join[Open]) -> None:
        self._position = position
        self._join = join
        self._grace_ms = pipeline.grace_ms
        self._keyless = pipeline.events.partitions > 1
        """Records without a key lie anywhere: on one partition only is that the right one."""

    @property
    def watermark(self) -> int:
        """Return the watermark: largest event time seen minus grace, ms."""
        return self._position.time_max - self._grace_ms

    @property
    def seen(self) -> Callable[[str], Open | Answered | None]:
        """Return the look-up of event ids: their entries, None for new ones; as of `Join.expire`."""
        return cast("Callable[[str], Open | Answered | None]", self._join.entries.known)

    def admit(self, read: EventRead, decoded: Decoded) -> Event:
        """Return the event of a record whose id is new, and let the watermark see its time."""
        record, position = read.record, self._position
        event_id, event_time, key, value = decoded.event_id, decoded.event_time, decoded.key, decoded.value
        if event_time > position.time_max:  # noqa: PLR1730  a call takes three times as long
            position.time_max = event_time
        watermark = position.time_max - self._grace_ms
        late = read.late or event_time < watermark
        return Event(
            event_id, event_time, key, value, record.offset, watermark, late, record.headers, record.key
        )

    def waits(self, event: Event) -> bool:
        """Return whether the event may meet a label: its horizon has not passed."""
        return event.event_time + self._join.wait_ms >= event.watermark

    def misplaced(self, keys: Iterable[tuple[bytes | None, str]]) -> int:
        """Return how many records lie under another key than their event's, given as (record's, event's)."""
        wrong = [of_record for of_record, key in keys if of_record != key.encode()]
        return len(wrong) if self._keyless else len(wrong) - wrong.count(None)


class Admitted(Struct, gc=False):
    """Admitted events of one run that wait to be answered together, one entry of each column per event."""

    events: list[Event] = []
    labels: list[LabelValue | None] = []
    crcs: list[int] = []
    lookups: list[Mapping[str, object]] = []
    ids: set[str] = set()
    oldest: int = _NEVER
    """Smallest event time, ms: the first entry to expire, once they are open."""
    late: int = 0

    def stretches(self, wait_ms: int) -> Iterator[tuple[slice, bool]]:
        """Yield the events in stretches that can be learned at once, as they carry a label, and that cannot.

        A label that comes more than `wait_ms` after its event, by the watermark, is not learned.
        """
        if not self.late and None not in self.labels:
            yield slice(0, len(self.events)), True
            return
        start = 0
        for learnable, same in groupby(
            label is not None and (not event.late or event.event_time + wait_ms >= event.watermark)
            for event, label in zip(self.events, self.labels, strict=True)
        ):
            end = start + sum(1 for _ in same)
            yield slice(start, end), learnable
            start = end

    def clear(self) -> None:
        """Forget them: they have been answered."""
        for column in (self.events, self.labels, self.crcs, self.lookups, self.ids):
            column.clear()
        self.oldest = _NEVER
        self.late = 0
