"""Files of events and labels to a pipeline's two topics, in the order in which a backtest reads them.

Lives here: that order, the key and the time of each record, what must be acknowledged before what leaves; the
lines of one file to any topic.  Never here: what a worker makes of records.

Strategy: the older head of the two files goes first, labels on ties (the rule of `Intake`).  A worker may
run meanwhile, and where a topic has nothing unread it goes ahead.  So records leave in steps: the labels of a
slice, and when they are acknowledged its events.  Whoever can read an event can then read every label that
is not younger, and `Source.look_beside` lets a worker see it.

    merged     e10 l15 e20 l25 l26 e30 | e31 ...          a slice is SLICE_RECORDS long
    steps      [l15 l25 l26]  [e10 e20 e30]  [...]        each acknowledged before the next leaves
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sys
import time as clock
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import orjson

from engine.definition.pipeline import Pipeline
from engine.kafka.sink import Sink, open_sink
from engine.kafka.topic_admin import TopicState, ensure_topics, topic_states
from engine.offline.json_lines import json_object, lines_of
from engine.settings import KafkaSettings
from topics.catalog import FOREVER_MS, Catalog
from topics.codec import time_ms
from topics.errors import SettingsError
from topics.messages import Content

__all__ = [
    "SLICE_RECORDS",
    "FileLine",
    "PipelineFiles",
    "Published",
    "deleted_soon",
    "merged",
    "send_file",
    "send_files",
    "send_step",
    "steps",
]

SEND_BATCH = 1_000
"""Lines of a file for any topic that are read and sent at once."""
SLICE_RECORDS = 200
"""A worker that keeps up with the sending may learn a label this many records early, never late."""
PACE_S = 0.25
"""At a rate, so much of it leaves at once."""
KEYS_MAX = 500_000
"""Events whose keys are remembered for labels; the oldest are forgotten first."""
HELD_MAX = 10_000
"""Labels without a key that wait for their event; what comes beyond is not sent."""


class FileLine(NamedTuple):
    """A line of one of the two files."""

    is_label: bool
    time_ms: int
    """Its event or label time; that of the line before where it has none: it goes at once, in its place."""
    event_id: str
    key: bytes | None
    """The record's key; of labels None until their event is known, where they do not name it themselves."""
    value: bytes


class Published(NamedTuple):
    """The counts of what was sent, and notes about the files."""

    events: int
    labels: int
    notes: tuple[str, ...]


def merged(events: Iterable[FileLine], labels: Iterable[FileLine]) -> Iterator[FileLine]:
    """Yield the lines of both files, each file's in its order: the older head first, labels on ties."""
    return heapq.merge(labels, events, key=lambda line: line.time_ms)


def steps(lines: Iterable[FileLine], slice_records: int = SLICE_RECORDS) -> Iterator[list[FileLine]]:
    """Cut lines into steps of only events or only labels; a step is acknowledged before the next leaves."""
    rest = iter(lines)
    while part := list(itertools.islice(rest, slice_records)):
        for is_label in (True, False):
            if step := [line for line in part if line.is_label == is_label]:
                yield step


async def send_step(sink: Sink, catalog: Catalog, step: list[FileLine]) -> None:
    """Send a step to its topic; return when it is acknowledged.  Raises BrokerError."""
    topic = catalog["labels" if step[0].is_label else "events"]
    records = [Content(one.key, one.value, (), one.time_ms) for one in step]
    await sink.send(topic, None, records)
    await sink.flush()


async def send_files(
    kafka: KafkaSettings,
    pipeline: Pipeline,
    *,
    events: Path | None,
    labels: Path | None,
    rate: float | None = None,
) -> Published:
    """Publish both files of a pipeline, merged by time, and return what was sent.

    An event's key is its `key=` field, a label's is that of its event; the record's timestamp is the time
    field.  `rate` is how many records leave in a second at most, None as fast as they go.  Raises
    SettingsError for files that cannot be read or are of something else, and BrokerError.
    """
    if labels is not None and pipeline.labels.topic is None:
        raise SettingsError(
            f"the events of {pipeline.name} carry their labels: it has no topic for {labels}",
            hint="leave --labels out",
        )
    catalog = pipeline.catalog
    plan = [
        one for one in catalog.plan(events=pipeline.events.partitions) if one.role in {"events", "labels"}
    ]
    await ensure_topics(kafka, plan)  # both are the user's: it looks, and makes none
    files = PipelineFiles(pipeline)
    lines = files.keyed(merged(files.events(events), files.labels(labels)))
    async with open_sink(kafka) as sink:
        started_s, sent = clock.monotonic(), 0
        slice_records = SLICE_RECORDS if rate is None else min(SLICE_RECORDS, max(1, round(rate * PACE_S)))
        for step in steps(lines, slice_records):
            await send_step(sink, catalog, step)
            sent += len(step)
            if rate is not None:
                await asyncio.sleep(max(0.0, started_s + sent / rate - clock.monotonic()))
    states = await topic_states(kafka, plan)
    notes = *files.notes(), *deleted_soon(states, files.oldest_ms, clock.time_ns() // 1_000_000)
    return Published(files.counts["events"], files.counts["labels"], notes)


def deleted_soon(states: Iterable[TopicState], oldest_ms: int | None, now_ms: int) -> Iterator[str]:
    """Yield a note for each topic that will not keep the oldest of the records sent."""
    for state in states:
        kept_ms = int(state.configs.get("retention.ms", FOREVER_MS))
        if oldest_ms is not None and 0 <= kept_ms < now_ms - oldest_ms:
            yield (
                f"{state.plan.name} deletes records older than {kept_ms} ms by their times, so the oldest "
                "of these at Kafka's next check: set retention.ms=-1 on it and on the predictions topic"
            )


class PipelineFiles:
    """The two files of a pipeline as lines, and the keys that labels have from their events."""

    def __init__(self, pipeline: Pipeline) -> None:
        topic, labels = pipeline.events, pipeline.labels
        wire = {entry.name: entry.encode_name for entry in msgspec.structs.fields(topic.type)}
        self._key = wire[topic.key]
        self._event_fields = wire[topic.id], wire[topic.time]
        self._label_fields = labels.id, labels.time
        self.counts: Counter[str] = Counter()
        self.oldest_ms: int | None = None
        """Time of the oldest line read."""

    def events(self, path: Path | None) -> Iterator[FileLine]:
        """Yield the lines of the events file."""
        return self._read(path, "events", *self._event_fields)

    def labels(self, path: Path | None) -> Iterator[FileLine]:
        """Yield the lines of the labels file."""
        return self._read(path, "labels", *self._label_fields)

    def keyed(self, lines: Iterable[FileLine]) -> Iterator[FileLine]:
        """Yield lines with their keys: a label has that of its event, or else that of its own key field.

        A label that names no key is held until its event has gone; one whose event never comes is left out.
        """
        keys: dict[str, bytes] = {}
        held: dict[str, list[FileLine]] = {}
        for line in lines:
            if line.is_label:
                key = keys.get(line.event_id, line.key)
                if key is not None:
                    self.counts["labels"] += 1
                    yield line._replace(key=key)
                    continue
                self.counts["keyless"] += 1
                if len(held) < HELD_MAX:
                    held.setdefault(line.event_id, []).append(line)
                continue
            self.counts["events"] += 1
            yield line
            if line.key is None:
                continue
            keys[line.event_id] = line.key
            if len(keys) > KEYS_MAX:
                del keys[next(iter(keys))]
            for label in held.pop(line.event_id, ()):
                self.counts["keyless"] -= 1
                self.counts["labels"] += 1
                yield label._replace(key=line.key)

    def _read(self, path: Path | None, what: str, id_field: str, time_field: str) -> Iterator[FileLine]:
        """Yield the lines of a file.  Raises SettingsError where the first has no time."""
        before = -1
        for number, value in lines_of(path) if path is not None else ():
            fields: Any = {}
            try:
                fields = orjson.loads(value)
                at_ms = time_ms(fields[time_field])
            except (ValueError, KeyError, TypeError, IndexError) as error:
                if before < 0:
                    said = f"no field {error}" if isinstance(error, KeyError) else str(error)
                    raise SettingsError(
                        f"line {number + 1} of {path} has no usable `{time_field}`: {said}",
                        hint=f"give the {what} as one JSON object a line, oldest first",
                    ) from None
                self.counts[f"{what} untimed"] += 1
                fields = fields if isinstance(fields, dict) else {}
                at_ms = before
            self.counts[f"{what} unordered"] += at_ms < before
            before = at_ms
            self.oldest_ms = at_ms if self.oldest_ms is None else min(self.oldest_ms, at_ms)
            key = fields.get(self._key)
            key = None if key is None else str(key).encode()
            yield FileLine(what == "labels", at_ms, str(fields.get(id_field)), key, value)

    def notes(self) -> Iterator[str]:
        """Yield notes about these files that the user should read."""
        counts = self.counts
        if keyless := counts["keyless"]:
            yield (
                f"{keyless:,} labels were not sent: no event before them in the file has their id, "
                f"and they have no field `{self._key}`, the key of events"
            )
        for what, (_, time_field) in (("events", self._event_fields), ("labels", self._label_fields)):
            if untimed := counts[f"{what} untimed"]:
                yield f"{untimed:,} {what} have no usable `{time_field}`: they become dead letters"
            if unordered := counts[f"{what} unordered"]:
                yield f"{unordered:,} {what} are older than the line before them: sort by `{time_field}`"


async def send_file(
    kafka: KafkaSettings, topic: str, file: Path, *, key: str | None, time: str | None
) -> int:
    """Publish each line of `file` as one record and return how many there were.

    `key` and `time` name fields of the line; the record's timestamp is the latter, or now.  Lines are sent
    as they are, valid or not.  Raises SettingsError for a file that cannot be read, BrokerError otherwise.
    """
    sent, lines = 0, _lines(file)
    async with open_sink(kafka) as sink:
        while batch := list(itertools.islice(lines, SEND_BATCH)):
            await sink.send(topic, None, [_content(line, key, time) for line in batch])
            sent += len(batch)
        await sink.flush()
    return sent


def _content(line: bytes, key: str | None, time: str | None) -> Content:
    """Return the record of a line; one that is no JSON object has no key and becomes a dead letter later."""
    fields = json_object(line) or {}
    key_value = fields.get(key) if key else None
    timestamp_ms = int(clock.time() * 1_000)
    if time and time in fields:
        try:
            timestamp_ms = time_ms(fields[time])
        except ValueError as error:
            raise SettingsError(
                f"field `{time}` of a line is no time: {error}", hint="leave --time out"
            ) from None
    return Content(None if key_value is None else str(key_value).encode(), line, (), timestamp_ms)


def _lines(file: Path) -> Iterator[bytes]:
    if str(file) == "-":
        return (stripped for line in sys.stdin.buffer if (stripped := line.strip()))
    return (line for _, line in lines_of(file))
