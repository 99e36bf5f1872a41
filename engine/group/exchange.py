"""A worker says how it is, and hears the others, beside its loop.

Lives here: when, and what becomes of it where the topic or a right is missing: the worker goes on, says so in
the log, in a counter and on its page, and tries again.  Never here: what is said (`record.py`), who counts as
gone (`members.py`).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Final

import structlog

from engine.definition.pipeline import Pipeline
from engine.group.log import StatusLog
from engine.group.members import Members
from engine.group.record import SeenWorker, StatusMaker, encoded
from engine.kafka.client import AWAY, REFUSED, broker_error
from engine.metrics import Counts
from engine.settings import KafkaSettings, Settings
from topics.catalog import TopicPlan
from topics.errors import BrokerError

__all__ = ["Exchange", "exchange_of"]

ANSWER_S: Final = 15.0
"""Longest for one exchange, connecting included."""
AGAIN_S: Final = 60.0
"""After one that was refused: a right that is missing stays so for a while."""
LEAVE_S: Final = 2.0
"""For the last word of a worker that ends."""

log = structlog.get_logger("headrace")


class Exchange:
    """One worker among the others."""

    def __init__(
        self,
        kafka: KafkaSettings,
        plan: TopicPlan,
        maker: StatusMaker,
        every_ms: int,
        counts: Counts,
        seen: Callable[[], SeenWorker],
    ) -> None:
        """`seen` returns what the worker knows of itself; `every_ms` of 0: nothing is said or heard."""
        self.members = Members()
        self.members.counts = counts
        self.trouble = "" if every_ms else "status_interval_ms is 0: nothing is said or heard"
        """Why this worker and the others do not know of each other; empty where they do."""
        self.maker = maker
        self._kafka, self._topic, self._every_s = kafka, plan.name, every_ms / 1_000
        self._log = StatusLog(kafka, plan, every_ms)
        self._counts, self._seen = counts, seen
        self._again_s = float("-inf")

    async def run(self) -> None:
        """Say how it is and hear the others, until cancelled; then say that it leaves."""
        if not self._every_s:
            return
        try:
            while True:
                await self.turn()
                await asyncio.sleep(self._every_s)
        finally:
            await self._leave()

    async def turn(self) -> None:
        """Say and hear once; after a refusal only look at itself, for `AGAIN_S`."""
        status = self.maker.make(self._seen(), _now_ms())
        self.members.add(status, _now_ms())
        if time.monotonic() < self._again_s:
            return
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._exchange(encoded(status))
        except (*REFUSED, BrokerError, TimeoutError) as error:
            self._counts["status_records", "failed"] += 1
            self._tell(error)
            await self._log.close()
        else:
            self._counts["status_records", "published"] += 1
            if self.trouble:
                log.info("the group knows of this worker", topic=self._topic)
            self.trouble = ""

    async def _exchange(self, record: bytes) -> None:
        if not self._log.is_open:
            self.members.recall(await self._log.open())
        await self._log.write(self.maker.worker.encode(), record, _now_ms())
        self.members.hear(await self._log.came(), _now_ms())

    def _tell(self, error: BaseException) -> None:
        """Say why, once, and wait before the next try; an outage the worker tells of itself, and it ends."""
        known = error if isinstance(error, BrokerError) else broker_error(error, "the status", self._kafka)
        if not isinstance(known.__cause__ or error, AWAY):
            self._again_s = time.monotonic() + AGAIN_S
            if known.message != self.trouble:
                log.warning(
                    "the group does not know of this worker: it goes on",
                    topic=self._topic,
                    reason=known.message,
                    fix=known.hint,
                    tries_again_after_s=AGAIN_S,
                )
        self.trouble = known.message

    async def _leave(self) -> None:
        if not self._log.is_open:
            return
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._log.write(self.maker.worker.encode(), None, _now_ms())
        except (*REFUSED, TimeoutError) as error:
            log.info("the group counts this worker as there for a while", reason=type(error).__name__)
        finally:
            await self._log.close()


def exchange_of(
    pipeline: Pipeline, settings: Settings, counts: Counts, seen: Callable[[], SeenWorker]
) -> Exchange:
    """Return what a worker says to the others, under its name in the group or the place of its page."""
    every_ms = settings.status_interval_ms
    maker = StatusMaker(
        settings.kafka.group_instance_id or f"{socket.gethostname()}:{settings.web.port}",
        started_ms=_now_ms(),
        every_ms=every_ms,
        version=version("headrace"),
        features_version=pipeline.features_version,
    )
    (plan,) = (one for one in pipeline.catalog.plan(events=1) if one.role == "status")
    return Exchange(settings.kafka, plan, maker, every_ms, counts, seen)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
