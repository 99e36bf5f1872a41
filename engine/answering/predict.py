"""`POST /predict`: an event in, its prediction out, for those who do not speak Kafka.

Lives here: what a request may say, its way through the two topics, its deadline, what it is told.  Never
here: HTTP and tokens (`engine/host/pages.py`), how an answer is made: the event takes the way of all events.

    body ─> checked as an event ─> events topic, by its key ─> ... a worker answers ... ─> predictions topic
                                                                                               │
    200 <──────────────────── the answer that counts to this very record <─────────────────────┘

So an answer is that of a worker that owns the key, wherever it runs; the label joins, and it is learned, as
of any event; and whichever worker is asked, the answer is the same.  The price is a way through Kafka and
back.  A request that runs into its deadline has asked all the same: its event is published, keeps its place
among the requests until it is, and is answered once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer

from engine.answering.reading import followed
from engine.answering.requests import Posted, Requests
from engine.definition.pipeline import Pipeline
from engine.host.pages import PageText
from engine.kafka.client import REFUSED, broker_error, connect, disconnect
from engine.kafka.log_reader import log_bounds
from engine.kafka.sink import partition_of
from engine.metrics import Metrics
from engine.settings import Settings
from operators.claims.answers import AnswerReader, PartitionRead
from topics.codec import BYTES_MAX, Decoded, Rejected, encode, encode_json
from topics.errors import HeadraceError, SettingsError
from topics.messages import Record

__all__ = ["JSON", "REQUESTS", "Predicting"]

REQUESTS = "predict_requests"
JSON = "application/json"
TAIL_OFFSETS = 1_000
"""Records before the end of the predictions topic that are read first: they say who owns a partition."""
RETRY_S = 2.0
"""Between two tries to read, where Kafka refuses."""

log = structlog.get_logger("headrace")


class Predicting:
    """The route of one worker: it publishes events and reads the answers to them.

    Raises SettingsError for a pipeline whose answers cannot come within the deadline.
    """

    def __init__(self, pipeline: Pipeline, settings: Settings, metrics: Metrics) -> None:
        if pipeline.stages is not None and pipeline.grace_ms >= settings.predict.deadline_ms:
            raise SettingsError(
                f"predict.enabled: windows of {pipeline.name} have other keys than its topic, so answers come"
                f" {pipeline.grace_ms} ms after their events, and predict.deadline_ms is"
                f" {settings.predict.deadline_ms}",
                hint="lower Topic(grace=...), raise HEADRACE_PREDICT__DEADLINE_MS, or publish the events",
            )
        self._name, self._max_ahead_ms = pipeline.name, pipeline.max_ahead_ms
        self._events, self._predictions = pipeline.events.name, pipeline.catalog["predictions"]
        self._decode = pipeline.event_decoder().decode
        self._kafka, self._deadline_ms = settings.kafka, settings.predict.deadline_ms
        self._metrics = metrics
        self._requests = Requests(settings.predict.requests_max)
        self._producer: Any = None
        self._partitions = 0
        """Of the events topic; 0 while answers are not read."""

    @asynccontextmanager
    async def open(self, connected: asyncio.Event) -> AsyncIterator[None]:
        """Read answers for the block, once Kafka has answered."""
        reading = asyncio.create_task(self._read(connected))
        try:
            yield
        finally:
            reading.cancel()
            await asyncio.wait({reading})
            await disconnect(self._producer, self._kafka)

    async def answer(self, content_type: str, body: bytes | None) -> PageText:
        """Return what a request is told; `body` is None where it is larger than an event may be."""
        if content_type != JSON:
            return self._refuse("invalid", 415, f"the body is {content_type or 'of no type'}", f"send {JSON}")
        if body is None:
            return self._refuse(
                "invalid", 413, f"the body is larger than {BYTES_MAX} bytes", "send one event"
            )
        found = self._decoded(body)
        if isinstance(found, Rejected):
            fix = (
                f"send one event of {self._events} as a JSON object: `headrace export jsonschema PIPELINE.py`"
            )
            return self._refuse("invalid", 400, f"{found.stage}: {found.message}", fix)
        if self._requests.full:
            said = f"{self._requests.requests_max} requests are under way"
            return self._refuse(
                "crowded", 429, said, "try again in a second, ask another worker, or publish events"
            )
        if not self._partitions:
            return self._refuse(
                "failed", 503, "answers cannot be read from Kafka yet", "try again when /readyz is 200"
            )
        return await self._asked(found, body)

    async def _asked(self, event: Decoded, body: bytes) -> PageText:
        """Publish an event and wait for its answer."""
        started_s, known = time.monotonic(), {"prediction_id": f"{self._name}:{event.event_id}"}
        request = self._requests.begin(event.event_id)
        # A task of its own: whoever asks may meet the deadline, or go, and the event is written all the same.
        publishing = asyncio.create_task(self._publish(request, event.key.encode(), body))
        try:
            async with asyncio.timeout(self._deadline_ms / 1_000):
                await asyncio.shield(publishing)
                answer = await request.answer
        except TimeoutError:
            said = f"no answer within {self._deadline_ms} ms: the event is published, and answered later"
            fix = f"look for the id on {self._predictions}, or send the event again: it gets the same answer"
            return self._refuse("deadline", 504, said, fix, known)
        except REFUSED as error:
            told = broker_error(error, f"publishing to {self._events}", self._kafka)
            return self._refuse("failed", 503, told.message, told.hint, known)
        finally:
            if publishing.done():
                self._requests.end(request)
            else:
                publishing.add_done_callback(lambda done: self._published_late(request, done))
            self._metrics.predict_duration.observe_same(time.monotonic() - started_s, 1)
        self._metrics.counts[REQUESTS, "answered"] += 1
        return PageText(encode(answer), content_type=JSON)

    def _decoded(self, body: bytes) -> Decoded | Rejected:
        """Return the event of a body, or why it would be a dead letter."""
        now_ms = time.time_ns() // 1_000_000
        record = Record(self._events, 0, 0, now_ms, None, body)
        found = self._decode(record)
        if isinstance(found, Decoded) and found.event_time - now_ms > self._max_ahead_ms:
            said = (
                f"its time {found.event_time} is {found.event_time - now_ms} ms ahead of this worker's clock"
            )
            return Rejected(record, "time", "ValueError", f"{said}, max_ahead is {self._max_ahead_ms} ms")
        return found

    async def _publish(self, request: Posted, key: bytes, body: bytes) -> None:
        """Write an event to the partition of its key, and tell its request where it lies."""
        partition = partition_of(key, self._partitions)
        there = await self._producer.send_and_wait(self._events, body, key=key, partition=partition)
        request.published((there.partition, there.offset))

    def _published_late(self, request: Posted, done: asyncio.Task[None]) -> None:
        """Give the place of a request free that was past its deadline while its event was being written."""
        self._requests.end(request)
        if not done.cancelled() and (error := done.exception()) is not None:
            self._metrics.counts[REQUESTS, "unpublished"] += 1
            log.warning("an event of /predict was not published after its deadline", reason=str(error))

    def _refuse(
        self, outcome: str, status: int, said: str, fix: str, more: dict[str, str] | None = None
    ) -> PageText:
        self._metrics.counts[REQUESTS, outcome] += 1
        told = {"error": said, "fix": fix, **(more or {})}
        return PageText(encode_json(told) + b"\n", status, JSON)

    # -- reading ----------------------------------------------------------------------------------------

    async def _read(self, connected: asyncio.Event) -> None:
        """Read answers until cancelled; whatever ends a reading is told, and it begins again."""
        await connected.wait()
        while True:
            try:
                await self._follow()
            except HeadraceError as error:
                log.warning("answers for /predict are not read: trying again", reason=str(error))
            except Exception:
                log.exception("answers for /predict are not read: trying again")
            self._partitions = 0
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        """Read the predictions topic from shortly before its end."""
        if self._producer is None:
            # Without idempotence one event that is refused ends no other; a repeat is answered the same.
            self._producer = await connect(
                lambda: AIOKafkaProducer(**self._kafka.aiokafka_options(), acks="all"), self._kafka
            )
        bounds = await log_bounds(self._kafka, self._predictions)
        tails = {
            partition: PartitionRead(max(start, end - TAIL_OFFSETS))
            for partition, (start, end) in bounds.items()
        }
        async with aclosing(followed(self._kafka, self._predictions, AnswerReader(tails))) as answers:
            self._partitions = len(bounds)
            log.info("answers for /predict are read", partitions=len(bounds))
            async for partition, answer in answers:
                self._requests.answered(partition, answer)
