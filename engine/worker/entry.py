"""Candidates on their way into a race that runs: when the file's field is written, who learns the log first.

Lives here: the field record that is due, what is stored for it, the second reading of the log.  Never here:
what a record does to the race (`learner.py`, `field_records.py`), where it is written (`loop.py`).

Only the leader writes, and a file's field is written once: a process whose own field has been in place and
was replaced never writes it again, so workers with an old and a new file, side by side in a rolling restart,
do not take turns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import structlog

from engine.kafka.log_reader import read_log
from engine.machines.beside.warm_up import WarmUp
from engine.machines.field_records import change_of, entrant_of
from engine.machines.keyed.keyed_learner import KeyedLearner
from engine.machines.learner import Learner
from engine.settings import KafkaSettings
from engine.stores.artefacts import Artefacts
from engine.worker.model_factory import ModelFactory
from operators.race.arena import Objection
from operators.race.field import RaceField
from topics import headers
from topics.codec import encode
from topics.errors import DefinitionError, ModelError, StoreUnavailableError
from topics.messages import Entrant, FieldChange, Outgoing

__all__ = ["Entries"]

LOOK_S = 0.2
"""How often it is looked whether candidates wait."""
TOLD_EVERY_S = 10.0
"""Between two lines about how far a candidate has come."""
NEAR_RECORDS = 64
"""A candidate enters when it is this near to where the race has learned: a slice of it."""
log = structlog.get_logger("headrace")


class Entries:
    """The way of candidates into the race of this process, as far as it leads.

    `own` is the field of this process' file, `learner` returns the learner of the moment, of one `partition`.
    """

    def __init__(
        self,
        pipeline: str,
        own: RaceField,
        factory: ModelFactory,
        artefacts: Artefacts,
        learner: Callable[[], Learner | KeyedLearner],
        partition: int = 0,
    ) -> None:
        self._pipeline, self._partition = pipeline, partition
        self._own, self._own_id = own, own.field_id
        self._factory, self._artefacts = factory, artefacts
        self._learner = learner
        self._proposes = True
        """Whether our file's field has not been in place yet."""
        self.ready: asyncio.Queue[Outgoing] = asyncio.Queue()
        """Records that let candidates in which have learned the log, or refuse them, yet to be written."""
        self.progress: dict[str, float] = {}
        """Share of the log that a waiting candidate has read, by name."""

    def look(self, field_id: str) -> None:
        """Take note of the field that is in place, at the end of the log: it may be our file's."""
        if field_id == self._own_id:
            self._proposes = False

    # -- the file's field ---------------------------------------------------------------------------

    def due(self) -> Outgoing | None:
        """Return the field record that the leader must write now, None for none.

        What it names is stored.  Raises DefinitionError where the file's field cannot follow the present one.
        """
        learner = self._learner()
        self.look(learner.fields.field_id)
        if learner.fields.first:
            return self._record(self._first(learner))
        if not self._proposes or learner.fields.field_id == self._own_id:
            return None
        return self._record(self._change(learner))

    def check_taken(self) -> None:
        """Raise DefinitionError where a record that was written has been refused after all."""
        learner = self._learner()
        if self._proposes and not learner.paused and learner.fields.field_id != self._own_id:
            raise self._refused(
                Objection("the champion changed while it was written", "start again: it is read anew")
            )

    def _first(self, learner: Learner | KeyedLearner) -> FieldChange:
        """Return the record that says with which field the log begins."""
        field = learner.field
        self._store_field(field)
        return FieldChange(
            learner.fields.field_id,
            _now_ms(),
            entering=tuple(
                entrant_of(field, name, brought)
                for name, brought in self._factory.brought(field, field.candidates)
            ),
        )

    def _change(self, learner: Learner | KeyedLearner) -> FieldChange:
        """Return the record of the change from the learner's field to our file's."""
        field = self._own
        entering = learner.fields.entering(field)
        brought = dict(self._factory.brought(field, entering))
        waiting = tuple(name for name in entering if field.candidates[name].warms and learner.examples)
        named = tuple(entrant_of(field, name, one) for name, one in brought.items())
        draft = FieldChange(self._own_id, _now_ms(), entering=named, waiting=waiting)
        step = learner.planned(draft)
        assert step is not None
        if refused := learner.refusal_of(step):
            raise self._refused(refused)
        self._store_field(field)
        return change_of(step, draft.time, brought)

    def _refused(self, refusal: Objection) -> DefinitionError:
        return DefinitionError(f"the race cannot go on with this file: {refusal.why}", hint=refusal.fix)

    def _store_field(self, field: RaceField) -> None:
        self._artefacts.put(field.field_id, self._factory.packed(field))

    def _stored(self, field: RaceField, model: Any) -> str:
        """Store a model's state; return its digest."""
        name, data = self._factory.stored(field, model)
        self._artefacts.put(name, data)
        return name

    def _record(self, change: FieldChange) -> Outgoing:
        key = change.field_id.encode()
        return Outgoing("examples", self._partition, key, encode(change), headers.FIELD, change.time)

    # -- who learns the log first -------------------------------------------------------------------

    async def warm(
        self,
        kafka: KafkaSettings,
        topic: str,
        leads: Callable[[], bool],
        near: Callable[[int], Awaitable[object]],
    ) -> None:
        """Teach the log to candidates that wait, while this process leads, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            learner = self._learner()
            waiting = learner.fields.waiting
            if waiting and leads() and self.ready.empty() and not learner.paused:
                try:
                    await self._warm_up(kafka, topic, learner, waiting, leads, near)
                except StoreUnavailableError as error:
                    log.warning("candidates must learn the log again", reason=error.message)

    async def _warm_up(
        self,
        kafka: KafkaSettings,
        topic: str,
        learner: Learner | KeyedLearner,
        names: Sequence[str],
        leads: Callable[[], bool],
        near: Callable[[int], Awaitable[object]],
    ) -> None:
        """Read the log from its start; when near to the race, store the models and ask for their entry."""
        field, field_id, now_ms = learner.field, learner.fields.field_id, learner.time
        spans = {name: field.candidates[name].warm_span_ms for name in names}
        since = {name: now_ms - span if span is not None else -1 for name, span in spans.items()}
        warm = WarmUp({name: self._factory.fresh(field, name) for name in names}, since)
        log.info("candidates learn the log", candidates=names, records=learner.reading)
        told_s = time.monotonic()
        async with aclosing(read_log(kafka, topic, 0, 0, None)) as batches:
            async for records in batches:
                for first in range(0, len(records), NEAR_RECORDS):
                    started_s = time.monotonic()
                    warm.fold(records[first : first + NEAR_RECORDS])
                    # Answers and lessons have at least as much of the time.
                    await asyncio.sleep(time.monotonic() - started_s)
                    await near(NEAR_RECORDS)
                    if not (leads() and self._learner() is learner and learner.fields.field_id == field_id):
                        self.progress.clear()
                        return
                    if warm.failed:
                        self._ask(FieldChange(field_id, _now_ms(), field_id, refused=warm.take_failed()))
                    if warm.models.keys().isdisjoint(learner.fields.waiting):
                        self.progress.clear()  # they have failed, or what was asked last has come about
                        return
                    share = min(warm.reading / max(learner.reading, 1), 1.0)
                    self.progress = dict.fromkeys(warm.models, share)
                    if time.monotonic() - told_s > TOLD_EVERY_S:
                        told_s = time.monotonic()
                        log.info("candidates learn the log", candidates=names, share=round(share, 3))
                    if learner.reading - warm.reading <= NEAR_RECORDS:
                        self._enter(field, field_id, warm)
                        return

    def _enter(self, field: RaceField, field_id: str, warm: WarmUp) -> None:
        """Store what has learned the log and ask for its entry; one that cannot be stored is refused."""
        self.progress.clear()
        entrants: list[Entrant] = []
        refused: dict[str, str] = {}
        for name, model in warm.models.items():
            try:
                brought = warm.brought(name, self._stored(field, model))
            except ModelError as error:
                refused[name] = str(error)
                continue
            entrants.append(entrant_of(field, name, brought))
            log.info("a candidate has learned the log", model=name, **brought._asdict())
        self._ask(FieldChange(field_id, _now_ms(), field_id, tuple(entrants), refused=refused))

    def _ask(self, change: FieldChange) -> None:
        self.ready.put_nowait(self._record(change))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
