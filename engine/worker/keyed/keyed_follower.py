"""The learners of this process where each key has a race of its own: one a partition that it owns.

Lives here: which partitions are learned, together what `follower.py` is alone: decisions, pointers,
checkpoints, status.  Never here: one partition's log (`partition_log.py`).

What a scrape shows is summed up over all races: no metric has a series per key.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from msgspec.structs import replace

from engine.definition.pipeline import Pipeline
from engine.kafka.client import LogPartition
from engine.kafka.sink import Sink, Written
from engine.machines.keyed.keyed_learner import KeyedLearner
from engine.machines.keyed.keyed_scorer import KeyedScorer
from engine.machines.scorer import Scorer
from engine.metrics import Metrics, RacesStatus, Status
from engine.race_view import RaceView
from engine.settings import Settings
from engine.stores.places import artefact_store
from engine.worker.assembly import race_pointer_of, signing_keys
from engine.worker.follower import Follower
from engine.worker.header import header_of
from engine.worker.keyed.partition_log import PartitionLog
from engine.worker.model_factory import ModelFactory
from operators.race.candidates import made_of
from operators.race.commands import OF_ALL_RACES
from operators.race.evaluation import SERVED
from operators.race.learning import is_succession
from operators.state import StateDelta
from operators.stopwatch import Stopwatch
from topics import headers
from topics.codec import command_id, decode_command, encode
from topics.messages import Decision, Headers, ModelPointer, Outgoing

__all__ = ["AnyFollower", "KeyedDelta", "KeyedFollower", "follower_of"]


class KeyedDelta(NamedTuple):
    """The captured changes of the learners, as of one moment: those that are not stored yet."""

    unsaved: list[tuple[PartitionLog, StateDelta]]


class KeyedFollower:
    """Keeps the races of this process folds of the examples logs of its partitions.

    What the loop asks of it is what it asks of a `Follower`.
    """

    snapshots = None
    """Nobody else needs these models: a key's events come to the owner of its partition."""
    row_by_row = False
    shown = None
    """No single race stands for all."""

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
        self.partitions = pipeline.events.partitions
        """Of the events topic; the worker says how many there are once it knows."""
        self.race = RaceView(metrics)
        self.stopwatch = Stopwatch(time.perf_counter)
        """Of everything in this process that answers and learns."""
        self._pipeline, self._settings, self._metrics, self._sink = pipeline, settings, metrics, sink
        self._accept_features = accept_features
        self._topic = pipeline.catalog["examples"]
        self._artefacts = artefact_store(settings, pipeline.name)
        self._factory = ModelFactory(pipeline, keys=signing_keys(settings), stored=self._artefacts)
        self._known: dict[int, PartitionLog] = {}
        """The logs of all partitions that this process has ever owned ..."""
        self._logs: dict[int, PartitionLog] = {}
        """... and of those that it owns."""
        self._following: set[asyncio.Task[None]] = set()
        """Tasks that fold the logs of owned partitions as they grow."""
        self._changed = asyncio.Event()
        """Set when there are other tasks."""
        self._decisions: list[tuple[int, Decision, Headers]] = []
        """What was decided and is not written yet: partition, decision, trace context of what led to it."""

    # -- taking and leaving partitions ------------------------------------------------------------

    async def lead(self, numbers: Collection[int], go_on: Callable[[], object] = lambda: None) -> None:
        """Lead the examples partitions of these numbers, and no others.

        `go_on` is called before each is restored, and raises where there shall be no further one.
        """
        await self._stop()
        self._decisions.clear()
        self._logs = {number: self._log(number) for number in numbers}
        for number in self._known.keys() - self._logs.keys():
            self._known[number].release()
        for log in self._logs.values():
            go_on()
            header = header_of(self._pipeline, self.partitions)
            await log.lead(header, accept_features=self._accept_features)
        self.leading = bool(self._logs)

    def _log(self, number: int) -> PartitionLog:
        """Return the log of a partition: what it knows of our file's field outlives a rebalance."""
        if number not in self._known:
            self._known[number] = PartitionLog(
                self._pipeline,
                self._settings,
                self._sink,
                number,
                self._factory,
                self._artefacts,
                models=self.models,
                stopwatch=self.stopwatch,
                told=self._take,
            )
        return self._known[number]

    async def _stop(self) -> None:
        """Fold no log any more."""
        if following := self._cancelled():
            await asyncio.wait(following)

    def _cancelled(self) -> set[asyncio.Task[None]]:
        following, self._following = self._following, set()
        self._changed.set()
        for task in following:
            task.cancel()
        return following

    def release(self) -> None:
        """Stop leading: partitions have moved."""
        self.leading = False
        self._cancelled()
        for log in self._logs.values():
            log.fenced = None

    async def catch_up(self, go_on: Callable[[], object] = lambda: None) -> None:
        """Fold every log up to its end.

        `go_on` is called before every slice, and raises where there shall be no further one.
        """
        for log in self._logs.values():
            await log.catch_up(go_on)

    def read_back(self) -> None:
        """Learn what is read back from the logs, from where the learners stand."""
        if not self._following:
            self._following = {asyncio.create_task(log.follow()) for log in self._logs.values()}
            self._changed.set()

    def learn_row_by_row(self, _scorers: Sequence[Scorer]) -> None:
        """Do nothing: labels inside events are refused where each key has a race of its own."""

    async def follow(self) -> None:
        """Watch over the tasks that fold the logs, until cancelled; raise the error of one that fails."""
        try:
            while True:
                self._changed.clear()
                woken = asyncio.create_task(self._changed.wait())
                try:
                    await asyncio.wait({woken, *self._following}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    woken.cancel()
                for task in [task for task in self._following if task.done() and not task.cancelled()]:
                    self._following.discard(task)
                    task.result()
        finally:
            for task in self._following:
                task.cancel()

    def check(self) -> None:
        """Raise the ClaimError that a learner has met, once: its partition is claimed again."""
        for log in self._logs.values():
            fenced, log.fenced = log.fenced, None
            if fenced is not None:
                raise fenced

    async def warm(self) -> None:
        """Do nothing: no candidate learns the log before it enters."""

    async def share(self) -> None:
        """Do nothing: nobody else serves these models."""

    async def record_written(self) -> None:
        """Do nothing: the logs are followed, which bring it."""

    # -- who answers ------------------------------------------------------------------------------

    def scorer(self, number: int, **named: Any) -> Scorer:
        """Return a new scorer of a partition."""
        return KeyedScorer(
            self._logs[number].learner,
            self._pipeline,
            partition=number,
            stopwatch=self.stopwatch,
            **named,
        )

    def examples_of(self, number: int) -> tuple[int, ...]:
        """Return the examples partitions to which the owner of an events partition writes."""
        return (number,)

    def command_places(self, value: bytes) -> list[tuple[int | None, bytes]]:
        """Return the partitions of the examples log for the bytes of a command, each with its record's key.

        That of the key it is about; all where it pauses or resumes all races; what else names no key, or is
        no command, is refused on the first.
        """
        asked = command_id(value).encode()
        try:
            command = decode_command(value)
        except ValueError:
            return [(0, asked)]
        if command.key:
            return [(None, command.key.encode())]
        every = command.command in OF_ALL_RACES
        return [(number, asked) for number in range(self.partitions if every else 1)]

    # -- the field --------------------------------------------------------------------------------

    def fields_due(self) -> list[Outgoing]:
        """Return the field records that must be written now."""
        due = [log.entry.due() for log in self._logs.values()]
        return [record for record in due if record is not None]

    def check_fields_taken(self) -> None:
        """Raise DefinitionError where a record that was written has been refused after all."""
        for log in self._logs.values():
            log.entry.check_taken()

    def take_entry(self) -> Outgoing | None:
        """Return no record: no candidate learns the log before it enters."""
        return None

    # -- what is learned --------------------------------------------------------------------------

    async def wait_until_near(self, records_max: int) -> None:
        """Wait while a learner lags more than this behind what was acknowledged."""
        if self._following:
            for log in list(self._logs.values()):
                await log.wait_until_near(records_max)

    @property
    def paused(self) -> bool:
        """Return whether learning is paused on a partition of this process."""
        return any(log.learner.paused for log in self._logs.values())

    @property
    def lag(self) -> int:
        """Return how many acknowledged records of this process its learners have not read yet."""
        return sum(log.lag for log in self._logs.values())

    @property
    def unlearned(self) -> int:
        """Return how many records of the logs their models lack, as far as known; in a pause too."""
        return sum(log.unlearned for log in self._logs.values())

    @property
    def unfolded(self) -> int:
        """Return how many records this process has yet to learn."""
        return self.unlearned

    @property
    def folded(self) -> int:
        """Return how many records of the logs were handed to their learners."""
        return sum(log.learner.reading for log in self._logs.values())

    @property
    def overfull(self) -> bool:
        """Return whether so many races have left memory that a checkpoint should take what they changed."""
        return any(log.learner.races.overfull for log in self._logs.values())

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """Return the counts by (metric, label) since the last call; of challengers by who they are of."""
        counts: Counter[tuple[str, str]] = Counter()
        for log in self._logs.values():
            learner = log.learner
            for (metric, value), count in learner.counts.items():
                counts[metric, " ".join(made_of(word) or word for word in value.split(" "))] += count
            learner.counts.clear()
            counts.update(learner.races.counts)
            learner.races.counts.clear()
        seconds = self.stopwatch.models
        for step, name in [key for key in seconds if made_of(key[1])]:
            seconds[step, made_of(name)] += seconds.pop((step, name))
        return counts

    @property
    def racers(self) -> AbstractSet[str]:
        """Return the names by which candidates are measured: those of the file."""
        return self._pipeline.candidates.keys()

    # -- what the leader writes -------------------------------------------------------------------

    def _take(self, partition: int, decided: Sequence[tuple[Decision, Headers]]) -> None:
        learner = self._logs[partition].learner
        for decision, trace in decided:
            race = learner.races.peek(decision.key) if decision.key else None
            self.race.decided([decision], learner.roster if race is None else race.roster)
            self._decisions.append((partition, decision, trace))

    def measure(self, _scored: int) -> list[Outgoing]:
        """Return no records about slow racers: time is measured over all races together."""
        return []

    def take_decisions(self) -> list[Outgoing]:
        """Return the decisions since the last call as records, and pointers of new champions."""
        for log in self._logs.values():
            log.tell_late()
        decisions, self._decisions = self._decisions, []
        name = self._pipeline.name.encode()
        out = [
            Outgoing("decisions", partition, name, encode(decision), trace, decision.time)
            for partition, decision, trace in decisions
        ]
        for partition, key in dict.fromkeys((partition, one.key) for partition, one, _ in decisions):
            of_race = [one for where, one, _ in decisions if (where, one.key) == (partition, key)]
            out += self._pointers(partition, key, of_race)
        return out

    def _pointers(self, partition: int, key: str, decisions: Sequence[Decision]) -> list[Outgoing]:
        """Return who serves a key where these decisions of its race made another one champion."""
        learner = self._logs[partition].learner
        race = learner.races.peek(key) if key else None
        if race is None or not is_succession(decisions, race.roster.champion):
            return []
        champion = race_pointer_of(self._pipeline, race, learner.position)
        pointers = (champion, replace(champion, alias=f"v{champion.version}"))
        return [self._pointer(pointer, race.learning.time) for pointer in pointers]

    def _pointer(self, pointer: ModelPointer, time_ms: int) -> Outgoing:
        key = f"{pointer.pipeline}/{pointer.key}@{pointer.alias}".encode()
        source = headers.cloud_event("dev.headrace.model", f"headrace/{pointer.pipeline}")
        return Outgoing("models", 0, key, encode(pointer), source, time_ms)

    # -- checkpoints ------------------------------------------------------------------------------

    def capture(self) -> KeyedDelta:
        """Return what has changed since the last capture."""
        return KeyedDelta([(log, log.learner.delta()) for log in self._logs.values()])

    def check_written(self, _learned: KeyedDelta, _written: Mapping[LogPartition, Written]) -> None:
        """Do nothing: what is learned was read back."""

    async def save(self, learned: KeyedDelta) -> None:
        """Write the learners' checkpoints; asked again, only what is left.  Raises ClaimError if fenced."""
        while learned.unsaved:
            log, delta = learned.unsaved[0]
            await log.save(delta)
            del learned.unsaved[0]

    async def close(self) -> None:
        """Close the stores of checkpoints and artefacts."""
        await self._stop()
        for log in self._known.values():
            await log.close()
        self._artefacts.close()

    # -- what a scrape shows ----------------------------------------------------------------------

    def status(self, *, lag: dict[LogPartition, int], pending: int, partitions: int) -> Status:
        """Return the learners' part of the status together with what the worker knows."""
        learners = [log.learner for log in self._logs.values()]
        return Status(
            lag={**lag, **{(self._topic, number): log.unlearned for number, log in self._logs.items()}},
            pending=pending,
            examples=self.examples,
            unlearned=self.unlearned,
            checkpoint_time_s=self._metrics.checkpoint_time_s,
            partitions=partitions,
            leading=self.leading,
            paused=self.paused,
            models=(),
            scores=_mean_scores(learners),
            races=RacesStatus(
                sum(learner.begun for learner in learners),
                sum(len(learner.races.resident) for learner in learners),
            ),
        )

    def served(self) -> tuple[str, dict[str, str]]:
        """Return no champion and no candidate: each key has its own."""
        return "", {}

    @property
    def examples(self) -> int:
        """Return how many examples the learners here have learned."""
        return sum(log.learner.examples for log in self._logs.values())


def _mean_scores(learners: Sequence[KeyedLearner]) -> dict[tuple[str, str, str], float]:
    """Return the value by (model, metric, window) over all races: of several partitions the weighted mean."""
    sums: dict[tuple[str, str, str], tuple[float, int]] = {}
    for learner in learners:
        for name, told in learner.totals.monitors.report_of("calibration").items():
            error, rows = told["recent_calibration_error"], told["rows"]
            total, weight = sums.get((name, "calibration_error", "recent"), (0.0, 0))
            sums[name, "calibration_error", "recent"] = total + rows * error, weight + rows
        evaluation = learner.totals.evaluation
        scores, counts = evaluation.model_scores(), evaluation.counts()
        scores[SERVED] = evaluation.served_scores()
        for name, values in scores.items():
            rows = counts.get(name, (0, 0))[0]
            for metric, value in values.items():
                total, weight = sums.get((name, metric, "all"), (0.0, 0))
                sums[name, metric, "all"] = total + rows * value, weight + rows
    return {labels: total / weight for labels, (total, weight) in sums.items() if weight}


AnyFollower = Follower | KeyedFollower
"""What keeps the models of a process."""


def follower_of(
    pipeline: Pipeline, settings: Settings, metrics: Metrics, sink: Sink, *, accept_features: bool
) -> AnyFollower:
    """Return what keeps the models of this process: one learner, or one a partition."""
    kind = Follower if pipeline.per is None else KeyedFollower
    return kind(pipeline, settings, metrics, sink, accept_features=accept_features)
