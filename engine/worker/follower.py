"""The learner of this process, fed from the examples log.

Lives here: reading the log in time slices, catching up before serving, what the leader writes.
Never here: what a record does to a model (`learner.py`).

Every process folds the whole log, so every process has the same models.  One of them, the
owner of event partition 0, leads: it alone writes decisions, model pointers and checkpoints.
Where the pipeline says `follow`, only the leader folds, and the others serve its snapshots
(`snapshots.py`): there the learner of a process that does not lead stands still.

What is learned is what came back from the log, but for one case: labels inside events, where one
process owns everything.  There the scorers learn row by row (`prequential.py`), at the next offset of
the log, and nobody reads it back.  A record of somebody else in between shows at the next checkpoint
and ends the owner, so what a checkpoint holds is always a fold of the log.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from typing import Any, NamedTuple

import structlog
from msgspec import json
from msgspec.structs import replace

from engine.definition.pipeline import Pipeline, check_definition
from engine.kafka.client import LogPartition
from engine.kafka.log_reader import log_bounds, read_log, slices_of_log
from engine.kafka.sink import Sink, Written
from engine.machines.deadline_scorer import DeadlineScorer
from engine.machines.learner import Learner
from engine.machines.scorer import Scorer
from engine.machines.snapshots import SnapshotHead
from engine.metrics import Metrics, SnapshotStatus, Status
from engine.monitor_view import MonitorFigures
from engine.race_view import RaceView
from engine.settings import Settings
from engine.stores.checkpoints import Checkpoint
from engine.stores.places import artefact_store, checkpoint_store
from engine.worker.assembly import build_learner, pointer_of, signing_keys
from engine.worker.budgets import Budgets, Latencies
from engine.worker.entry import Entries
from engine.worker.header import (
    Header,
    LearnerMeta,
    check_header,
    decode_learner_meta,
    header_of,
    tell_header,
)
from engine.worker.model_factory import ModelFactory
from engine.worker.snapshots import Snapshots
from operators.models.scoring import Roster
from operators.models.signing import resigned
from operators.race.learning import is_succession
from operators.state import StateDelta
from operators.stopwatch import Stopwatch
from topics import headers
from topics.alert_records import alert_records
from topics.codec import command_id, encode
from topics.errors import ClaimError
from topics.messages import Decision, Headers, ModelPointer, Outgoing, Record, Slow

__all__ = ["Follower", "LearnerDelta"]

SLICE_RECORDS = 64
"""Examples folded before predictions get their turn: a few milliseconds of a tree."""
PARTITION = 0
"""One global model: one examples partition."""
log = structlog.get_logger("headrace")


class LearnerDelta(NamedTuple):
    """The captured changes of the learner for a checkpoint, as of one moment."""

    sent_to: int | None
    """Offset after the last record folded before it was sent; None where the log is read back."""
    delta: StateDelta | None
    """None where this process does not lead."""


class Follower:
    """Keeps the models of this process a fold of the examples log."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        metrics: Metrics,
        sink: Sink,
        *,
        accept_features: bool = False,
    ) -> None:
        self.models = asyncio.Lock()
        """Held while models score a run or learn a slice."""
        self.leading = False
        self._pipeline = pipeline
        self._settings = settings
        self._metrics = metrics
        self.race = RaceView(metrics)
        self._sink = sink
        self._store = checkpoint_store(settings, pipeline.name, "learner", PARTITION)
        self._topic = pipeline.catalog["examples"]
        self._keys = signing_keys(settings)
        self._definition = pipeline.learner_definition()
        self._accept_features = accept_features
        self.stopwatch = Stopwatch(time.perf_counter)
        """Of everything in this process that answers and learns."""
        self._artefacts = artefact_store(settings, pipeline.name)
        self._factory = ModelFactory(pipeline, keys=self._keys, stored=self._artefacts)
        """Kept: a restore builds the learner anew, and to try every model takes half a second each."""
        self.learner: Learner = self._fresh_learner()
        self.entry = Entries(
            pipeline.name, pipeline.field, self._factory, self._artefacts, lambda: self.learner
        )
        """The way of candidates into the race."""
        self.partitions = pipeline.events.partitions
        """Of the events topic; the worker says how many there are once it knows."""
        self._claim = 0
        self._restored = False
        self._resigns = False
        """Whether the next checkpoint writes everything, since a key that signs no more had signed some."""
        self._following = asyncio.Event()
        self._moved = asyncio.Event()
        self._budgets: Budgets | None = None
        """The times of candidates that have a budget; None where none has."""
        self._latencies: Latencies | None = None
        """The scoring times of a challenger that a canary guards; None where none is on its way up."""
        self._measured = 0
        """Examples learned when they were measured last."""
        self._decisions: list[tuple[Decision, Headers]] = []
        """What was decided and is not written yet, with the trace context of what led to it."""
        self._pointer_due = False
        """Whether the models topic may name another champion than ours, or none."""
        self._row_by_row: list[Scorer] = []
        """The scorers whose records are folded before they are sent; empty where the log is followed."""
        self._end = 0
        """Where the log ended when it was read last."""
        self.snapshots: Snapshots | None = None
        """How models come from the leader to the others; None where every process folds the log."""
        if pipeline.follow_ms is not None:
            self.snapshots = Snapshots(
                pipeline.name,
                pipeline.follow_ms,
                self._keys,
                pipeline.field,
                self._factory,
                checkpoint_store(settings, pipeline.name, "snapshot", PARTITION),
                models=self.models,
                learner=lambda: self.learner,
                leads=lambda: self.leading,
                publishes=lambda: self.leading and self._following.is_set(),
                served=lambda head: self.entry.look(head.field_id),
            )

    # -- taking and leaving the lead --------------------------------------------------------------

    @property
    def header(self) -> Header:
        """Return the header of checkpoints that are written here."""
        return header_of(self._pipeline, self.partitions)

    async def lead(self, numbers: Collection[int], go_on: Callable[[], object] = lambda: None) -> None:
        """Where this process owns events partition 0, it leads: fence the learner's checkpoints, start there.

        A leader decides again what was decided since that checkpoint: the last leader may have died
        before it wrote it down.  `learner` may be another one after this.  `go_on` raises where none shall
        be restored.
        """
        go_on()
        leads = PARTITION in numbers
        if self.snapshots is not None:
            self._following.clear()  # nothing is published before this one has caught up
            if self.leading and not leads:
                self.snapshots.release()
        self.leading = leads
        if not leads:
            return
        self._claim = await self._store.fence()
        if self.snapshots is not None:
            await self.snapshots.lead()
        self._decisions.clear()
        self._restore(await self._store.load())
        self._pointer_due = True

    @property
    def _folds(self) -> bool:
        """Whether this process learns; else it serves what the leader has learned."""
        return self.leading or self.snapshots is None

    async def catch_up(self, go_on: Callable[[], object] = lambda: None) -> None:
        """Fold the log up to its end; where the leader does it for all, take its newest models.

        `go_on` is called before every slice, and raises where there shall be no further one.

        Where it has published none yet, those of its last checkpoint serve, and without one fresh models.
        """
        if not self._restored:
            self._restore(await self._store.load())
        if self.snapshots is not None and not self._folds:
            if self.learner.reading:
                self.entry.look(self.learner.fields.field_id)
            await self.snapshots.look()
            return
        _, end = (await log_bounds(self._settings.kafka, self._topic))[PARTITION]
        while self.learner.reading < end:
            await self._fold(end, go_on)
        self.entry.look(self.learner.fields.field_id)

    def _restore(self, checkpoint: Checkpoint | None) -> None:
        """Replace the learner by the one a checkpoint holds; without one, by a new one."""
        if checkpoint is not None:
            meta, place = decode_learner_meta(checkpoint.meta), self._store.place
            check_header(meta.header, self.header, place)
            tell_header(meta.header, self.header, place)
            check_definition(meta.definition, self._definition, place, accept_features=self._accept_features)
        if checkpoint is not None or self.learner.reading or self.snapshots is not None:
            self.learner = self._fresh_learner(self.learner.roster)
        if checkpoint is not None:
            self.learner.restore(checkpoint.entries)
            entries = checkpoint.entries.values()
            self._resigns = any(resigned(data, self._keys) is not data for data in entries)
            if checkpoint.damage:
                self.learner.counts["checkpoints_damaged", "learner"] += 1
        self._restored = True
        if self.snapshots is not None:
            self.snapshots.release()

    def _fresh_learner(self, roster: Roster | None = None) -> Learner:
        """Return a new learner; scorers go on reading the roster that they have."""
        return build_learner(self._pipeline, stopwatch=self.stopwatch, source=self._factory, roster=roster)

    def release(self) -> None:
        """Stop leading: partitions have moved."""
        if self.leading and self.snapshots is not None:
            self.snapshots.release()
        self.leading = False
        self.read_back()

    def learn_row_by_row(self, scorers: Sequence[Scorer]) -> None:
        """Make the scorers of all partitions, whose events carry their labels, learn before they send.

        During a pause they do not: the log is followed.
        """
        if not self.leading or self.learner.paused:
            self.read_back()
            return
        self._following.clear()
        self._row_by_row = list(scorers)
        for scorer in scorers:
            scorer.learn_with(self.learner, self._decided)

    def read_back(self) -> None:
        """Learn what is read back from the log, from where the learner stands."""
        for scorer in self._row_by_row:
            scorer.learn_with(None, self._decided)
        self._row_by_row = []
        if self._folds:
            self._following.set()
        else:
            self._following.clear()

    # -- who answers, and who enters --------------------------------------------------------------

    def scorer(self, number: int, **named: Any) -> Scorer:
        """Return a new scorer of an events partition."""
        deadline, roster = self._pipeline.deadline, self.learner.roster
        named |= {"partition": number, "roster": roster, "stopwatch": self.stopwatch}
        if deadline is None:
            return Scorer(self._pipeline, **named)
        return DeadlineScorer(deadline, self._pipeline, **named)

    def examples_of(self, _number: int) -> tuple[int, ...]:
        """Return the examples partitions to which the owner of an events partition writes."""
        return (PARTITION,)

    def command_places(self, value: bytes) -> list[tuple[int | None, bytes]]:
        """Return the partitions of the examples log for the bytes of a command, each with a record's key."""
        return [(PARTITION, command_id(value).encode())]

    def fields_due(self) -> list[Outgoing]:
        """Return the field record that the leader must write now, if any."""
        record = self.entry.due()
        return [] if record is None else [record]

    def check_fields_taken(self) -> None:
        """Raise DefinitionError where a record that was written has been refused after all."""
        self.entry.check_taken()

    def take_entry(self) -> Outgoing | None:
        """Return the next record that lets candidates in which have learned the log, or refuses them."""
        return None if self.entry.ready.empty() else self.entry.ready.get_nowait()

    @property
    def overfull(self) -> bool:
        """Return False: one race is always in memory."""
        return False

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """Return the learner's counts by (metric, label), to be exported and cleared."""
        return self.learner.counts

    @property
    def racers(self) -> AbstractSet[str]:
        """Return the names of all racers."""
        return self.learner.roster.racers.keys()

    # -- the log ----------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Fold the log as it grows, until cancelled."""
        while True:
            await self._following.wait()
            await self._fold(None)

    async def _fold(self, until: int | None, go_on: Callable[[], object] = lambda: None) -> None:
        """Fold the log up to `until`; None: as long as it is followed, by this learner."""
        learner = self.learner

        def size() -> int:
            following = until is not None or self._following.is_set()
            return SLICE_RECORDS if following and self.learner is learner else 0

        def read(start: int) -> AsyncGenerator[list[Record]]:
            return read_log(
                self._settings.kafka, self._topic, PARTITION, start, until, end_seen=self._see_end
            )

        async with aclosing(slices_of_log(learner, read, size)) as parts:
            async for part in parts:
                go_on()
                async with self.models:
                    if not size():
                        return
                    if decisions := learner.fold(part):
                        self._decided_at(part, decisions)
                self._moved.set()
                await asyncio.sleep(0)

    def _see_end(self, end: int) -> None:
        self._end = max(self._end, end)

    async def share(self) -> None:
        """Publish the models or serve published ones, as the pipeline says, until cancelled."""
        if self.snapshots is not None:
            await self.snapshots.run()

    def check(self) -> None:
        """Raise the ClaimError that publishing has met, once: another leader publishes."""
        if self.snapshots is not None:
            self.snapshots.check()

    async def warm(self) -> None:
        """Teach the log to candidates that wait to enter, until cancelled."""
        await self.entry.warm(self._settings.kafka, self._topic, lambda: self.leading, self.wait_until_near)

    @property
    def row_by_row(self) -> bool:
        """Return whether scorers learn before they send, and nobody reads the log back."""
        return bool(self._row_by_row)

    async def record_written(self) -> None:
        """Fold a command or a field that was just written, unless the log is followed, which brings it."""
        if self._row_by_row:
            await self.catch_up()
            if self.learner.paused:
                self.read_back()

    def capture(self) -> LearnerDelta:
        """Return what has changed since the last capture."""
        sent_to = self.learner.reading if self._row_by_row else None
        return LearnerDelta(sent_to, self._delta() if self.leading else None)

    def _delta(self) -> StateDelta:
        """Return what changed; once after a key has been replaced everything, signed by the new one."""
        delta = self.learner.delta()
        if self._resigns:
            self._resigns = False
            delta |= {name: resigned(data, self._keys) for name, data in self.learner.snapshot().items()}
            log.info("models signed anew", keys=repr(self._keys), entries=len(delta))
        return delta

    def check_written(self, learned: LearnerDelta, written: Mapping[LogPartition, Written]) -> None:
        """Compare the offsets at which records were folded with those that Kafka gave them.

        `written` is what had been sent when `learned` was captured.  Raises ClaimError if somebody else's
        record came between: `catch_up` then restores the learner.
        """
        if learned.sent_to is None:
            return
        offset = written[self._topic, PARTITION].offset
        if offset >= learned.sent_to:
            self._restored = False
            raise ClaimError(
                f"the last example lies at offset {offset}, not before {learned.sent_to}: another process"
                " writes the log",
                hint="nothing to do: the learner goes back to its checkpoint and follows the log",
                topic=self._topic,
                partition=PARTITION,
            )

    async def wait_until_near(self, records_max: int) -> None:
        """Wait while the learner of this process lags more than this behind what was acknowledged to it."""
        while self._following.is_set() and not self.learner.paused and self.lag > records_max:
            self._moved.clear()
            await self._moved.wait()

    @property
    def lag(self) -> int:
        """Return how many acknowledged records of this process its learner has not read yet."""
        return max(0, self._acknowledged - self.learner.reading)

    @property
    def unlearned(self) -> int:
        """Return how many records of the log the models served here lack, as far as known; in a pause too."""
        seen = None if self.snapshots is None else self.snapshots.served
        return self._behind(self.learner.position if seen is None else seen.position)

    @property
    def folded(self) -> int:
        """Return how many records of the log were handed to the learner."""
        return self.learner.reading

    @property
    def paused(self) -> bool:
        """Return whether learning is paused, by a command or an alarm."""
        return self.learner.paused

    @property
    def unfolded(self) -> int:
        """Return how many records this process has yet to learn; none where it serves others' snapshots."""
        return self._behind(self.learner.position) if self._folds else 0

    @property
    def _acknowledged(self) -> int:
        """The offset after the last record of the log that this process has written."""
        return self._sink.last_offset((self._topic, PARTITION)) + 1

    def _behind(self, reached: int) -> int:
        """Return how many records of the log lie behind an offset, as far as known here."""
        return max(0, max(self._acknowledged, self._end, self.learner.reading) - reached)

    # -- what the leader writes -------------------------------------------------------------------

    def _decided(self, decisions: Sequence[Decision], trace: Headers = ()) -> None:
        self.race.decided(decisions, self.learner.roster)
        if self.leading:
            self._decisions += [(decision, trace) for decision in decisions]

    def _decided_at(self, records: Sequence[Record], decisions: Sequence[Decision]) -> None:
        """Take what was decided at records of the log, in their order."""
        traces = {record.offset: headers.traced(record.headers) for record in records}
        for decision in decisions:
            self._decided([decision], traces.get(decision.offset, ()))

    def measure(self, scored: int) -> list[Outgoing]:
        """Return records about racers that take too long; `scored` events since the last call."""
        if not self._folds:
            return []
        now_ms = int(time.time() * 1000)
        slow = [*self._over_budget(scored, now_ms), *self._over_latency(scored, now_ms)]
        return [
            Outgoing("examples", PARTITION, one.model_name.encode(), encode(one), headers.SLOW, now_ms)
            for one in slow
        ]

    def _over_budget(self, scored: int, now_ms: int) -> list[Slow]:
        limits_ms = {
            name: one.budget_ms
            for name, one in self.learner.field.candidates.items()
            if one.budget_ms is not None
        }
        if not limits_ms:
            return []
        if self._budgets is None or self._budgets.limits_ms != limits_ms:
            self._budgets = Budgets(limits_ms)
            self._measured = self.learner.examples
        learned, self._measured = self.learner.examples - self._measured, self.learner.examples
        self._budgets.measure(self.stopwatch.models, scored=scored, learned=max(learned, 0))
        if not self.leading or self.learner.paused:
            return []
        return self._budgets.over(self.learner.roster.racers, now_ms)

    def _over_latency(self, scored: int, now_ms: int) -> list[Slow]:
        routing = self.learner.routing
        timed = None if routing is None else routing.timed
        racer = None if timed is None else self.learner.roster.racers.get(timed.name)
        if timed is None or racer is None:
            self._latencies = None
            return []
        if self._latencies is None or self._latencies.of != (timed, racer.version):
            self._latencies = Latencies(timed, racer.version)  # what this turn took may be from before
            return []
        self._latencies.measure(self.stopwatch.models, scored=scored)
        return self._latencies.over(now_ms) if self.leading and not self.learner.paused else []

    def take_decisions(self) -> list[Outgoing]:
        """Return the decisions since the last call as records, and a pointer if the champion may be another.

        So the pointer is there from the first start of a leader on.
        """
        decisions, self._decisions = self._decisions, []
        key = self._pipeline.name.encode()
        out = [
            Outgoing("decisions", PARTITION, key, encode(decision), trace, decision.time)
            for decision, trace in decisions
        ]
        told = [] if self.learner.alerts is None else self.learner.alerts.take()
        if self.leading:
            out += alert_records(self._pipeline.name, told, self.learner.counts)
        crowned = is_succession((decision for decision, _ in decisions), self.learner.roster.champion)
        if self.leading and (crowned or self._pointer_due):
            self._pointer_due = False
            time_ms = self.learner.learning.time or int(time.time() * 1000)
            champion = pointer_of(self._pipeline, self.learner)
            out.append(self._pointer(champion, time_ms))
            if crowned:  # this one stays: compaction replaces it by the next of the same version only
                out.append(self._pointer(replace(champion, alias=f"v{champion.version}"), time_ms))
        return out

    def _pointer(self, pointer: ModelPointer, time_ms: int) -> Outgoing:
        key = f"{pointer.pipeline}@{pointer.alias}".encode()
        source = headers.cloud_event("dev.headrace.model", f"headrace/{pointer.pipeline}")
        return Outgoing("models", 0, key, encode(pointer), source, time_ms)

    async def save(self, learned: LearnerDelta) -> None:
        """Write the learner's checkpoint if this process leads.  Raises ClaimError if fenced."""
        if learned.delta is not None:
            await self._store.save(self._claim, self._meta(), learned.delta)

    def _meta(self) -> bytes:
        return json.encode(LearnerMeta(self._definition, self.header))

    async def close(self) -> None:
        """Close the stores of checkpoints and artefacts."""
        await self._store.close()
        if self.snapshots is not None:
            await self.snapshots.close()
        self._artefacts.close()

    # -- what a scrape and the page show ----------------------------------------------------------

    @property
    def shown(self) -> Learner | None:
        """Return the learner whose race the page shows; None where this process serves another one's."""
        return self.learner if self._folds else None

    def status(self, *, lag: dict[LogPartition, int], pending: int, partitions: int) -> Status:
        """Return the learner's part of the status together with what the worker knows.

        Of a process that serves snapshots it is that of the leader as of then.
        """
        learner, roster = self.learner, self.learner.roster
        seen = self._seen
        told: Learner | SnapshotHead = learner if seen is None else seen
        return Status(
            lag={
                **lag,
                (self._topic, PARTITION): self._behind(learner.reading if seen is None else told.position),
            },
            pending=pending,
            examples=told.examples,
            unlearned=self.unlearned,
            checkpoint_time_s=self._metrics.checkpoint_time_s,
            partitions=partitions,
            leading=self.leading,
            paused=told.paused,
            pinned=told.pinned,
            champion_quarantined=roster.champion in roster.quarantined,
            learning_log=tuple(self.entry.progress.items()),
            models=self.race.candidates(learner) if seen is None else self.race.served(seen, roster),
            shares=roster.routing.shares if roster.routing is not None else (),
            policy_revision=roster.routing.revision if roster.routing is not None else 0,
            # Every worker has the same models: exported by each, sums and averages would count them again.
            scores=self.race.scores(learner) if self.leading else {},
            figures=self.race.figures(learner) if self.leading else MonitorFigures(),
            firing=self._alerts_firing(),
            acked=tuple(learner.acks.precision().items()) if self.leading and learner.acks else (),
            snapshot=SnapshotStatus() if self.snapshots is None else self.snapshots.status,
            shift=self.race.shift(learner) if self.leading else None,
        )

    def served(self) -> tuple[str, dict[str, str]]:
        """Return the champion, and `VERSION@UPDATES` of each candidate here, the champion first."""
        roster = self.learner.roster
        names = [roster.champion, *(name for name in roster.racers if name != roster.champion)]
        return roster.champion, {
            name: f"{roster.racers[name].version}@{roster.racers[name].updates}" for name in names
        }

    @property
    def examples(self) -> int:
        """Return how many examples the models here have learned."""
        return self.learner.examples if self._seen is None else self._seen.examples

    @property
    def _seen(self) -> SnapshotHead | None:
        """Return the snapshot that is served here; None where the learner's own models are."""
        return None if self.snapshots is None else self.snapshots.served

    def _alerts_firing(self) -> tuple[tuple[str, int], ...]:
        alerts = self.learner.alerts
        return tuple(alerts.book.open().items()) if self.leading and alerts is not None else ()
