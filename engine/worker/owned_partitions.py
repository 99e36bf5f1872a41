"""The partitions that this process owns: taken over, restored, let go.

Lives here: how a partition is claimed and restored, which one goes on as it was after a rebalance, what of a
checkpoint goes on where the definition has other features.  Never here: the order of a takeover
(`operators/claims/takeover.py`), how its steps are done (`claim.py`), what a partition does and saves
(`partition.py`), whether features may change (`engine/definition`).
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import structlog

from engine.definition.pipeline import Change, Pipeline, check_definition
from engine.kafka.client import LogPartition
from engine.kafka.sink import Sink
from engine.kafka.source import Source
from engine.machines.scorer import Scorer
from engine.rekeying.rekeying import Rekeying
from engine.settings import Accepted, Settings
from engine.stores.checkpoints import CheckpointStore
from engine.stores.places import checkpoint_store
from engine.worker.claim import ClaimExecutor, ScorerCheckpoint, check_same_logs
from engine.worker.header import Fingerprint, Header, check_header, decode_meta, header_of, tell_header
from engine.worker.keyed.keyed_follower import AnyFollower
from engine.worker.partition import Inputs, Partition
from operators.claims.takeover import Takeover, fits, takeover
from operators.join.pending import END_NAME, FIRST_NAME, SPILLED, entries_apart, with_keys
from operators.state import StateDelta, StateEntries, StoredEntries, named, under
from operators.windows.features import Features

__all__ = ["OwnedPartitions", "carry_over", "difference"]

NONCE_BYTES = 8
"""Two owners of one partition draw the same once in 10^19 takeovers."""

JOIN, ROUTERS_JOIN = "join/", "rekeying/router/join/"
APART = tuple(join + prefix for join in (JOIN, ROUTERS_JOIN) for prefix in SPILLED)
"""Names of entries that a restore leaves out of memory: answers that wait for labels."""

log = structlog.get_logger("headrace")


class OwnedPartitions:
    """The partitions that this process owns, by number: taken over, saved, let go."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        source: Source,
        sink: Sink,
        follower: AnyFollower,
        inputs: Inputs,
        accepted: Accepted,
    ) -> None:
        self.count = 0
        """How many partitions the events topic has; known after `look`."""
        self.owned: dict[int, Partition] = {}
        self._keeps = pipeline.stages is None and pipeline.per is None
        """Whether all of a partition is in its scorer and in the logs: what travels to other keys, and the
        learners of a partition's own, are restored."""
        self._parked: dict[int, Partition] = {}
        """Partitions that were taken away with everything saved, as they were: they may come back."""
        self.kept: list[int] = []
        """Partitions that went on as they were, of those taken over last."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """How partitions were taken over."""
        self._pipeline = pipeline
        self._settings = settings
        self._sink = sink
        self._follower = follower
        self._accepted = accepted
        self._inputs = inputs
        self._roles = ("events",) if pipeline.labels.topic is None else ("events", "labels")
        self._definition = pipeline.scorer_definition()
        self._stores: dict[int, CheckpointStore] = {}
        self._header: Header | None = None
        self._claims = ClaimExecutor(pipeline.catalog, settings.kafka, sink, source)

    async def look(self) -> None:
        """Check that the stores fit the logs, for every partition the group may assign; change nothing.

        Raises the errors of `take_over`, as far as they can be foreseen.
        """
        self.count = await self._sink.partitions(self._inputs.events)
        self._header = header_of(self._pipeline, self.count)
        for number in range(self.count):
            await self._check_header(number)
        for number in range(self.count):
            protocol = fits(number, inputs=self._roles, accept_lost=self._accepted.lost_records)
            await self._claims.run(protocol, self._store(number))
        await self._check_read(range(self.count))

    @property
    def header(self) -> Header:
        """Return the header of checkpoints that are written here; known after `look`."""
        assert self._header is not None
        return self._header

    async def _check_header(self, number: int) -> None:
        """Check that a checkpoint can go on with as many partitions, and these topics."""
        store = self._store(number)
        _, meta = await store.look()
        if meta is not None:
            check_header(decode_meta(meta).header, self.header, store.place)

    async def _check_read(self, numbers: Iterable[int]) -> None:
        """Check that the topics are those that the checkpoints of these partitions have read."""
        read: dict[LogPartition, Fingerprint] = {}
        for number in numbers:
            _, meta = await self._store(number).look()
            if meta is not None:
                read |= {(topic, number): kept for topic, kept in decode_meta(meta).read.items()}
        await check_same_logs(self._settings.kafka, read)

    def _store(self, number: int) -> CheckpointStore:
        """Return the checkpoints of a partition."""
        if number not in self._stores:
            name = self._pipeline.name
            self._stores[number] = checkpoint_store(self._settings, name, "scorer", number, apart=APART)
        return self._stores[number]

    async def take_over(self, numbers: Sequence[int], go_on: Callable[[], object]) -> None:
        """Take over these partitions; they are all that is owned then.

        One that was parked and has had no other owner since goes on as it was; the others are claimed and
        restored.  `go_on` is called before every step, and raises where there shall be no further one: what
        was taken over by then is parked.  Raises what `_take_over` does.
        """
        self.kept = []
        for number in numbers:
            go_on()
            known = self._parked.get(number)
            if known is not None and await known.kept():
                self.kept.append(number)
                self.counts["takeovers", "kept"] += 1
                continue
            self._parked.pop(number, None)
            taken = await self._take_over(number, go_on)
            self.counts["takeovers", "claimed"] += 1
            self._parked[number] = taken
        self.owned = {number: self._parked[number] for number in numbers}
        self._parked = {}

    def park(self) -> None:
        """Stop owning every partition, all of which was saved; one that comes back may go on."""
        self._parked = self._parked | self.owned if self._keeps else {}
        self.owned = {}

    def release(self) -> None:
        """Release every partition: what was not saved is done again by the next owner."""
        self.owned = {}
        self._parked = {}

    async def _take_over(self, number: int, go_on: Callable[[], object]) -> Partition:
        """Claim a partition and restore it.

        Raises ClaimError if rivals never rest or a lost checkpoint cannot be made up for, CheckpointError if
        the checkpoint belongs to another definition or does not fit the logs.
        """
        store = self._store(number)
        rekey_partitions = 0 if self._pipeline.stages is None else self.count
        await self._check_read([number])
        protocol = takeover(
            number,
            secrets.token_hex(NONCE_BYTES),
            examples=self._follower.examples_of(number),
            rekey_partitions=rekey_partitions,
            inputs=self._roles,
            accept_lost=self._accepted.lost_records,
            suppressed_max=self._settings.replay_max,
        )
        return self._restore(number, await self._claims.run(protocol, store, go_on), store)

    def _restore(self, number: int, taken: Takeover, store: CheckpointStore) -> Partition:
        stages = self._pipeline.stages
        scorer = self._follower.scorer(
            number,
            writer=taken.writer,
            suppression=taken.suppression,
            plan=self._pipeline.scorer_plan,
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
        loaded: ScorerCheckpoint | None = taken.checkpoint
        unsaved: StateDelta = {}
        if loaded is not None:
            entries: StateEntries = loaded.entries
            accept, meta = self._accepted.changed_features, loaded.meta
            check_header(meta.header, self.header, store.place)
            tell_header(meta.header, self.header, store.place)
            changes = check_definition(meta.definition, self._definition, store.place, accept_features=accept)
            if changes:
                entries = carry_over(entries, scorer.features, store.stored(JOIN), changes, number)
                unsaved = difference(loaded.entries, entries)
            scorer.restore(entries)
            if rekeying is not None:
                rekeying.restore(under("rekeying", loaded.entries))
        _tell(taken, scorer)
        predictions = (self._claims.topic("predictions"), number)
        return Partition(
            self._inputs,
            scorer,
            rekeying,
            # The checkpoint has been restored: its bytes need not be kept as well.
            replace(taken, checkpoint=None),
            store,
            self._claims,
            definition=self._definition,
            header=self.header,
            read=None if loaded is None else loaded.meta.read,
            written_before=self._sink.mark().records[predictions],
            unsaved=unsaved,
        )

    def starts(self) -> dict[LogPartition, int | None]:
        """Return where each topic of each partition is read on; None: from its earliest record."""
        return {read: at for partition in self.owned.values() for read, at in partition.starts().items()}

    @property
    def read(self) -> int:
        """Return how many requests of takeovers were carried out: a number that moves with each."""
        return self._claims.requests

    @property
    def pending(self) -> int:
        """Return how many answers and early labels wait in all of them."""
        return sum(partition.pending for partition in self.owned.values())

    @property
    def key_count(self) -> int:
        """Return how many keys windows hold in all of them."""
        return sum(partition.key_count for partition in self.owned.values())

    async def close(self) -> None:
        """Close the stores of checkpoints."""
        for store in self._stores.values():
            await store.close()


def _tell(taken: Takeover, scorer: Scorer) -> None:
    """Log what was taken over, and what it was made of where the checkpoint alone does not say it."""
    number, place = scorer.partition, scorer.position
    if taken.checkpoint is not None and taken.checkpoint.damage:
        scorer.counts["checkpoints_damaged", "scorer"] += 1
    if taken.behind is not None:
        found = "empty" if taken.checkpoint is None else "older"
        scorer.counts["stores_behind", found] += 1
        log.warning(
            "the checkpoint store is behind the logs: replaying them from its checkpoint",
            partition=number,
            store=taken.behind.place.strip(),
            checkpoint=found,
            claim_in_store=taken.behind.stored,
            claim_in_logs=taken.behind.logged,
            events_from=place.events,
            labels_from=place.labels,
            logged_since=len(taken.suppression),
        )
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
        nonce=taken.nonce,
        events_position=place.events,
        logged_since=len(taken.suppression),
    )


# -- a checkpoint of a definition with other features ----------------------------------------------


def carry_over(
    entries: StateEntries,
    features: Features,
    stored: StoredEntries,
    changes: Iterable[Change],
    partition: int,
) -> dict[str, bytes]:
    """Return a checkpoint's entries as a scorer with `features` restores them, and log what begins empty.

        windows    a group goes on if its name is the same (`Group.name`), any other begins empty
        join       answers that wait go on; each knows the keys under which its label enters, newly ordered
        the rest   as it is

    `stored` are the entries of the join that a restore leaves on disk: they are among those returned where
    their keys change.
    """
    carried = features.carried_over(under("features", entries))
    join, after = under("join", entries), features.plan.label_keys
    if carried.label_keys != after:
        # All at once, this once: every answer gets other keys.
        join |= dict(entries_apart(stored, FIRST_NAME, END_NAME))
        for name, data in join.items():
            if name.startswith(FIRST_NAME):
                join[name] = with_keys(data, carried.label_keys, after)
    log.warning(
        "features changed",
        partition=partition,
        changes=[str(change) for change in changes],
        filling=list(carried.filling),
        keys=carried.keys,
        keys_dropped=carried.keys_dropped,
    )
    rest = {name: data for name, data in entries.items() if not name.startswith(("features/", "join/"))}
    return rest | named({"features": carried.entries, "join": join})


def difference(old: StateEntries, new: StateEntries) -> StateDelta:
    """Return the delta that makes `new` of `old`."""
    gone: StateDelta = {name: None for name in old if name not in new}
    return gone | {name: data for name, data in new.items() if old.get(name) != data}
