"""From the alerts topic to the channels, at least once, by one worker: the owner of partition 0.

Lives here: who reads the topic and where it goes on, a lane for each channel, how often something is tried.
Never here: what is sent (`channels.py`), who writes the topic.

The topic is the queue: whoever writes to it, scorer, learner or worker, the leader reads it and hands each
record to the lanes of its channels.  A lane holds `queue_max` records and drops, with a count, what comes
when it is full; a channel that is away holds up no other one, and no answer.  What all lanes are done with is
committed under the group `<pipeline>-alerts`, so the next leader goes on there: what was on its way when a
process was killed is sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, get_args

import aiohttp
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from engine.alerts.channels import (
    AlertmanagerChannel,
    AwayError,
    Channel,
    LogChannel,
    RefusedError,
    WebhookChannel,
)
from engine.alerts.reading import PARTITION, TAIL_MAX, alert_tail, alerts_in, newest
from engine.definition.pipeline import Pipeline
from engine.kafka.client import REFUSED, bounds, consumer_options, open_client
from engine.kafka.source import records_of
from engine.metrics import Counts
from engine.settings import AlertSettings, Settings
from topics.errors import BrokerError
from topics.messages import AlertChannel, AlertRecord

__all__ = ["Delivery", "Lane"]

LOOK_S = 0.25
"""How often it is looked whether this process leads, and how long a fetch waits."""
AGAIN_S = 5.0
"""After an error of the broker."""
BACKOFF_S, BACKOFF_MAX_S = 0.5, 60.0
TOLD_REMEMBERED_MAX = 1_000
"""Ids of what happened once: every partition tells of it, people hear of it once."""

log = structlog.get_logger("headrace")


class Lane:
    """The records on their way through one channel, in their order."""

    def __init__(self, channel: Channel, settings: AlertSettings, counts: Counts) -> None:
        self.channel = channel
        self._settings = settings
        self._counts = counts
        self._waiting: deque[tuple[int, AlertRecord]] = deque()
        self._came = asyncio.Event()

    def offer(self, offset: int, alert: AlertRecord) -> None:
        """Take a record that goes this way; where too many wait, drop and count it."""
        if alert.channels and self.channel.name not in alert.channels:
            return
        if len(self._waiting) >= self._settings.queue_max:
            self._count("dropped")
            log.error(
                "an alert was dropped: too many wait", channel=self.channel.name, alert_id=alert.alert_id
            )
            return
        self._waiting.append((offset, alert))
        self._came.set()

    @property
    def waits_from(self) -> int | None:
        """Return the offset of the first record that is not done with; None where none waits."""
        return self._waiting[0][0] if self._waiting else None

    async def run(self) -> None:
        """Send what waits, and say again what holds, until cancelled."""
        repeat_s = self._settings.repeat_ms / 1000
        due_s = time.monotonic() + repeat_s
        while True:
            if self._waiting:
                await self._deliver(self._waiting[0][1])
                self._waiting.popleft()
                continue
            self._came.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(due_s - time.monotonic(), 0)):
                    await self._came.wait()
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + repeat_s
                with suppress(AwayError, RefusedError):  # it comes again soon
                    await self.channel.repeat(_now_ms())

    async def _deliver(self, alert: AlertRecord) -> None:
        give_up_s = time.monotonic() + self._settings.give_up_ms / 1000
        wait_s = BACKOFF_S
        while True:
            try:
                await self.channel.send(alert, _now_ms())
            except RefusedError as error:
                self._tell("refused", alert, error)
                return
            except AwayError as error:
                if time.monotonic() + wait_s > give_up_s:
                    self._tell("dropped", alert, error)
                    return
                self._count("retried")
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, BACKOFF_MAX_S)
            else:
                self._count("delivered")
                return

    def _tell(self, outcome: str, alert: AlertRecord, error: Exception) -> None:
        self._count(outcome)
        told = {"channel": self.channel.name, "alert_id": alert.alert_id, "reason": str(error)}
        log.error("an alert did not reach a channel", outcome=outcome, **told)

    def _count(self, outcome: str) -> None:
        self._counts["alert_deliveries", f"{self.channel.name} {outcome}"] += 1


class Delivery:
    """Hands the records of the alerts topic to the channels, while this process leads."""

    def __init__(
        self, pipeline: Pipeline, settings: Settings, counts: Counts, leads: Callable[[], bool]
    ) -> None:
        self._pipeline, self._settings, self._counts, self._leads = pipeline, settings, counts, leads
        self._partition = TopicPartition(pipeline.catalog["alerts"], PARTITION)
        self._told: OrderedDict[str, None] = OrderedDict()
        for alert in pipeline.policies:
            for name in alert.channels:
                if name not in self.channel_names:
                    log.warning(
                        "an alert names a channel that is not set up",
                        alert=alert.name,
                        channel=name,
                        fix=f"set HEADRACE_ALERTS__{name.upper()}_URL",
                    )

    @property
    def channel_names(self) -> list[AlertChannel]:
        """Return the channels that are set up."""
        given = self._settings.alerts
        urls = {"webhook": given.webhook_url, "alertmanager": given.alertmanager_url}
        return [name for name in get_args(AlertChannel) if name == "log" or urls[name] is not None]

    async def run(self) -> None:
        """Deliver while this process leads, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._leads():
                continue
            try:
                await self._lead()
            except (*REFUSED, BrokerError) as error:
                log.warning("alerts wait for the broker", reason=str(error))
                await asyncio.sleep(AGAIN_S)

    async def _lead(self) -> None:
        """Read the topic from where the last leader was done, as long as this process leads."""
        given, kafka = self._settings.alerts, self._settings.kafka
        timeout = aiohttp.ClientTimeout(total=given.request_deadline_ms / 1000)
        async with self._consumer() as consumer, aiohttp.ClientSession(timeout=timeout) as session:
            start, end = (await bounds(consumer, [self._partition], kafka))[self._partition]
            committed = await self._committed(consumer)
            position = min(max(start, end - TAIL_MAX if committed is None else committed), end)
            consumer.seek(self._partition, position)
            before = await alert_tail(kafka, self._partition.topic, position)
            self._remember(one for _, one in before)
            firing = [one for one in newest(one for _, one in before).values() if one.state == "firing"]
            lanes = [Lane(channel, given, self._counts) for channel in self._channels(session, firing)]
            tasks = [asyncio.create_task(lane.run()) for lane in lanes]
            try:
                await self._read(consumer, lanes, tasks, position)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    async def _read(
        self, consumer: Any, lanes: list[Lane], tasks: list[asyncio.Task[None]], position: int
    ) -> None:
        done = position
        while self._leads():
            for task in tasks:
                if task.done():
                    task.result()  # it never ends by itself
            fetched = await consumer.getmany(self._partition, timeout_ms=int(LOOK_S * 1000))
            records = records_of(self._partition, fetched.get(self._partition, ()))
            for offset, alert in alerts_in(records):
                if not self._repeated(alert):
                    for lane in lanes:
                        lane.offer(offset, alert)
            if records:
                position = records[-1].offset + 1
            waits = [first for lane in lanes if (first := lane.waits_from) is not None]
            if (reached := min([position, *waits])) > done:
                done = reached
                await self._commit(consumer, done)

    def _remember(self, before: Iterable[AlertRecord]) -> None:
        """Know what others have delivered, and nothing else: what was on its way is sent again."""
        self._told.clear()
        for alert in before:
            self._repeated(alert)

    def _repeated(self, alert: AlertRecord) -> bool:
        """Return whether something that happens once has been told already."""
        if alert.state != "told":
            return False
        known = alert.alert_id in self._told
        self._told[alert.alert_id] = None
        if len(self._told) > TOLD_REMEMBERED_MAX:
            self._told.popitem(last=False)
        return known

    def _channels(self, session: aiohttp.ClientSession, firing: list[AlertRecord]) -> list[Channel]:
        given, names = self._settings.alerts, self.channel_names
        channels: list[Channel] = [LogChannel()]
        if "webhook" in names:
            channels.append(WebhookChannel(given, session))
        if "alertmanager" in names:
            mine = [one for one in firing if not one.channels or "alertmanager" in one.channels]
            channels.append(AlertmanagerChannel(given, session, self._pipeline.name, mine))
        return channels

    # -- the place in the topic ------------------------------------------------------------------------

    @asynccontextmanager
    async def _consumer(self) -> AsyncGenerator[Any]:
        """Open a consumer that commits for a group and is no member of it: it reads as it is told."""
        kafka = self._settings.kafka

        def make() -> Any:
            return AIOKafkaConsumer(**consumer_options(kafka), group_id=f"{self._pipeline.name}-alerts")

        async with open_client(make, kafka) as consumer:
            consumer.assign([self._partition])
            yield consumer

    async def _committed(self, consumer: Any) -> int | None:
        try:
            found: int | None = await consumer.committed(self._partition)
        except REFUSED as error:
            self._no_place(error)
            return None
        return found

    async def _commit(self, consumer: Any, position: int) -> None:
        try:
            async with asyncio.timeout(self._settings.kafka.commit_deadline_ms / 1000):
                await consumer.commit({self._partition: position})
        except (*REFUSED, TimeoutError) as error:
            self._no_place(error)

    def _no_place(self, error: BaseException) -> None:
        log.warning(
            "how far alerts were delivered cannot be kept: the next leader may send some again",
            group=f"{self._pipeline.name}-alerts",
            reason=type(error).__name__,
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
