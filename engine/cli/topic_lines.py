"""`headrace tail` and `headrace send`: a topic to lines, lines to a topic.

Lives here: what one line of either looks like.  Never here: pipelines; both work on any topic.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time as clock
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from engine.kafka.log_ends import log_bounds
from engine.kafka.log_reader import read_log
from engine.kafka.sink import Sink
from engine.offline.json_lines import lines_of
from engine.settings import KafkaSettings
from topics.codec import time_ms
from topics.errors import SettingsError
from topics.headers import record_type_of
from topics.messages import Outgoing, Record

__all__ = ["send_file", "tail_topic"]

SEND_BATCH = 1_000
"""Lines read and sent at once."""


async def tail_topic(
    kafka: KafkaSettings, topic: str, *, from_beginning: bool, count: int | None, headers: bool, claims: bool
) -> None:
    """Print the records of `topic`, one JSON object a line, until `count` of them or interrupted.

    Without `claims` the claim records of workers are left out, and the end says how many.
    """
    queue: asyncio.Queue[Record] = asyncio.Queue(maxsize=SEND_BATCH)
    hidden = 0

    async def follow(partition: int, start: int) -> None:
        nonlocal hidden
        async for records in read_log(kafka, topic, partition, start):
            for record in records:
                if not claims and record_type_of(record.headers) == "claim":
                    hidden += 1
                else:
                    await queue.put(record)

    bounds = await log_bounds(kafka, topic)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(follow(partition, start if from_beginning else end))
                for partition, (start, end) in bounds.items()
            ]
            for _ in itertools.repeat(None) if count is None else range(count):
                line = orjson.dumps(_shown(await queue.get(), headers=headers))
                sys.stdout.write(line.decode() + "\n")
                if queue.empty():
                    sys.stdout.flush()
            for task in tasks:
                task.cancel()
    finally:
        if hidden:
            sys.stderr.write(f"left out: {hidden} claim records of workers; --claims shows them\n")


def _shown(record: Record, *, headers: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "key": _text(record.key),
        "value": _value(record.value),
    }
    if headers:
        shown["headers"] = {name: _text(value) for name, value in record.headers}
    return shown


def _value(value: bytes | None) -> Any:
    """A JSON value as it is; anything else as text, so that dead letters can be looked at too."""
    if value is None:
        return None
    try:
        return orjson.Fragment(value) if orjson.loads(value) is not None else None
    except orjson.JSONDecodeError:
        return _text(value)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


async def send_file(
    kafka: KafkaSettings, topic: str, file: Path, *, key: str | None, time: str | None
) -> int:
    """Publish each line of `file` as one record and return how many there were.

    `key` and `time` name fields of the line; the record's timestamp is the latter, or now.  Lines are sent
    as they are, valid or not.  Raises SettingsError for a file that cannot be read, BrokerError otherwise.
    """
    sink = Sink(kafka)
    await sink.start()
    sent = 0
    try:
        lines = _lines(file)
        while batch := list(itertools.islice(lines, SEND_BATCH)):
            records = [_outgoing(line, key, time) for line in batch]
            await sink.send(topic, None, records)
            sent += len(records)
        await sink.flush()
    finally:
        await sink.stop()
    return sent


def _outgoing(line: bytes, key: str | None, time: str | None) -> Outgoing:
    """A line that is no JSON object still goes, without key: the engine's dead letters will say why."""
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        fields = {}
    found = fields.get(key) if key and isinstance(fields, dict) else None
    timestamp_ms = int(clock.time() * 1_000)
    if time and isinstance(fields, dict) and time in fields:
        try:
            timestamp_ms = time_ms(fields[time])
        except ValueError as error:
            raise SettingsError(
                f"field `{time}` of a line is no time: {error}", hint="leave --time out"
            ) from None
    return Outgoing(
        "dead-letters", None, None if found is None else str(found).encode(), line, (), timestamp_ms
    )


def _lines(file: Path) -> Iterator[bytes]:
    if str(file) == "-":
        return (stripped for line in sys.stdin.buffer if (stripped := line.strip()))
    return (line for _, line in lines_of(file))
