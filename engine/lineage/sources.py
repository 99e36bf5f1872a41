"""What is asked of a pipeline's logs, at a broker or in a recording: decisions, pointers, one prediction.

Lives here: which log answers which question, and what a recording without decisions is folded for.  Never
here: reading (`replay.py`), what the answers mean (`history.py`, `explanation.py`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec
import orjson
from aiokafka import TopicPartition

from engine.definition.pipeline import Pipeline
from engine.kafka.log_reader import records_at
from engine.kafka.sink import partition_of
from engine.lineage.history import History, history_of, measured_now
from engine.offline.keyed.one_race import RaceLog
from engine.offline.replay import ReadableLog, Replay, recorded_logs, topic_logs
from engine.settings import Settings
from engine.stores.places import artefact_store
from engine.worker.assembly import known_keys
from engine.worker.model_factory import ModelFactory
from operators.race.field import RaceField
from topics import headers
from topics.catalog import Role
from topics.codec import decode_decision, decode_example, decode_field, decode_pointer, decode_prediction
from topics.errors import SettingsError
from topics.messages import REPORTED, Decision, Example, Prediction, Record

__all__ = ["Found", "PipelineLogs"]

ENTERED = "candidate.entered"
Message = TypeVar("Message", bound=msgspec.Struct)


class Found(NamedTuple, Generic[Message]):
    """A message and its record."""

    message: Message
    record: Record


class PipelineLogs:
    """The logs of one pipeline: of a recording, or of a broker where `folder` is None.

    `on_read` is told now and then how many records more have been looked at.  `key` is the one whose race is
    asked about, where each key has its own; `partition` is where it lies, None: where keys of its name do.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        folder: Path | None = None,
        on_read: Callable[[int], object] | None = None,
        *,
        key: str = "",
        partition: int | None = None,
    ) -> None:
        self.pipeline, self._key, self._partition = pipeline, key, partition
        self._settings, self._kafka = settings, settings.kafka
        self._folder, self._on_read = folder, on_read
        stored = artefact_store(settings, pipeline.name)
        self._source = ModelFactory(pipeline, keys=known_keys(settings), stored=stored)

    async def logs(self, role: Role) -> list[ReadableLog]:
        """Return the logs of a topic, one a partition; none where a recording has no file of it."""
        if self._folder is not None:
            logs = recorded_logs(self.pipeline, role, self._folder)
        else:
            logs = await topic_logs(self.pipeline, role, self._kafka)
        if self._key and logs and role in {"examples", "decisions"}:
            return [logs[self._place(len(logs))]]
        return logs

    def _place(self, partitions: int) -> int:
        """Return the partition of the key that is asked about."""
        return partition_of(self._key.encode(), partitions) if self._partition is None else self._partition

    def race_of(self, answer: Found[Prediction]) -> PipelineLogs:
        """Return the logs as asked about the race in which a prediction was made."""
        if self.pipeline.per is None:
            return self
        record = answer.record
        key = (record.key or b"").decode(errors="replace")
        return PipelineLogs(
            self.pipeline, self._settings, self._folder, self._on_read, key=key, partition=record.partition
        )

    async def examples(self) -> ReadableLog:
        """Return the examples log.  Raises SettingsError where a recording has none."""
        logs = await self.logs("examples")
        if not logs:
            raise SettingsError(
                f"{self._folder} holds no examples.jsonl", hint="record the examples topic as well"
            )
        return logs[0]

    async def replay(self, log: ReadableLog | None = None) -> Replay:
        """Return a fresh learner before the examples log, or before what is made of it.

        Where each key has a race of its own, that of the race that is asked about.
        """
        log = log or await self.examples()
        if not self._key:
            return Replay(self.pipeline, log, self._on_read, self._source)
        return Replay(
            replace(self.pipeline, per=None),
            RaceLog(log, self._key),
            self._on_read,
            self._source,
            partition=self._place(self.pipeline.events.partitions),
            key=self._key,
            begins=await self._first_field() or self.pipeline.field,
        )

    async def decisions(self) -> list[Decision]:
        """Return what was decided in this race, each decision once, in the order in which it was written."""
        found: dict[str, Decision] = {}
        async for record in self._records("decisions"):
            if record.value and (one := decode_decision(record.value)).key == self._key:
                found.setdefault(one.decision_id, one)
        return list(found.values())

    async def history(self, *, fold: bool = False) -> History:
        """Return the history of the versions.

        `fold`: with what each has learned and scored at the end of the examples log.  A recording without
        decisions is folded for them.
        """
        decisions = await self.decisions()
        undecided = self._folder is not None and not await self.logs("decisions")
        replay = await self.replay() if fold or undecided else None
        if replay is not None:
            await replay.to(None)
            decisions = replay.decisions if undecided else decisions
        decisions = [one for one in decisions if one.type not in REPORTED]
        pointed = [record async for record in self._records("models")]
        pointers = [decode_pointer(record.value) for record in pointed if record.value]
        pointers = [one for one in pointers if one.key == self._key]
        history = history_of(
            self.pipeline,
            decisions,
            pointers,
            field=await self._first_field(),
            definitions=await self._definitions(decisions),
        )
        if replay is not None:
            measured_now(history, replay.learner)
        return history

    async def _first_field(self) -> RaceField | None:
        """Return the field with which the race begins, as the examples log says; None where no record does.

        Raises ModelError where it is another than the file's and its artefact is not there.
        """
        own, begins = self.pipeline.field.field_id, ""
        async with aclosing(self._records("examples")) as records:
            async for record in records:
                kind = headers.record_type_of(record.headers)
                if kind == "field":
                    begins = decode_field(record.value or b"").field_id
                    if not self._key:
                        break
                if kind in {"example", "quarantine"} and (not self._key or record.key == self._key.encode()):
                    break
        return None if begins in {"", own} else self._source.field(begins)

    async def _definitions(self, decisions: Iterable[Decision]) -> dict[tuple[str, int], str]:
        """Return the texts of models that entered by records of the field, by name and offset."""
        texts: dict[tuple[str, int], str] = {}
        for offset in sorted({one.offset for one in decisions if one.type == ENTERED}):
            for log in await self.logs("examples"):
                async with aclosing(log.read(offset)) as batches:
                    record = next(iter(await anext(batches, [])), None)
                if record is None or record.offset != offset:
                    raise SettingsError(
                        f"the field record at offset {offset} of {self.pipeline.catalog['examples']} is gone",
                        hint="read a recording that holds it: --recording FOLDER; keep examples for ever "
                        "(retention.ms=-1)",
                    )
                for one in decode_field(record.value or b"").entering:
                    texts[one.name, offset] = one.definition
        return texts

    async def prediction(self, asked: str) -> Found[Prediction]:
        """Return a prediction by its id, or by its event's id.

        Of several records of one id the first under the highest claim is the answer.  Raises SettingsError
        where there is none.
        """
        event_id = asked.removeprefix(f"{self.pipeline.name}:")
        found: Found[Prediction] | None = None
        async for record in self._naming("predictions", event_id):
            if headers.record_type_of(record.headers) == "claim":
                continue
            answer = decode_prediction(record.value or b"")
            if answer.event_id == event_id and (found is None or answer.claim > found.message.claim):
                found = Found(answer, record)
        if found is None:
            raise SettingsError(
                f"there is no prediction `{asked}` in {self._folder or self.pipeline.catalog['predictions']}",
                hint="give a prediction_id or an event_id as they stand on the predictions topic; retention "
                "may have removed it",
            )
        return found

    async def example(self, answer: Prediction) -> Found[Example] | None:
        """Return the example that was made of a prediction, or None where no label has come."""
        found: Found[Example] | None = None
        async for record in self._naming("examples", answer.event_id):
            if headers.record_type_of(record.headers) != "example":
                continue
            example = decode_example(record.value or b"")
            same = (example.event_id, example.event_offset) == (answer.event_id, answer.event_offset)
            if same and example.measured and (found is None or example.claim > found.message.claim):
                found = Found(example, record)
        return found

    async def event(self, answer: Found[Prediction]) -> Record | None:
        """Return the event that a prediction answers; None in a recording, and where retention took it."""
        if self._folder is not None:
            return None
        place = TopicPartition(self.pipeline.events.name, answer.record.partition)
        at = {place: answer.message.event_offset}
        return (await records_at(self._kafka, at))[place][2]

    async def _naming(self, role: Role, event_id: str) -> AsyncGenerator[Record]:
        """Yield the records whose bytes hold an event's id: most are passed over without decoding."""
        wanted = orjson.dumps(event_id)
        async for record in self._records(role):
            if record.value is not None and wanted in record.value:
                yield record

    async def _records(self, role: Role) -> AsyncGenerator[Record]:
        for log in await self.logs(role):
            async with aclosing(log.read()) as batches:
                async for records in batches:
                    if self._on_read is not None:
                        self._on_read(len(records))
                    for record in records:
                        yield record
