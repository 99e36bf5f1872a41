"""The partitions that this process owns: taken over, restored, their checkpoints written.

Lives here: how a partition is claimed and restored, how its checkpoint is written.
Never here: the order of a takeover (`operators/claims/takeover.py`), how its steps are done
(`claim.py`), what a partition does (`partition.py`), when to save (`loop.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import structlog

from engine.definition.pipeline import Pipeline, check_definition
from engine.kafka.client import LogPartition
from engine.kafka.sink import Sink, Written
from engine.kafka.source import Source
from engine.machines.scorer import Scorer
from engine.rekeying.rekeying import Rekeying
from engine.settings import Accepted, Settings
from engine.stores.checkpoints import CheckpointStore
from engine.worker.changed_features import carried_over, difference
from engine.worker.claim import Claiming, Loaded, ScorerMeta, decode_meta
from engine.worker.fingerprint import Fingerprint, check_same_logs, fingerprint
from engine.worker.follower import Follower
from engine.worker.partition import Captured, Inputs, Partition
from operators.claims import requests
from operators.claims.requests import Bounds, Sent
from operators.claims.takeover import Takeover, fits, log_positions, still_owner, takeover
from operators.state import StateDelta, StateEntries, under
from topics.errors import ClaimError

__all__ = ["OwnedPartitions"]

TAKEOVERS_MAX = 5
"""Times another owner may come first before this one gives up and lets the process end."""

JOIN, ROUTERS_JOIN = "join/", "rekeying/router/join/"
APART = tuple(join + kind for join in (JOIN, ROUTERS_JOIN) for kind in ("w/", "i/"))
"""Names of entries that a restore leaves on disk: answers that wait for labels."""

log = structlog.get_logger("headrace")


class OwnedPartitions:
    """The partitions that this process owns, by number: taken over, saved, let go."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        source: Source,
        sink: Sink,
        follower: Follower,
        inputs: Inputs,
        accepted: Accepted,
    ) -> None:
        self.count = 0
        """How many partitions the events topic has; known after `look`."""
        self.owned: dict[int, Partition] = {}
        self._pipeline = pipeline
        self._settings = settings
        self._source = source
        self._sink = sink
        self._follower = follower
        self._accepted = accepted
        self._inputs = inputs
        self._roles = ("events",) if pipeline.labels.topic is None else ("events", "labels")
        self._definition = pipeline.scorer_definition()
        self._stores: dict[int, CheckpointStore] = {}
        self._claiming = Claiming(pipeline.catalog, settings.kafka, sink)

    async def look(self) -> None:
        """See whether the stores fit the logs, for every partition the group may give; touch nothing.

        Raises what `take_over` would, as far as a look can tell.
        """
        accepted = self._accepted
        self.count = await self._sink.partitions(self._inputs.events)
        for number in range(self.count):
            protocol = fits(
                number,
                inputs=self._roles,
                accept_newer=accepted.newer_claims,
                accept_lost=accepted.lost_records,
            )
            await self._claiming.run(protocol, self._store(number))
        await self._check_read(range(self.count))

    async def _check_read(self, numbers: Iterable[int]) -> None:
        """See whether the topics are those that the checkpoints of these partitions have read."""
        known: dict[LogPartition, Fingerprint] = {}
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

    async def take_over(self, numbers: Iterable[int]) -> None:
        """Claim these partitions and restore them; they are all that is owned then.

        Raises what `_take_over` does.
        """
        self.owned = {number: await self._take_over(number) for number in numbers}

    def release(self) -> None:
        """Own nothing: what was not saved is done again by the next owner."""
        self.owned = {}

    async def _take_over(self, number: int) -> Partition:
        """Claim a partition and restore it.

        Raises ClaimError if the logs are ahead of the store or rivals never rest, CheckpointError if the
        checkpoint belongs to another definition or does not fit the logs.
        """
        store = self._store(number)
        rekey_partitions = 0 if self._pipeline.stages is None else self.count
        await self._check_read([number])
        for _ in range(TAKEOVERS_MAX):
            protocol = takeover(
                number,
                rekey_partitions=rekey_partitions,
                inputs=self._roles,
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

    def _restored(self, number: int, taken: Takeover, store: CheckpointStore) -> Partition:
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
                logged=taken.suppression.rekeyed,
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
        return Partition(
            self._inputs,
            scorer,
            rekeying,
            kept,
            store,
            restored=loaded is not None,
            written_before=written,
            read={} if loaded is None else loaded.meta.read,
            unsaved=unsaved,
        )

    async def save(self, captured: Captured, written: Mapping[LogPartition, Written]) -> None:
        """Write the checkpoint of one partition; `written` is all it had sent when it was captured.

        Raises ClaimError if fenced.
        """
        partition = captured.partition
        writer = partition.takeover.writer
        with self._claiming.topics_named():
            for position in writer.positions():
                found = written.get((self._claiming.topic(position.target), position.partition))
                if found is not None and found.offset >= position.position:
                    writer.acknowledged(position.log, found.offset)
            if not await self._still_owner(captured):
                raise ClaimError(
                    f"another owner has announced itself on partition {partition.number}",
                    hint="nothing to do: this one claims again if the partition is still its own",
                )
        read = {
            topic: last if isinstance(last, Fingerprint) else fingerprint(last)
            for topic, last in captured.read.items()
        }
        logs = log_positions(partition.takeover, captured.cut)
        await partition.save(captured, msgspec.json.encode(ScorerMeta(self._definition, logs, read)))

    async def _still_owner(self, captured: Captured) -> bool:
        """Ask the log, by the open connection: this is before every checkpoint."""
        owned = captured.partition
        protocol = still_owner(owned.takeover, captured.cut)
        answer: Any = None
        try:
            while True:
                match request := protocol.send(answer):
                    case requests.FindBounds(target, number):
                        log_partition = (self._claiming.topic(target), number)
                        answer = Bounds(*(await self._source.bounds(log_partition)))
                    case requests.Settle(target, number):
                        log_partition = (self._claiming.topic(target), number)
                        sent = (await self._sink.written_to(self._sink.mark()))[log_partition]
                        answer = Sent(sent.records - owned.written_before, sent.offset + 1)
                    case _:
                        answer = await self._claiming.carry_out(request, owned.store)
        except StopIteration as end:
            return bool(end.value)
        finally:
            await self._claiming.close()

    def starts(self) -> dict[LogPartition, int | None]:
        """Return where each topic of each partition is read on; None: from its earliest record."""
        return {place: at for partition in self.owned.values() for place, at in partition.starts().items()}

    @property
    def pending(self) -> int:
        """Return how many answers and early labels wait in all of them."""
        return sum(partition.scorer.join.pending for partition in self.owned.values())

    async def close(self) -> None:
        """Close the checkpoint files."""
        for store in self._stores.values():
            await store.close()
