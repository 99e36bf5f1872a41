"""Partitions in which nothing happens: their watermark goes on with the wall clock, by records in their log.

Lives here: since when a partition is quiet, when a move is due and to where, the write of it, what is said
where that is refused.  Never here: the record itself (`topics/watermarks.py`), what a watermark does
(`engine/machines/scorer.py`).

    records of events    ...  e                        quiet from here on, at event time T
    wall clock                |--- idle_timeout ---|
    moves                                          T + elapsed ...    one per idle_timeout at the most, and
                                                                      only if something waits for it

Event time goes on at the pace of the clock from where it stood, so a stream that runs an hour behind stays an
hour behind, and never further than the clock itself: the watermark stays `grace` behind it.  A move acts when
it is read back, at its place among the events; this process remembers nothing that a replay would need.

The topic is the user's.  Where its ACL lets nobody of ours write, a move is refused: counted, told once a
minute, tried again after `idle_timeout`; the worker goes on, and horizons pass with the next event.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog

from engine.definition.pipeline import Pipeline
from engine.kafka.sink import Sink
from engine.settings import Settings
from engine.watches import Pace
from topics.errors import BrokerError
from topics.messages import Content
from topics.watermarks import Move, moving

__all__ = ["IdlePartitions", "Quiet", "Standing"]

NEVER_MS = -1 << 62

log = structlog.get_logger("headrace")


class Standing(NamedTuple):
    """Where a partition stands, as this process sees it."""

    read: int
    """Moves with each record of events that is taken, but for those that move the watermark."""
    time_max: int
    """Largest event time so far, ms; -1 before the first event."""
    waits_until: int | None
    """The watermark, ms, beyond which something happens; None: nothing waits for it."""
    drained: bool
    """Whether all records that are known of have been taken, events and labels."""


class Quiet:
    """A span in which no event comes to a partition; times are ms of a clock that never goes back.

    >>> began = Standing(read=7, time_max=1_000, waits_until=1_500, drained=True)
    >>> quiet = Quiet(began, now_ms=50)
    >>> [quiet.due(began, at, wall_ms=9_000, idle_ms=300, grace_ms=100) for at in (100, 400, 660)]
    [None, None, Move(event_time=1610, quiet_ms=610)]
    """

    def __init__(self, began: Standing, now_ms: int) -> None:
        self.read = began.read
        self._from_time, self._from_ms = began.time_max, now_ms
        self._written_ms = NEVER_MS

    def due(
        self, standing: Standing, now_ms: int, *, wall_ms: int, idle_ms: int, grace_ms: int
    ) -> Move | None:
        """Return the move that is due, which must be written, or None; `wall_ms` is the wall clock."""
        quiet_ms, waits_until = now_ms - self._from_ms, standing.waits_until
        if quiet_ms < idle_ms or now_ms - self._written_ms < idle_ms:
            return None
        if not standing.drained or waits_until is None or standing.time_max < 0:
            return None
        time = min(self._from_time + quiet_ms, wall_ms)
        if time <= standing.time_max or time - grace_ms <= waits_until:
            return None
        self._written_ms = now_ms
        return Move(time, quiet_ms)


class Standable(Protocol):
    """A partition that can say where it stands."""

    def standing(self) -> Standing:
        """Return where it stands."""
        ...


class IdlePartitions:
    """The quiet partitions of one worker; `counts` has the moves that were written or refused."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        """An `idle_timeout_ms` of 0 moves nothing; the first of the keys of commands, if any, signs."""
        self.counts: Counter[tuple[str, str]] = Counter()
        self._kafka = settings.kafka.model_copy(update={"enable_idempotence": False})
        self._topic = pipeline.events.name
        self._idle_ms, self._grace_ms = settings.idle_timeout_ms, pipeline.grace_ms
        self._signer = next(iter(settings.command_secrets().items()), None)
        self._quiet: dict[int, Quiet] = {}
        self._sink: Sink | None = None
        self._writing: asyncio.Task[None] | None = None
        self._pace = Pace()

    def turn(self, owned: Mapping[int, Standable], *, now_ms: int, wall_ms: int) -> None:
        """Begin to write what is due for the partitions that are owned, by number; waits for nothing."""
        if not self._idle_ms or (self._writing is not None and not self._writing.done()):
            return
        quiet, self._quiet, due = self._quiet, {}, []
        for number, partition in owned.items():
            standing, kept = partition.standing(), quiet.get(number)
            if kept is None or kept.read != standing.read:
                kept = Quiet(standing, now_ms)
            elif move := kept.due(
                standing, now_ms, wall_ms=wall_ms, idle_ms=self._idle_ms, grace_ms=self._grace_ms
            ):
                due.append((number, move))
            self._quiet[number] = kept
        if due:
            self._writing = asyncio.create_task(self._write(due, now_ms / 1000))

    async def _write(self, due: Sequence[tuple[int, Move]], now_s: float) -> None:
        """Write moves; the worker goes on where the topic takes none."""
        try:
            if self._sink is None:
                self._sink = Sink(self._kafka)
                await self._sink.start()
            for number, move in due:
                value, headers = moving(move, self._signer, topic=self._topic)
                record = Content(None, value, headers)
                await self._sink.send(self._topic, number, [record])
            await self._sink.flush()
            self.counts["watermarks", "written"] += len(due)
        except Exception as error:  # noqa: BLE001 nobody waits for this task: whatever it meets is told here
            self.counts["watermarks", "refused"] += len(due)
            if self._pace.allows(now_s):
                self._pace.logged(now_s)
                log.warning(
                    "the watermark of quiet partitions cannot be moved",
                    topic=self._topic,
                    partitions=[number for number, _ in due],
                    reason=error.message if isinstance(error, BrokerError) else repr(error),
                    fix="let the worker write its events topic, or set HEADRACE_IDLE_TIMEOUT_MS=0",
                )
            sink, self._sink = self._sink, None
            if sink is not None:
                await sink.stop()

    async def close(self) -> None:
        """Break off what is being written, and close the producer."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait({self._writing})
        if self._sink is not None:
            await self._sink.stop()
