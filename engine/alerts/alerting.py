"""What a worker does about alerts beside its loop: it looks around, and delivers while it leads.

Lives here: the tasks of both, and what becomes of a worker's alerts when it has stood still.  Never here:
what is looked at (`surroundings.py`), channels.

A worker that stood still for longer than its session, frozen or cut off from the broker, may have been
replaced without knowing it yet.  So what it had seen and not written is dropped, and it looks at nothing
before it has read on the topic what others have told meanwhile: it goes on under their ids.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from engine.alerts.delivery import Delivery
from engine.alerts.reading import alert_tail, newest
from engine.alerts.surroundings import Surroundings, WorkerAlerts
from engine.definition.pipeline import Pipeline
from engine.metrics import Counts
from engine.settings import Settings
from topics.alert_records import alert_records
from topics.errors import BrokerError
from topics.messages import AlertRecord, Outgoing

__all__ = ["Alerting"]

LOOK_S = 1.0

log = structlog.get_logger("headrace")


class Alerting:
    """The alerts of one worker process; `seen` returns its surroundings as of now."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        counts: Counts,
        seen: Callable[[], Surroundings],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` returns seconds, from any beginning."""
        self._clock, self._turned_s = clock, clock()
        self._session_s = settings.kafka.session_timeout_ms / 1000
        self._pipeline, self._settings, self._counts, self._seen = pipeline, settings, counts, seen
        self._worker = WorkerAlerts(pipeline, counts)
        self._delivery: Delivery | None = None
        if pipeline.policies:
            self._delivery = Delivery(pipeline, settings, counts, lambda: 0 in seen().owned)
        self._watched: frozenset[int] = frozenset()
        self._told: list[AlertRecord] = []
        """What the loop has not taken yet."""

    async def run(self) -> None:
        """Look around and deliver, until cancelled."""
        if self._delivery is None:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._delivery.run())
            group.create_task(self._look_around())

    def take(self) -> list[Outgoing]:
        """Return the records to be written since the last call: once a turn of the worker's loop."""
        told, self._told = self._told, []
        if self._stands_still:
            for one in told:
                self._counts["alerts", f"{one.policy} left_out"] += 1
            told = []
            self._watched = frozenset()
            self._worker.adopt(self._watched, ())
        self._turned_s = self._clock()
        return alert_records(self._pipeline.name, told, self._counts)

    @property
    def _stands_still(self) -> bool:
        """Return whether the loop has not turned for so long that somebody else may own our partitions."""
        return self._clock() - self._turned_s > self._session_s

    def firing(self) -> dict[str, int]:
        """Return how many alerts of this worker's surroundings fire, by policy."""
        return self._worker.book.open()

    async def _look_around(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Look once at what this worker owns, as of now."""
        if self._stands_still:
            return
        seen = self._seen()
        if seen.owned != self._watched and not await self._take_over(seen.owned):
            return
        if seen.owned:
            self._told += self._worker.look(time.time_ns() // 1_000_000, seen)

    async def _take_over(self, owned: frozenset[int]) -> bool:
        """Watch other partitions from here on; False where what was told of them cannot be read now."""
        told = {}
        if owned:
            try:
                tail = await alert_tail(self._settings.kafka, self._pipeline.catalog["alerts"])
            except BrokerError as error:
                log.warning("what was told of these partitions cannot be read yet", reason=str(error))
                return False
            told = newest(one for _, one in tail)
        if self._seen().owned != owned:
            return False
        self._worker.adopt(owned, told.values())
        self._watched = owned
        return True
