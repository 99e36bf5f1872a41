"""Owning a partition: taking it over, saving its checkpoints.

Lives here: what an owner of a partition is, how it is restored, what a checkpoint of it holds.
Never here: the order of a takeover (`operators/claims/takeover.py`), how its steps are done
(`claim.py`), when to save (`loop.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec
import structlog

from engine.definition.pipeline import Pipeline
from engine.definition.text import check_definition
from engine.kafka.client import Partition
from engine.kafka.sink import Sink, Written
from engine.kafka.source import Source
from engine.machines.intake import Intake
from engine.machines.scorer import Scorer
from engine.rekeying.rekeying import Rekeying
from engine.settings import Accepted, Settings
from engine.stores.checkpoints import CheckpointStore
from engine.worker.changed_features import carried_over, difference
from engine.worker.claim import Claiming, Loaded, ScorerMeta, decode_meta
from engine.worker.fingerprint import Fingerprint, check_same_logs, fingerprint
from engine.worker.follower import Follower
from operators.claims import requests
from operators.claims.requests import Bounds, Sent
from operators.claims.takeover import Cut, Takeover, cut, fits, log_positions, still_owner, takeover
from operators.state import StateDelta, StateEntries, named, under
from topics.errors import ClaimError
from topics.messages import Record

__all__ = ["Captured", "Owned", "Owner"]

TAKEOVERS_MAX = 5
"""Times another owner may come first before this one gives up and lets the process end."""

JOIN, ROUTERS_JOIN = "join/", "rekeying/router/join/"
APART = tuple(join + kind for join in (JOIN, ROUTERS_JOIN) for kind in ("w/", "i/"))
"""Names of entries that a restore leaves on disk: answers that wait for labels."""

log = structlog.get_logger("headrace")


@dataclass
class Owned:
    """One event partition in this process's hands."""

    scorer: Scorer
    rekeying: Rekeying | None
    """Where windows have other keys than the topic."""
    takeover: Takeover
    store: CheckpointStore
    restored: bool
    """False at the very first start: the partition is read from its earliest record."""
    written_before: int
    """Records this process had written to the predictions partition when it was taken over."""
    read: dict[str, Record | Fingerprint]
    """The last record taken of each topic."""
    shadows_slow: bool = False
    """Whether the shadows of the last run took long enough that answers should leave before them."""
    held: set[Partition] = field(default_factory=set)
    """Input partitions paused because their queue is full."""
    unsaved: StateDelta = field(default_factory=dict)
    """What a changed definition made of the checkpoint's entries, for the next one."""

    @property
    def intake(self) -> Intake:
        """Return where records of events and labels go first."""
        return self.scorer.intake if self.rekeying is None else self.rekeying.intake

    def absorb_counts(self, absorb: Callable[[Counter[tuple[str, str]]], None]) -> None:
        """Hand over what was counted since the last call."""
        absorb(self.scorer.counts)
        if self.rekeying is not None:
            absorb(self.rekeying.counts)


class Captured(NamedTuple):
    """What a checkpoint of one partition holds, as of one moment."""

    owned: Owned
    cut: Cut
    delta: StateDelta
    read: dict[str, Record | Fingerprint]


class Owner:
    """Takes partitions over and saves them."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        source: Source,
        sink: Sink,
        follower: Follower,
        accepted: Accepted,
    ) -> None:
        self.partitions = 0
        """How many partitions the events topic has; set once it is known."""
        self._pipeline = pipeline
        self._settings = settings
        self._source = source
        self._sink = sink
        self._follower = follower
        self._accepted = accepted
        self._inputs = ("events",) if pipeline.labels.topic is None else ("events", "labels")
        self._definition = pipeline.scorer_definition()
        self._stores: dict[int, CheckpointStore] = {}
        self._claiming = Claiming(pipeline.catalog, settings.kafka, sink)

    async def look(self) -> None:
        """See whether the stores fit the logs, for every partition the group may give; touch nothing.

        Raises what `take_over` would, as far as a look can tell.
        """
        accepted = self._accepted
        for number in range(self.partitions):
            protocol = fits(
                number,
                inputs=self._inputs,
                accept_newer=accepted.newer_claims,
                accept_lost=accepted.lost_records,
            )
            await self._claiming.run(protocol, self._store(number))
        await self._check_read(range(self.partitions))

    async def _check_read(self, numbers: Iterable[int]) -> None:
        """See whether the topics are those that the checkpoints of these partitions have read."""
        known: dict[Partition, Fingerprint] = {}
        for number in numbers:
            _, meta = await self._store(number).look()
            if meta is not None:
                known |= {(topic, number): kept for topic, kept in decode_meta(meta).read.items()}
        await check_same_logs(self._settings.kafka, known)

    def _store(self, number: int) -> CheckpointStore:
        """Return the checkpoints of a partition."""
        if number not in self._stores:
            directory, name = self._settings.state_dir, self._pipeline.name
            self._stores[number] = CheckpointStore(directory, name, "scorer", number, apart=APART)
        return self._stores[number]

    async def take_over(self, number: int) -> Owned:
        """Claim an event partition and restore its scorer.

        Raises ClaimError if the logs are ahead of the store or rivals never rest, CheckpointError if the
        checkpoint belongs to another definition or does not fit the logs.
        """
        store = self._store(number)
        hops = 0 if self._pipeline.stages is None else self.partitions
        await self._check_read([number])
        for _ in range(TAKEOVERS_MAX):
            protocol = takeover(
                number,
                hop_partitions=hops,
                inputs=self._inputs,
                accept_newer=self._accepted.newer_claims,
                accept_lost=self._accepted.lost_records,
                suppressed_max=self._settings.replay_max,
            )
            taken: Takeover | None = await self._claiming.run(protocol, store)
            if taken is not None:
                return self._restored(number, taken, store)
        raise ClaimError(
            f"event partition {number} was claimed by another owner {TAKEOVERS_MAX} times",
            hint="is a second deployment of this pipeline running against the same topics?",
        )

    def _restored(self, number: int, taken: Takeover, store: CheckpointStore) -> Owned:
        stages = self._pipeline.stages
        scorer = Scorer(
            self._pipeline,
            partition=number,
            roster=self._follower.learner.roster,
            writer=taken.writer,
            suppression=taken.suppression,
            plan=self._pipeline.scorer_plan,
            stopwatch=self._follower.stopwatch,
            stored=store.stored(JOIN),
        )
        rekeying = None
        if stages is not None:
            rekeying = Rekeying(
                self._pipeline,
                stages,
                partition=number,
                writer=taken.writer,
                logged=taken.suppression.hops,
                stored=store.stored(ROUTERS_JOIN),
            )
        loaded: Loaded | None = taken.checkpoint
        unsaved: StateDelta = {}
        if loaded is not None:
            entries: StateEntries = loaded.entries
            accept, meta = self._accepted.changed_features, loaded.meta
            changes = check_definition(meta.definition, self._definition, store.path, accept_features=accept)
            if changes:
                entries = carried_over(entries, scorer.features, store.stored(JOIN), changes, number)
                unsaved = difference(loaded.entries, entries)
            scorer.restore(entries)
            if rekeying is not None:
                rekeying.restore(under("rekeying", loaded.entries))
        if taken.lost:
            log.warning(
                "going on without records that were deleted",
                partition=number,
                **{f"{role}_{log_number}": count for (role, log_number), count in taken.lost.items()},
            )
        log.info(
            "partition claimed",
            partition=number,
            claim=taken.claim,
            events_position=scorer.position.events,
            logged_since=len(taken.suppression),
        )
        predictions = (self._claiming.topic("predictions"), number)
        written = self._sink.mark().records[predictions]
        # The checkpoint has been restored: its bytes need not be kept as well.
        kept = replace(taken, checkpoint=None)
        read: dict[str, Record | Fingerprint] = {} if loaded is None else {**loaded.meta.read}
        return Owned(scorer, rekeying, kept, store, loaded is not None, written, read, unsaved=unsaved)

    def capture(self, owned: Owned) -> Captured:
        """Take what has changed, and how far the owner has come; all it made must have been sent.

        What is taken here is in no later capture: it is saved, or the owner ends.
        """
        delta = owned.unsaved | owned.scorer.delta()
        owned.unsaved = {}
        if owned.rekeying is not None:
            owned.rekeying.tidy()
            delta |= named({"rekeying": owned.rekeying.delta()})
        return Captured(owned, cut(owned.takeover), delta, owned.read.copy())

    async def save(self, captured: Captured, written: Mapping[Partition, Written]) -> None:
        """Write one scorer's checkpoint; `written` is all it had sent when it was captured.

        Raises ClaimError if fenced.
        """
        owned = captured.owned
        writer = owned.takeover.writer
        with self._claiming.topics_named():
            for position in writer.positions():
                found = written.get((self._claiming.topic(position.target), position.partition))
                if found is not None and found.offset >= position.position:
                    writer.acknowledged(position.log, found.offset)
            if not await self._still_owner(captured):
                raise ClaimError(
                    f"another owner has announced itself on partition {owned.scorer.partition}",
                    hint="nothing to do: this one claims again if the partition is still its own",
                )
        read = {
            topic: last if isinstance(last, Fingerprint) else fingerprint(last)
            for topic, last in captured.read.items()
        }
        meta = ScorerMeta(self._definition, log_positions(owned.takeover, captured.cut), read)
        await owned.store.save(owned.takeover.claim, msgspec.json.encode(meta), captured.delta)
        owned.scorer.join.committed()
        if owned.rekeying is not None:
            owned.rekeying.router.committed()

    async def _still_owner(self, captured: Captured) -> bool:
        """Ask the log, by the open connection: this is before every checkpoint."""
        owned = captured.owned
        protocol = still_owner(owned.takeover, captured.cut)
        answer: Any = None
        try:
            while True:
                match request := protocol.send(answer):
                    case requests.FindBounds(target, partition):
                        log_partition = (self._claiming.topic(target), partition)
                        answer = Bounds(*(await self._source.bounds(log_partition)))
                    case requests.Settle(target, partition):
                        log_partition = (self._claiming.topic(target), partition)
                        sent = (await self._sink.written_to(self._sink.mark()))[log_partition]
                        answer = Sent(sent.records - owned.written_before, sent.offset + 1)
                    case _:
                        answer = await self._claiming.carry_out(request, owned.store)
        except StopIteration as end:
            return bool(end.value)
        finally:
            await self._claiming.close()

    async def close(self) -> None:
        """Close the checkpoint files."""
        for store in self._stores.values():
            await store.close()
