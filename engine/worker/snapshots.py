"""The models of one leader, served by every worker: published while this process leads, taken while not.

Lives here: when a snapshot is made and looked for, the share of the time that it may cost, where it lies,
what is told of it.  Never here: what it holds and what of it is refused (`engine/machines/snapshots.py`),
what the leader learns (`follower.py`).

The leader saves a snapshot every `follow` where something changed, through a `CheckpointStore` with a claim
of its own, so a leader that has been replaced publishes nothing any more.  The others look at the store's
meta several times in that span, and load what is newer.  Both bound what it costs:

    seconds that the loop stood still for the last one  <=  SHARE_MAX of the time until the next one

A snapshot that cannot be used changes nothing: what was served goes on serving, and is counted.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable

import structlog

from engine.machines.field_records import FieldSource
from engine.machines.learner import Learner
from engine.machines.snapshots import SnapshotError, SnapshotHead, SnapshotMaker, SnapshotReader
from engine.metrics import SnapshotStatus
from engine.stores.checkpoints import CheckpointStore
from operators.models.signing import SigningKeys
from operators.race.field import RaceField
from topics.errors import CheckpointError, ClaimError, StoreUnavailableError

__all__ = ["Snapshots"]

SHARE_MAX = 0.05
"""Of a worker's time that snapshots may take; larger models are published less often."""
LOOKS = 4
"""Looks in the span between two publications: each costs one small answer of the store."""
TOLD_EVERY_S = 60.0
"""A store that still cannot be used is told so often."""
TOLD_AGAIN = 1.5
"""The line about slower publications comes again where they are slower by this factor."""

log = structlog.get_logger("headrace")


class Snapshots:
    """The snapshots of one pipeline's models, as this process makes or serves them.

    `learner` returns the learner of the moment, `publishes` whether it leads and has caught up, `leads`
    whether it leads at all; `served` is told of each snapshot that is served.  `models` is held while models
    are read or replaced.
    """

    def __init__(
        self,
        pipeline: str,
        every_ms: int,
        keys: SigningKeys,
        own: RaceField,
        source: FieldSource,
        store: CheckpointStore,
        *,
        models: asyncio.Lock,
        learner: Callable[[], Learner],
        leads: Callable[[], bool],
        publishes: Callable[[], bool],
        served: Callable[[SnapshotHead], None],
    ) -> None:
        self.every_s = every_ms / 1000
        self.counts: Counter[tuple[str, str]] = Counter()
        self._store = store
        self._models = models
        self._learner, self._leads, self._publishes = learner, leads, publishes
        self._told_of = served
        self._maker = SnapshotMaker(pipeline, keys)
        self._reader = SnapshotReader(pipeline, keys, own, source, learner().roster)
        self._claim = 0
        self._unsaved: bytes | None = None
        """Meta of a snapshot that the store has not taken yet."""
        self._fenced: ClaimError | None = None
        self._damaged: CheckpointError | None = None
        """Why this leader publishes nothing: what the store holds cannot be trusted."""
        self._seen: bytes | None = None
        """Meta of the last snapshot that was loaded or refused."""
        self._looking = asyncio.Lock()
        self._due_s = 0.0
        self._last = SnapshotStatus(0.0, 0, 0.0, self.every_s)
        self._taken_ms = 0
        """When the snapshot that is served, or was published last, was taken."""
        self._told_s, self._told_interval_s = 0.0, self.every_s

    # -- the role -----------------------------------------------------------------------------------

    async def lead(self) -> None:
        """Become the one that publishes; from here on an older leader's snapshots fail.

        Over a store that is damaged nothing is published: the models are whole in the learner, which leads.
        Raises ClaimError, StoreUnavailableError.
        """
        self._fenced = self._unsaved = self._damaged = None
        self._due_s = 0.0
        there: Iterable[str] = ()
        try:
            self._claim = await self._store.fence()
            if (stored := await self._store.load()) is not None:
                there = stored.entries
        except StoreUnavailableError:
            raise
        except CheckpointError as error:
            self._damaged = error
        self._maker.begin(there)
        if self._damaged is not None:
            log.error(
                "no snapshots are published: the store of the last ones is damaged",
                place=self._store.place,
                reason=self._damaged.message,
                fix="remove what lies there and start this worker again: snapshots are made from what it has"
                " learned, and the others serve what they have until then",
            )

    def release(self) -> None:
        """Stop publishing: what the learner has come to goes on serving until a newer snapshot is there."""
        self._reader.serve_learner(self._learner())
        self._fenced = None
        self._seen, self._taken_ms, self._due_s = None, _now_ms(), 0.0

    @property
    def served(self) -> SnapshotHead | None:
        """Return what is known of the snapshot that is served; None where a learner's own models are."""
        return None if self._leads() else self._reader.head

    def check(self) -> None:
        """Raise the ClaimError that publishing has met, once: another leader publishes."""
        fenced, self._fenced = self._fenced, None
        if fenced is not None:
            raise fenced

    # -- the work -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Publish while this process leads, else serve what is published, until cancelled."""
        while True:
            await asyncio.sleep(self.every_s / LOOKS)
            if time.monotonic() < self._due_s:
                continue
            if self._publishes():
                await self.publish()
            elif not self._leads():
                await self.look()

    async def publish(self) -> None:
        """Publish a snapshot if anything has changed since the last one."""
        began_s = time.monotonic()
        if self._damaged is not None:
            self._due_s = began_s + self.every_s
            self._unavailable("snapshots are not published", self._damaged)
            return
        async with self._models:
            if not self._publishes():
                return
            claim, now_ms, started_s = self._claim, _now_ms(), time.perf_counter()
            taken = self._maker.take(self._learner(), now_ms)
            spent_s = time.perf_counter() - started_s
        if taken is None and self._unsaved is None:
            return
        meta, delta = taken or (self._unsaved or b"", {})
        self._unsaved = meta
        try:
            await self._store.save(claim, meta, delta)
        except ClaimError as error:
            if claim == self._claim and self._leads():  # else it is known: partitions have moved
                self._fenced = error
            return
        except CheckpointError as error:
            self._unavailable("snapshots are not published", error)
            return
        self._unsaved, self._taken_ms = None, now_ms
        self.counts["snapshots", "published"] += 1
        sizes = {name: len(data) for name, data in delta.items() if data is not None}
        self._spent(began_s, spent_s, self.every_s, sizes)

    async def look(self) -> None:
        """Serve the published snapshot if it is newer than what is served."""
        async with self._looking:
            began_s = time.monotonic()
            try:
                meta = (await self._store.look()).meta
                if meta is None or meta == self._seen:
                    return
                if self._reader.number_of(meta) == self._reader.number:
                    self._seen = meta
                    return
                stored = await self._store.load()
            except SnapshotError as error:
                self._refused(error, meta)
                return
            except CheckpointError as error:
                self._unavailable("no snapshot can be looked for: what is served goes on serving", error)
                return
            if stored is None:
                return
            try:
                await self._serve(stored.entries, began_s)
            except SnapshotError as error:
                self._refused(error, stored.meta)
            else:
                self._seen = stored.meta

    async def _serve(self, entries: dict[str, bytes], began_s: float) -> None:
        """Load what has changed, model by model, and put it in place.  Raises SnapshotError."""
        reader, spent_s, models = self._reader, 0.0, {}
        before, number = reader.head, reader.number
        started_s = time.perf_counter()
        opened = reader.opened(entries)
        spent_s += time.perf_counter() - started_s
        for name in opened.changed:
            await asyncio.sleep(0)
            started_s = time.perf_counter()
            models[name] = reader.model(opened, name)
            spent_s += time.perf_counter() - started_s
        async with self._models:
            if self._leads() or reader.head is not before or reader.number != number:
                return  # what is served has changed hands meanwhile
            reader.serve(opened, models)
        self._told_of(opened.head)
        self._taken_ms = opened.head.time_ms
        self.counts["snapshots", "served"] += 1
        sizes = {name: len(data) for name, data in opened.changed.items()}
        self._spent(began_s, spent_s, self.every_s / LOOKS, sizes)

    # -- what it costs, and what is told ------------------------------------------------------------

    def _spent(self, began_s: float, spent_s: float, every_s: float, sizes: dict[str, int]) -> None:
        """Set when the next one is due."""
        interval_s = max(every_s, spent_s / SHARE_MAX)
        self._due_s = began_s + interval_s
        self._last = SnapshotStatus(0.0, sum(sizes.values()), spent_s, max(interval_s, self.every_s))
        if interval_s > self._told_interval_s * TOLD_AGAIN:
            self._told_interval_s = interval_s
            log.warning(
                "snapshots of the models come less often: they may take a share of the time",
                seconds=round(spent_s, 3),
                share=SHARE_MAX,
                every_s=round(interval_s, 1),
                asked_s=self.every_s,
                bytes=self._last.bytes,
                largest=max(sizes, key=sizes.__getitem__, default=""),
                fix="bound the model, as by max_size of a tree, or ask for less: follow=",
            )

    def _refused(self, error: SnapshotError, meta: bytes | None) -> None:
        """Count and tell a snapshot that is not served, once."""
        self._seen = meta
        self.counts["snapshots", error.why] += 1
        log.error(
            "a snapshot of the models is refused: the one before goes on serving",
            why=error.why,
            reason=error.message,
            fix=error.hint,
            store=self._store.place,
        )

    def _unavailable(self, what: str, error: CheckpointError) -> None:
        self.counts["snapshots", "unavailable"] += 1
        if time.monotonic() - self._told_s > TOLD_EVERY_S:
            self._told_s = time.monotonic()
            log.warning(what, reason=error.message)

    @property
    def status(self) -> SnapshotStatus:
        """Return what a scrape shows."""
        age_s = 0.0 if self._leads() or not self._taken_ms else max(0.0, (_now_ms() - self._taken_ms) / 1000)
        return self._last._replace(age_s=age_s)

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
