"""The claim protocol with Kafka and a checkpoint store: the requests of `takeover.py` are carried out here.

Lives here: carrying out one request after the other, and what a scorer's checkpoint says beside
its state.  Never here: their order (the generators'), what an owner is (`partition.py`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from engine.kafka.log_ends import log_bounds
from engine.kafka.log_reader import read_log
from engine.kafka.sink import Sink
from engine.settings import KafkaSettings
from engine.stores.checkpoints import Checkpoint, CheckpointStore
from engine.worker.fingerprint import Fingerprint
from operators.claims import requests
from operators.claims.requests import Bounds, LogBatch, LogRecord, Stored
from operators.claims.rule import LogPosition
from topics import headers
from topics.catalog import Catalog
from topics.codec import (
    decode_claim,
    decode_command,
    decode_example,
    decode_prediction,
    decode_quarantine,
    encode,
)
from topics.errors import HeadraceError
from topics.messages import Claim, Command, Example, Outgoing, Prediction, Quarantine, Record
from topics.rekeying import decode_rekeying

__all__ = ["Claiming", "Loaded", "ScorerMeta", "decode_meta"]

REKEYING_LOGS = ("rekey", "rekeyed")


class ScorerMeta(msgspec.Struct, frozen=True):
    """What a scorer's checkpoint says beside its state."""

    definition: dict[str, str]
    logs: tuple[LogPosition, ...]
    read: dict[str, Fingerprint] = {}
    """The last record taken of each topic it reads."""


decode_meta = msgspec.json.Decoder(ScorerMeta).decode


class Loaded:
    """A checkpoint as a takeover sees it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.entries = checkpoint.entries
        self.meta = decode_meta(checkpoint.meta)
        self.logs = self.meta.logs


class Claiming:
    """Answers the requests of the claim protocol."""

    def __init__(self, catalog: Catalog, kafka: KafkaSettings, sink: Sink) -> None:
        self._catalog = catalog
        self._kafka = kafka
        self._sink = sink
        self._bounds: dict[str, dict[int, tuple[int, int]]] = {}
        """Where the internal topics began and ended during one run."""
        self._reader: AsyncGenerator[list[Record]] | None = None
        self._reads_on: tuple[Any, ...] = ()
        """The request that the open reader is at."""

    async def run(self, protocol: Generator[requests.Request, Any, Any], store: CheckpointStore) -> Any:
        """Carry out one request after the other; return what the protocol ends with."""
        answer: Any = None
        self._bounds.clear()
        try:
            with self.topics_named():
                while True:
                    answer = await self.carry_out(protocol.send(answer), store)
        except StopIteration as end:
            return end.value
        finally:
            await self.close()

    async def carry_out(self, request: requests.Request, store: CheckpointStore) -> Any:
        """Return the answer to a request; `close` when the last one has been."""
        match request:
            case requests.Look():
                claim, meta = await store.look()
                logs = () if meta is None else decode_meta(meta).logs
                return Stored(claim, logs, f" {store.path}")
            case requests.Fence(above):
                return (await store.fence(above=above)).claim
            case requests.LoadCheckpoint():
                checkpoint = await store.load()
                return None if checkpoint is None else Loaded(checkpoint)
            case requests.FindBounds(target, partition):
                return await self._find_bounds(target, partition)
            case requests.WriteClaim(target, partition, value):
                return await self._write_claim(target, partition, value)
            case requests.ReadLog(target, partition, position, until):
                return await self._read(target, partition, position, until)

    async def _find_bounds(self, target: Any, partition: int) -> Bounds:
        """Ask once for all partitions of an internal topic: whether they reach back to the checkpoint."""
        found = self._bounds.get(target)
        if found is None:
            found = await log_bounds(self._kafka, self.topic(target))
            if target in REKEYING_LOGS:
                self._bounds[target] = found
        return Bounds(*found[partition])

    async def _write_claim(self, target: Any, partition: int, value: Claim) -> int:
        topic = self.topic(target)
        now_ms = time.time_ns() // 1_000_000
        record = Outgoing(target, partition, None, encode(value), headers.CLAIM, now_ms)
        await self._sink.send(topic, partition, [record])
        return (await self._sink.flush())[topic, partition]

    async def _read(self, target: Any, partition: int, position: int, until: int) -> LogBatch:
        """Return what one fetch brings; the reader stays open for the next."""
        if self._reader is None or self._reads_on != (target, partition, position, until):
            await self.close()
            self._reader = read_log(self._kafka, self.topic(target), partition, position, until)
        fetched = await anext(self._reader, None)
        position = until if fetched is None else fetched[-1].offset + 1
        self._reads_on = (target, partition, position, until)
        decode = decode_rekeying if target in REKEYING_LOGS else _decoded
        values = ((record.offset, decode(record)) for record in fetched or ())
        return LogBatch([LogRecord(offset, value) for offset, value in values if value is not None], position)

    async def close(self) -> None:
        """Close the reader that the last request has left open."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.aclose()

    @contextmanager
    def topics_named(self) -> Iterator[None]:
        """Let errors of the protocol, which knows logs by their role, name the topic."""
        try:
            yield
        except HeadraceError as error:
            if error.topic in ("predictions", "examples", *REKEYING_LOGS):
                error.topic = self.topic(error.topic)
            raise

    def topic(self, target: Any) -> str:
        """Return the name of the topic in this role."""
        return self._catalog[target]


def _decoded(record: Record) -> Claim | Prediction | Example | Quarantine | Command | None:
    """Return the value of a log's record; None for what is no message of ours."""
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
            case "command":
                return decode_command(record.value)
            case None:
                return decode_prediction(record.value)
    except ValueError:  # msgspec's errors are ValueErrors
        return None
