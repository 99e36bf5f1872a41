"""What a worker does about alerts beside its loop: it looks around, and delivers while it leads.

Lives here: the tasks of both.  Never here: what is looked at (`surroundings.py`), channels.
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
from topics.messages import Outgoing

__all__ = ["Alerting"]

LOOK_S = 1.0

log = structlog.get_logger("headrace")


class Alerting:
    """The alerts of one worker process; `seen` returns its surroundings as of now."""

    def __init__(
        self, pipeline: Pipeline, settings: Settings, counts: Counts, seen: Callable[[], Surroundings]
    ) -> None:
        self._pipeline, self._settings, self._counts, self._seen = pipeline, settings, counts, seen
        self._worker = WorkerAlerts(pipeline, counts)
        self._delivery: Delivery | None = None
        if pipeline.policies:
            self._delivery = Delivery(pipeline, settings, counts, lambda: 0 in seen().owned)
        self._watched: frozenset[int] = frozenset()
        self._out: list[Outgoing] = []

    async def run(self) -> None:
        """Look around and deliver, until cancelled."""
        if self._delivery is None:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._delivery.run())
            group.create_task(self._look_around())

    def take(self) -> list[Outgoing]:
        """Return the records to be written since the last call."""
        out, self._out = self._out, []
        return out

    def firing(self) -> dict[str, int]:
        """Return how many alerts of this worker's surroundings fire, by policy."""
        return self._worker.book.open()

    async def _look_around(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            seen = self._seen()
            if seen.owned != self._watched and not await self._take_over(seen.owned):
                continue
            if seen.owned:
                told = self._worker.look(time.time_ns() // 1_000_000, seen)
                self._out += alert_records(self._pipeline.name, told, self._counts)

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
