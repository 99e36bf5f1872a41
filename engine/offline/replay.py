"""Recorded logs, from a broker or from files, and the fold of an examples log by the real learner.

Lives here: the form of a recording, reading it from an offset, folding up to a place or up to a state of one
model.  Never here: what the records say about versions (`history.py`), arguments and tables.

A recording is a folder with a file per topic, each as `headrace tail TOPIC --headers --claims` prints it:

    examples.jsonl     {"partition": 0, "offset": 7, "timestamp": 17.., "key": "JFK", "value": {..},
    decisions.jsonl     "headers": {"headrace-kind": "example"}}
    models.jsonl       .. or .jsonl.gz; a line that is a bare message is taken as the record of its number
    predictions.jsonl

A place in the examples log is a *position*, the next offset to fold.  A state of a model is a version and
the labels that it has learned, `VERSION@UPDATES`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Protocol

import msgspec
import orjson
from msgspec import UNSET, UnsetType

from engine.definition.pipeline import Pipeline
from engine.kafka.log_reader import log_bounds, read_log, slices_of_log
from engine.machines.field_records import FieldSource
from engine.machines.learner import Learner
from engine.offline.json_lines import lines_of
from engine.settings import KafkaSettings
from engine.worker.assembly import build_learner
from operators.models.scoring import Racer
from operators.race.field import RaceField
from topics import headers
from topics.catalog import Role
from topics.errors import ModelError, SettingsError
from topics.messages import Decision, Record

__all__ = [
    "FileLog",
    "KafkaLog",
    "ReadableLog",
    "Replay",
    "recorded_line",
    "recorded_logs",
    "topic_logs",
]

SLICE_RECORDS = 64
"""Records folded at once: between two slices others get their turn, as in a worker."""
BATCH_LINES = 1_000
"""Lines of a file that are read at once."""


class ReadableLog(Protocol):
    """One partition of a log that can be read more than once."""

    def read(self, start: int | None = None) -> AsyncGenerator[list[Record]]:
        """Yield the records from `start` (None: the oldest there is) to the end, in batches."""


class _Line(msgspec.Struct):
    """One record as a line of a recording."""

    value: msgspec.Raw | UnsetType = UNSET
    partition: int = 0
    offset: int = -1
    timestamp: int | None = None
    key: str | None = None
    headers: dict[str, str] = {}


_line: Callable[[bytes], _Line] = msgspec.json.Decoder(_Line).decode


def recorded_line(record: Record) -> bytes:
    """Return a record as a line of a recording.

    >>> recorded_line(Record("flights.examples", 0, 7, 9, b"JFK", b'{"a":1}', headers.EXAMPLE)).decode()[:63]
    '{"partition":0,"offset":7,"timestamp":9,"key":"JFK","value":{"a'
    """
    return orjson.dumps(
        {
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp_ms,
            "key": None if record.key is None else record.key.decode(errors="replace"),
            "value": None if record.value is None else orjson.Fragment(record.value),
            "headers": {name: value.decode(errors="replace") for name, value in record.headers},
        }
    )


class FileLog:
    """One partition of a log in a file of a recording."""

    def __init__(self, path: Path, topic: str, partition: int = 0, *, role: Role = "examples") -> None:
        self._path, self._topic, self._partition = path, topic, partition
        self._kind = headers.EXAMPLE if role == "examples" else ()

    async def read(self, start: int | None = None) -> AsyncGenerator[list[Record]]:
        """Yield the records from `start` on.  Raises SettingsError naming a line that is no record."""
        batch: list[Record] = []
        for number, line in lines_of(self._path):
            record = self._record(number, line)
            if record.partition == self._partition and record.offset >= (start or 0):
                batch.append(record)
            if len(batch) == BATCH_LINES:
                yield batch
                batch = []
        if batch:
            yield batch

    def _record(self, number: int, line: bytes) -> Record:
        try:
            read = _line(line)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise SettingsError(
                f"{self._path}, line {number + 1} is no record: {error}",
                hint=f"headrace tail {self._topic} --from-beginning --to-end --headers --claims records it",
            ) from None
        if read.value is UNSET:
            return Record(self._topic, 0, number, None, None, line, self._kind)
        if self._kind and not read.headers:
            raise SettingsError(
                f"{self._path}, line {number + 1} has no headers, which say what the record is",
                hint=f"headrace tail {self._topic} --from-beginning --to-end --headers --claims records it",
            )
        value = bytes(read.value)
        return Record(
            self._topic,
            read.partition,
            read.offset,
            read.timestamp,
            None if read.key is None else read.key.encode(),
            None if value == b"null" else value,
            tuple((name, text.encode()) for name, text in read.headers.items()),
        )


class KafkaLog:
    """One partition of a topic, up to where it ends when it is first read."""

    def __init__(self, kafka: KafkaSettings, topic: str, partition: int = 0) -> None:
        self._kafka, self._topic, self._partition = kafka, topic, partition
        self._end: int | None = None

    async def read(self, start: int | None = None) -> AsyncGenerator[list[Record]]:
        """Yield the records from `start` on.  Raises BrokerError, also where the log begins behind it."""
        first, end = (await log_bounds(self._kafka, self._topic))[self._partition]
        self._end = end if self._end is None else self._end
        start = first if start is None else start
        if start < self._end:
            async with aclosing(
                read_log(self._kafka, self._topic, self._partition, start, self._end)
            ) as batches:
                async for records in batches:
                    yield records


def file_of(folder: Path, role: Role) -> Path | None:
    """Return the file of a topic in a recording, or None where it has none."""
    return next((path for end in ("", ".gz") if (path := folder / f"{role}.jsonl{end}").is_file()), None)


def recorded_logs(pipeline: Pipeline, role: Role, folder: Path) -> list[ReadableLog]:
    """Return the logs of a topic in a recording, one a partition; none where it has no file of the topic.

    Raises SettingsError where there is no such folder.
    """
    if not folder.is_dir():
        raise SettingsError(
            f"there is no recording {folder}",
            hint="headrace backtest PIPELINE.py --record FOLDER ... makes one; so does, for each topic, "
            "headrace tail TOPIC --from-beginning --to-end --headers --claims",
        )
    path = file_of(folder, role)
    if path is None:
        return []
    split = role == "predictions" or (pipeline.per is not None and role in {"examples", "decisions"})
    topic, partitions = pipeline.catalog[role], pipeline.events.partitions if split else 1
    return [FileLog(path, topic, partition, role=role) for partition in range(partitions)]


async def topic_logs(pipeline: Pipeline, role: Role, kafka: KafkaSettings) -> list[ReadableLog]:
    """Return the logs of a topic at a broker, one a partition.  Raises BrokerError where there is none."""
    topic = pipeline.catalog[role]
    return [KafkaLog(kafka, topic, partition) for partition in sorted(await log_bounds(kafka, topic))]


class Replay:
    """A learner and the examples log that it folds, from one place to the next.

    `decisions` are all that were decided so far.  `source` finds models and fields that the log names and
    the file does not have.  `on_folded` is told now and then how many records more have been folded.
    `partition`, `key` and `begins` are for a log of one race among many: where it lies, whose it is, and with
    which field it begins.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        log: ReadableLog,
        on_folded: Callable[[int], object] | None = None,
        source: FieldSource | None = None,
        *,
        partition: int = 0,
        key: str = "",
        begins: RaceField | None = None,
    ) -> None:
        self.learner: Learner = build_learner(
            pipeline, source=source, partition=partition, key=key, begins=begins
        )
        if begins is not None:
            self.learner.fields.count()  # it is known, and no record of the log says it
        self.task = pipeline.task
        self.decisions: list[Decision] = []
        self._log = log
        self._on_folded = on_folded

    async def to(self, position: int | None) -> None:
        """Fold all before `position` (None: the whole log).

        Raises ModelError where the log ends before it, or holds no example that counts.
        """
        await self._fold(position, lambda: SLICE_RECORDS)
        if position is not None and self.learner.reading < position:
            raise ModelError(
                f"the examples log ends at {self.learner.reading}, before {position}",
                hint="give the whole log, from its first record on",
            )
        if position is None and self.learner.reading and not self.learner.examples:
            raise ModelError(
                f"{self.learner.reading:,} records of the examples log hold no example that counts",
                hint="claim records say which do: record with `headrace tail TOPIC --headers --claims`",
            )

    async def to_state(self, version: int, updates: int) -> Racer:
        """Fold until a version has learned `updates` labels, and return it.

        Raises ModelError where it never stands there.
        """

        def missing() -> int:
            racer, learner = self.racer(version), self.learner
            if racer is None or (learner.fields.first and not learner.examples):
                # Record by record: who starts in the middle of a slice would run ahead in it, and so would
                # who begins, by the first record of the log, with what was learned elsewhere.
                return 1
            return min(SLICE_RECORDS, max(0, updates - racer.updates))

        await self._fold(None, missing)
        racer = self.racer(version)
        if racer is None or racer.updates != updates:
            stands = "never raced" if racer is None else f"stands at {racer.updates:,} lessons"
            raise ModelError(
                f"no {version}@{updates} in the examples log up to {self.learner.reading}: it {stands}",
                hint=f"`headrace models show PIPELINE.py {version}` lists the states that are recorded",
            )
        return racer

    def racer(self, version: int) -> Racer | None:
        """Return the racer of a version, if it races (or is quarantined) now."""
        return next((one for one in self.learner.roster.racers.values() if one.version == version), None)

    async def _fold(self, until: int | None, size_of: Callable[[], int]) -> None:
        """Fold slices, as long as each time asked, until `until`, a slice of 0, or the log's end.

        What a pause holds back is folded behind its end, which may lie behind `until`.
        """
        learner, read = self.learner, -1
        while read < learner.reading:
            read = learner.reading
            await self._fold_slices(until, size_of)
            if until is None or not learner.paused or learner.position >= until:
                return

    async def _fold_slices(self, until: int | None, size_of: Callable[[], int]) -> None:
        """Fold slices up to `until`, or where a pause has begun before it."""
        learner = self.learner

        def size() -> int:
            return 0 if until is not None and learner.position >= until else size_of()

        async with aclosing(slices_of_log(learner, self._log.read, size)) as parts:
            async for part in parts:
                paused = learner.paused
                kept = [one for one in part if until is None or paused or one.offset < until]
                self.decisions += learner.fold(kept)
                if not learner.reading:
                    self.decisions.clear()  # the log began with another field: all is folded again
                if self._on_folded is not None:
                    self._on_folded(len(part))
                went_back = bool(kept) and learner.reading <= kept[-1].offset
                if until is not None and part[-1].offset >= until and not went_back and not paused:
                    return
