"""Who is there: the newest record of each worker, and when it was heard.

Lives here: the fold of the status topic, when a worker counts as gone and when it is forgotten, the sums of
all.  Never here: a clock (time is an argument), the topic (`log.py`).

Two clocks: a record that comes while somebody listens is heard at the listener's time, however far the
writer's clock is off; one that lay there before was heard when it was stamped.  So of workers whose clocks
differ by more than `GONE_AFTER` intervals, a listener is wrong for one interval after its start, and a
command, which reads once, is wrong about them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from engine.group.record import STATUS_BYTES_MAX
from topics.codec import decode_status
from topics.messages import Record, WorkerStatus

__all__ = ["FORGOTTEN_MS", "GONE_AFTER", "MEMBERS_MAX", "GroupTotals", "Member", "Members", "totals"]

GONE_AFTER: Final = 4
"""Intervals of a worker's own in which nothing is heard of it; two are usual, of one who looks in between."""
FORGOTTEN_MS: Final = 600_000
"""Who has been silent for so long is not told of any more."""
MEMBERS_MAX: Final = 256
"""Workers known at once; of more, those that have been silent for longest are left out, and counted."""
EVERY_MAX_MS: Final = 60_000


class Member(NamedTuple):
    """One worker, as it was heard last."""

    status: WorkerStatus
    silent_ms: int
    """Since it was heard."""
    gone: bool
    """Whether it has been silent for too long: it was killed, or is cut off."""


class GroupTotals(NamedTuple):
    """The sums over all workers that are there."""

    workers: int
    ready: int
    partitions: int
    """Partitions of events that somebody owns."""
    lag_records: int
    answered_per_s: float
    labelled_per_s: float
    refused_per_s: float
    leaders: tuple[str, ...]
    """Of no race one, of races per key all that own partitions."""


class Members:
    """The workers of one pipeline.

    >>> members = Members()
    >>> members.add(WorkerStatus("a:6066", time=0, started=0, every_ms=5_000, version="1"), 1_000)
    >>> [(one.status.worker, one.silent_ms, one.gone) for one in members.told(21_000)]
    [('a:6066', 20000, False)]
    >>> [one.gone for one in members.told(21_001)], members.told(601_001)
    ([True], [])
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """Counts by (metric, label): what could not be read, and what was left out."""
        self._heard: dict[str, tuple[WorkerStatus, int]] = {}

    def add(self, status: WorkerStatus, now_ms: int) -> None:
        """Take what a worker says at this moment."""
        self._heard[status.worker] = status, now_ms
        if len(self._heard) > MEMBERS_MAX:
            del self._heard[min(self._heard, key=lambda name: self._heard[name][1])]
            self.counts["status_records", "left_out"] += 1

    def hear(self, records: Iterable[Record], now_ms: int) -> None:
        """Fold records that came just now."""
        for record in records:
            self._fold(record, now_ms)

    def recall(self, records: Iterable[Record]) -> None:
        """Fold records that lay in the topic."""
        for record in records:
            self._fold(record, record.timestamp_ms or 0)

    def _fold(self, record: Record, heard_ms: int) -> None:
        name = (record.key or b"").decode(errors="replace")
        if record.value is None:
            self._heard.pop(name, None)
        elif (status := _readable(record.value)) is None or status.worker != name:
            self.counts["status_records", "unreadable"] += 1
        else:
            self.add(status, heard_ms)

    def told(self, now_ms: int) -> list[Member]:
        """Return all workers by name, and forget those that have been silent for too long."""
        self._heard = {
            name: heard for name, heard in self._heard.items() if now_ms - heard[1] <= FORGOTTEN_MS
        }
        return [
            Member(status, max(now_ms - heard_ms, 0), now_ms - heard_ms > GONE_AFTER * status.every_ms)
            for _, (status, heard_ms) in sorted(self._heard.items())
        ]


def _readable(value: bytes) -> WorkerStatus | None:
    """Return the status that is `value`; None where it is none, as anybody may write who has the right."""
    if len(value) > STATUS_BYTES_MAX:
        return None
    try:
        status = decode_status(value)
    except msgspec.MsgspecError:
        return None
    return status if 0 < status.every_ms <= EVERY_MAX_MS else None


def totals(members: Iterable[Member]) -> GroupTotals:
    """Return the sums over those that are there."""
    there = [one.status for one in members if not one.gone]
    return GroupTotals(
        workers=len(there),
        ready=sum(one.ready for one in there),
        partitions=sum(one.partitions for one in there),
        lag_records=sum(one.lag_records for one in there),
        answered_per_s=round(sum(one.answered_per_s for one in there), 3),
        labelled_per_s=round(sum(one.labelled_per_s for one in there), 3),
        refused_per_s=round(sum(one.refused_per_s for one in there), 3),
        leaders=tuple(one.worker for one in there if one.leading),
    )
