"""The claim protocol with Kafka and a checkpoint store: what tells an owner that a partition is its own.

Lives here: carrying out the protocol's requests one after the other, and whether a log is still the one that
was read.  Never here: the order of the requests (`operators/claims/takeover.py`), what a checkpoint says of
itself (`header.py`), what an owner is (`partition.py`), positions (`source.py`).

A topic that was deleted and made anew has other records at the same offsets.  Kafka has an id for
each topic, which aiokafka's requests (metadata up to version 5) do not ask for; the last record taken tells
as much, so a checkpoint keeps what tells it apart.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import structlog
from aiokafka import TopicPartition

import operators.claims.takeover as claims
from engine.kafka.client import LogPartition
from engine.kafka.log_reader import log_bounds, read_log, records_at
from engine.kafka.sink import Sink, Written
from engine.kafka.source import Source
from engine.settings import KafkaSettings
from engine.stores.checkpoints import Checkpoint, CheckpointStore
from engine.worker.header import Fingerprint, decode_meta
from operators.claims.rule import LogPosition, Writer
from topics import headers
from topics.catalog import Catalog
from topics.codec import (
    decode_block,
    decode_claim,
    decode_command,
    decode_example,
    decode_prediction,
    decode_quarantine,
    encode,
)
from topics.errors import CheckpointError, HeadraceError
from topics.messages import Block, Claim, Command, Example, Outgoing, Prediction, Quarantine, Record
from topics.rekeying import decode_rekeying

__all__ = [
    "ClaimExecutor",
    "RevokedError",
    "ScorerCheckpoint",
    "check_same_logs",
    "fingerprint",
]

REKEYING_LOGS = ("rekey", "rekeyed")

log = structlog.get_logger("headrace")


class RevokedError(Exception):
    """The group takes partitions back while they are taken over: what was done so far is worth nothing."""


def fingerprint(record: Record) -> Fingerprint:
    """Return the fingerprint of a record.

    >>> fingerprint(Record("t", 0, 7, 5, b"k", b"v")) == fingerprint(Record("t", 0, 7, 5, b"k", b"w"))
    False
    """
    crc = crc32(record.value or b"", crc32(record.key or b""))
    return Fingerprint(record.offset, record.timestamp_ms, crc)


class ScorerCheckpoint:
    """A checkpoint as a takeover sees it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.entries = checkpoint.entries
        self.damage = checkpoint.damage
        self.meta = decode_meta(checkpoint.meta)
        self.logs = self.meta.logs


class ClaimExecutor:
    """Carries out the requests of the claim protocol, with Kafka and a checkpoint store."""

    def __init__(self, catalog: Catalog, kafka: KafkaSettings, sink: Sink, source: Source) -> None:
        self._catalog = catalog
        self._kafka = kafka
        self._sink = sink
        self._source = source
        self._bounds: dict[str, dict[int, tuple[int, int]]] = {}
        """Where the internal topics began and ended during one run."""
        self._reader: AsyncGenerator[list[Record]] | None = None
        self._reads_on: tuple[Any, ...] = ()
        """The request that the open reader is at."""
        self.requests = 0
        """The number of requests that were carried out."""

    async def run(
        self,
        protocol: Generator[claims.Request, Any, Any],
        store: CheckpointStore,
        go_on: Callable[[], object] = lambda: None,
    ) -> Any:
        """Carry out one request after the other; return what the protocol ends with.

        `go_on` is called before each, and raises where there shall be no further one.
        """
        self._bounds.clear()

        async def carry_out(request: claims.Request) -> Any:
            go_on()
            return await self._carry_out(request, store)

        return await self._carry_out_all(protocol, carry_out)

    async def still_owner(
        self, owner: claims.Takeover, at: claims.Cut, store: CheckpointStore, *, written_before: int
    ) -> bool:
        """Ask the log, by the open connection: this is before every checkpoint.

        `written_before` is how many records this process had written to the predictions before it was the
        owner.
        """
        return await self._ask(claims.still_owner(owner, at), store, written_before)

    async def keeps(
        self,
        owner: claims.Takeover,
        saved: tuple[LogPosition, ...],
        store: CheckpointStore,
        *,
        written_before: int,
    ) -> bool:
        """Ask store and log whether an owner may go on whose partition was taken away and came back.

        `saved` are the log positions of its last checkpoint, `written_before` is as in `still_owner`.
        """
        return await self._ask(claims.keeps(owner, saved), store, written_before)

    async def _ask(
        self, protocol: Generator[claims.Request, Any, bool], store: CheckpointStore, written_before: int
    ) -> bool:
        async def carry_out(request: claims.Request) -> Any:
            match request:
                case claims.FindBounds(target, number):
                    return claims.Bounds(*(await self._source.bounds((self.topic(target), number))))
                case claims.Settle(target, number):
                    sent = (await self._sink.written_to(self._sink.mark()))[self.topic(target), number]
                    return claims.Sent(sent.records - written_before, sent.offset + 1)
                case _:
                    return await self._carry_out(request, store)

        return bool(await self._carry_out_all(protocol, carry_out))

    def acknowledge(self, writer: Writer, written: Mapping[LogPartition, Written]) -> None:
        """Pass acknowledged offsets to a writer.  Raises ClaimError if records were written out of order."""
        with self._topics_named():
            for position in writer.positions():
                found = written.get((self.topic(position.target), position.partition))
                if found is not None and found.offset >= position.position:
                    writer.acknowledged(position.log, found.offset)

    async def _carry_out_all(
        self,
        protocol: Generator[claims.Request, Any, Any],
        carry_out: Callable[[claims.Request], Awaitable[Any]],
    ) -> Any:
        answer: Any = None
        try:
            with self._topics_named():
                while True:
                    answer = await carry_out(protocol.send(answer))
                    self.requests += 1
        except StopIteration as end:
            return end.value
        finally:
            await self._close()

    async def _carry_out(self, request: claims.Request, store: CheckpointStore) -> Any:
        match request:
            case claims.Look():
                claim, meta = await store.look()
                logs = () if meta is None else decode_meta(meta).logs
                return claims.Stored(claim, logs, f" {store.place}")
            case claims.Fence(above):
                return await store.fence(above=above)
            case claims.LoadCheckpoint():
                checkpoint = await store.load()
                return None if checkpoint is None else ScorerCheckpoint(checkpoint)
            case claims.FindBounds(target, partition):
                return await self._find_bounds(target, partition)
            case claims.WriteClaim(target, partition, value):
                return await self._write_claim(target, partition, value)
            case claims.ReadLog(target, partition, position, until):
                return await self._read(target, partition, position, until)

    async def _find_bounds(self, target: Any, partition: int) -> claims.Bounds:
        """Ask once for all partitions of an internal topic: whether they reach back to the checkpoint."""
        found = self._bounds.get(target)
        if found is None:
            found = await log_bounds(self._kafka, self.topic(target))
            if target in REKEYING_LOGS:
                self._bounds[target] = found
        return claims.Bounds(*found[partition])

    async def _write_claim(self, target: Any, partition: int, value: Claim) -> int:
        topic = self.topic(target)
        now_ms = time.time_ns() // 1_000_000
        record = Outgoing(target, partition, None, encode(value), headers.CLAIM, now_ms)
        await self._sink.send(topic, partition, [record])
        return (await self._sink.flush())[topic, partition]

    async def _read(self, target: Any, partition: int, position: int, until: int) -> claims.LogBatch:
        """Return what one fetch brings; the reader stays open for the next."""
        if self._reader is None or self._reads_on != (target, partition, position, until):
            await self._close()
            self._reader = read_log(self._kafka, self.topic(target), partition, position, until)
        fetched = await anext(self._reader, None)
        position = until if fetched is None else fetched[-1].offset + 1
        self._reads_on = (target, partition, position, until)
        decode = decode_rekeying if target in REKEYING_LOGS else _decoded
        values = ((record.offset, decode(record)) for record in fetched or ())
        return claims.LogBatch(
            [claims.LogRecord(offset, value) for offset, value in values if value is not None], position
        )

    async def _close(self) -> None:
        """Close the reader that the last request has left open."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.aclose()

    @contextmanager
    def _topics_named(self) -> Iterator[None]:
        """Add the topic's name to errors of the protocol, which knows logs by their role."""
        try:
            yield
        except HeadraceError as error:
            if error.topic in ("predictions", "examples", *REKEYING_LOGS):
                error.topic = self.topic(error.topic)
            raise

    def topic(self, target: Any) -> str:
        """Return the name of the topic in this role."""
        return self._catalog[target]


def _decoded(record: Record) -> Claim | Prediction | Example | Quarantine | Block | Command | None:
    """Return the value of a log's record; None for what no owner writes, and for no message of ours."""
    if record.value is None:
        return None
    try:
        match headers.record_type_of(record.headers):
            case "claim":
                return decode_claim(record.value)
            case "example":
                return decode_example(record.value)
            case "quarantine":
                return decode_quarantine(record.value)
            case "block":
                return decode_block(record.value)
            case "command":
                return decode_command(record.value)
            case "field" | "slow":
                return None
            case None:
                return decode_prediction(record.value)
    except ValueError:  # msgspec's errors are ValueErrors
        return None


async def check_same_logs(kafka: KafkaSettings, known: Mapping[LogPartition, Fingerprint]) -> None:
    """Compare records that were read with what the logs hold there now.

    One that was deleted since (by retention, or as an older one of its key) cannot be compared, which
    is told and no error.  Raises CheckpointError where a log is another one, BrokerError.
    """
    wanted = {TopicPartition(*partition): kept.offset for partition, kept in known.items()}
    for tp, (start, end, record) in (await records_at(kafka, wanted)).items():
        kept = known[tp]
        if kept.offset >= end:
            what = f"the log ends at {end}, before the last record that was read of it"
        elif record is None:
            log.info(
                "the last record read is deleted: whether the log is the same cannot be told",
                topic=tp.topic,
                partition=tp.partition,
                offset=kept.offset,
                log_starts_at=start,
            )
            continue
        elif fingerprint(record) != kept:
            what = "another record lies where the last one was read"
        else:
            continue
        raise CheckpointError(
            f"the checkpoint is of another log: {what}",
            hint="was the topic deleted and made anew, or is this another cluster? Bring the log back, or"
            " begin with the first records of this one, with an empty store (another HEADRACE_STATE_DIR)",
            topic=tp.topic,
            partition=tp.partition,
            offset=kept.offset,
        )
