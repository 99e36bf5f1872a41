"""Erasing a key: asking for it, what still holds it in the logs and until when, models without it.

Lives here: the tombstone sent and its decision awaited, the search through the topics, the fold of the
examples log without a key's examples.  Never here: what the owner of a partition forgets
(`engine/machines/scorer.py`), the record itself (`topics/erasure.py`), arguments.

Kafka deletes by time, by size and by compaction, never one record.  So what was written before stays where it
is until retention takes it, and this says where that is.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Final

import msgspec
from msgspec.structs import replace

from engine.definition.pipeline import Pipeline
from engine.kafka.log_reader import log_bounds, read_log
from engine.kafka.sink import open_sink
from engine.kafka.topic_admin import topic_states
from engine.lineage.sources import PipelineLogs
from engine.offline.replay import ReadableLog, Replay, topic_logs
from engine.settings import Settings
from topics import headers
from topics.catalog import Role
from topics.codec import decode_block, decode_decision, decode_example, decode_quarantine, encode, encode_json
from topics.erasure import Erase, tombstone
from topics.errors import BrokerError
from topics.messages import Block, Content, Decision, Example, Quarantine, Record

__all__ = ["HeldRecords", "WithoutKey", "ask_to_erase", "held_in_logs", "rebuilt"]

DECISIONS_PARTITION = 0
FOREVER: Final = "for ever (retention.ms=-1)"
COMPACTED: Final = "compacted away: a tombstone was written"
TOMBSTONED: tuple[Role, ...] = ("predictions", "shadow-predictions", "dead-letters")
"""Topics of ours whose records have the event's key, and whose readers pass over a null value."""


# -- asking ----------------------------------------------------------------------------------------------


async def ask_to_erase(
    pipeline: Pipeline, settings: Settings, asked: Erase, *, deadline_s: float
) -> Decision:
    """Write a key's tombstone, signed where its actor has a key; return the decision of who acted on it.

    Raises BrokerError where none has come within `deadline_s`: the tombstone stays, and acts when its
    partition has an owner.
    """
    kafka, topic = settings.kafka, pipeline.events.name
    log = pipeline.catalog["decisions"]
    _, end = (await log_bounds(kafka, log))[DECISIONS_PARTITION]
    key, said = tombstone(asked, settings.command_secrets().get(asked.actor), topic=topic)
    async with open_sink(kafka) as sink:
        await sink.send(topic, None, [Content(key, None, said, asked.time)])
        await sink.flush()
    try:
        async with (
            asyncio.timeout(deadline_s),
            aclosing(read_log(kafka, log, DECISIONS_PARTITION, end)) as batches,
        ):
            async for records in batches:
                for record in records:
                    decision = decode_decision(record.value or b"")
                    if decision.evidence.get("command_id") == asked.command_id:
                        return decision
    except TimeoutError:
        pass
    raise BrokerError(
        f"no owner has acted on request {asked.command_id} within {deadline_s:g} s",
        hint=f"does a worker of {pipeline.name} run? The tombstone stays in its topic and acts when one does;"
        " one that was refused is a dead letter of stage `erase`",
        topic=topic,
    )


# -- where it still is -----------------------------------------------------------------------------------


class HeldRecords(msgspec.Struct, frozen=True):
    """Records of one partition that still hold a key."""

    role: Role
    topic: str
    partition: int
    first: int
    last: int
    """Offsets of the first and the last of them."""
    count: int
    until: str
    """When they are gone."""
    until_ms: int | None = None
    """When retention may take the last of them; None: see `until`."""


async def held_in_logs(pipeline: Pipeline, settings: Settings, key: str) -> list[HeldRecords]:
    """Search every topic of a pipeline for records under a key, and for values that hold it as a text.

    In compacted topics of answers a tombstone of the key is written first.  Raises BrokerError.
    """
    kafka, name = settings.kafka, key.encode()
    states = await topic_states(kafka, pipeline.catalog.plan(events=pipeline.events.partitions))
    found: list[HeldRecords] = []
    for state in states:
        role, topic, configs = state.plan.role, state.plan.name, state.configs
        if state.partitions is None:
            continue
        compacted = "compact" in configs.get("cleanup.policy", "") and role in TOMBSTONED
        if compacted:
            async with open_sink(kafka) as sink:
                await sink.send(topic, None, [Content(name, None)])
                await sink.flush()
        for log in await topic_logs(pipeline, role, kafka):
            found += await _held(role, topic, log, key, compacted, configs.get("retention.ms"))
    return found


async def _held(
    role: Role, topic: str, log: ReadableLog, key: str, compacted: bool, retention_ms: str | None
) -> list[HeldRecords]:
    """Return what one partition has of a key: nothing, or one range."""
    name, text = key.encode(), encode_json(key)
    offsets: list[int] = []
    partition, newest_ms = 0, 0
    async with aclosing(log.read()) as batches:
        async for records in batches:
            for record in records:
                if record.key == name or (record.value is not None and text in record.value):
                    offsets.append(record.offset)
                    partition, newest_ms = record.partition, max(newest_ms, record.timestamp_ms or 0)
    if not offsets:
        return []
    until_ms, until = None, FOREVER
    if compacted:
        until = COMPACTED
    elif retention_ms is not None and int(retention_ms) >= 0:
        until_ms = newest_ms + int(retention_ms)
        until = f"{retention_ms} ms after each record's time (retention.ms)"
    elif retention_ms is None:
        until = "the broker's default retention"
    return [HeldRecords(role, topic, partition, offsets[0], offsets[-1], len(offsets), until, until_ms)]


# -- models without it -----------------------------------------------------------------------------------


class WithoutKey:
    """An examples log without the examples of a key, as if they had never been numbered.

    A record counts if its number is the next of its claim.  So behind each example that is left out, numbers
    of the same claim are smaller by one.
    """

    def __init__(self, log: ReadableLog, key: str) -> None:
        self._log = log
        self._key = key
        self.left_out = 0
        """Examples that the last reading has left out, repeats among them."""

    async def read(self, start: int | None = None) -> AsyncGenerator[list[Record]]:
        """Yield the records from `start` on; numbers are known from the first record, so all are read."""
        gone: dict[tuple[int, int], list[int]] = defaultdict(list)
        self.left_out = 0
        async with aclosing(self._log.read()) as batches:
            async for records in batches:
                kept = [one for record in records for one in self._kept(record, gone)]
                yield [record for record in kept if start is None or record.offset >= start]

    def _kept(self, record: Record, gone: dict[tuple[int, int], list[int]]) -> Iterator[Record]:
        """Yield the record with its number in the log without the key, or nothing."""
        value: Example | Quarantine | Block
        match headers.record_type_of(record.headers):
            case "example":
                value = example = decode_example(record.value or b"")
                numbers = gone[value.source_partition, value.claim]
                if example.key == self._key:
                    self.left_out += 1
                    if value.sequence not in numbers:
                        insort(numbers, value.sequence)
                    return
            case "quarantine":
                value = decode_quarantine(record.value or b"")
                numbers = gone[value.source_partition, value.claim]
            case "block":
                value = decode_block(record.value or b"")
                numbers = gone[value.source_partition, value.claim]
            case _:
                yield record
                return
        before = bisect_left(numbers, value.sequence)
        if before:
            value = replace(value, sequence=value.sequence - before)
            record = replace(record, value=encode(value))
        yield record


async def rebuilt(logs: PipelineLogs, key: str) -> tuple[Replay, int]:
    """Fold the examples log without a key's examples; return the fold, and how many were left out.

    Equal logs give equal models, digest for digest.  Raises ModelError, SettingsError.
    """
    without = WithoutKey(await logs.examples(), key)
    replay = await logs.replay(without)
    await replay.to(None)
    return replay, without.left_out
