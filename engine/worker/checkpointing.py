"""One checkpoint at a time, written while the loop goes on answering.

Lives here: what a checkpoint of everything owned consists of, and in which order it is written.
Never here: when one is due, what happens when it fails (`loop.py`); what one partition's says
(`partition.py`), how it is stored (`engine/stores`).

Strategy.  Writing takes 100 to 400 ms, nearly all of it waiting: for acknowledgements, for the end
of the logs, for the disk.  So a checkpoint is captured at one moment, where all that was made has
been sent, and written beside the loop.  What the loop makes meanwhile belongs to the next one:

    loop    .. answers | capture | answers ...............................| capture | ..
    beside                       acknowledged -> still owner -> stored -> committed

A capture takes the changes away from the state: if it cannot be written, the owner must end, or the
next checkpoint would lack them.  `finish` raises for that reason, and no capture is begun before.

A store that cannot be used now is waited for, and the loop goes on answering meanwhile; before each new try
the owner looks again whether it still is one.  So is a Redis that has yet to erase served features.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

import structlog

from engine.kafka.client import LogPartition
from engine.kafka.sink import Mark, Sink
from engine.kafka.source import Source
from engine.stores.online_features import ServedFeatures
from engine.worker.keyed.keyed_follower import AnyFollower
from engine.worker.owned_partitions import OwnedPartitions
from engine.worker.partition import PartitionDelta
from topics.errors import BrokerError, StoreUnavailableError

__all__ = ["CheckpointWriter"]

PAUSE_S = 0.5
"""Between two tries to write to a store that cannot be used."""
PATIENCE_S = 10.0
"""Where something waits for a checkpoint (a stop, a rebalance), this one waits so long for such a store."""
TOLD_EVERY_S = 60.0
"""A store that still cannot be used is told so often."""

log = structlog.get_logger("headrace")


class _Capture(NamedTuple):
    """The captured state of everything owned, as of one moment."""

    sent: Mark
    partitions: list[PartitionDelta]
    learned: Any
    """The follower's own: what its learners have changed."""
    positions: dict[LogPartition, int]
    """Where to read on in each topic."""


class CheckpointWriter:
    """Writes checkpoints; at most one is on its way."""

    def __init__(
        self,
        partitions: OwnedPartitions,
        follower: AnyFollower,
        source: Source,
        sink: Sink,
        served: ServedFeatures,
    ) -> None:
        self._partitions = partitions
        self._follower = follower
        self._source = source
        self._sink = sink
        self._served = served
        self._writing: asyncio.Task[None] | None = None
        self._refused_s: float | None = None
        """When the store could not be used first, for the checkpoint in flight."""
        self.took_s = 0.0
        """How long the last checkpoint took, from its capture to its commit."""

    @property
    def outage_s(self) -> float:
        """Return for how long the checkpoint in flight has waited for a store that cannot be used; 0: not."""
        return 0.0 if self._refused_s is None else time.monotonic() - self._refused_s

    @property
    def in_flight(self) -> bool:
        """Return whether a checkpoint was begun and has not been finished."""
        return self._writing is not None

    @property
    def ended(self) -> bool:
        """Return whether the checkpoint in flight has ended, written or failed: `finish` returns at once."""
        return self._writing is not None and self._writing.done()

    def begin(self) -> None:
        """Capture a checkpoint of every partition that is owned, and begin to write it.

        All that was made must have been sent, and nothing may score or learn meanwhile: this is
        synchronous for that reason.  The one before must be finished.
        """
        assert self._writing is None
        owned = self._partitions.owned.values()
        checkpoint = _Capture(
            self._sink.mark(),
            [partition.capture() for partition in owned],
            self._follower.capture(),
            {read: offset for partition in owned for read, offset in partition.positions().items()},
        )
        self._writing = asyncio.create_task(self._write(checkpoint))

    async def finish(self) -> None:
        """Wait for the checkpoint in flight, if any.

        Raises its error, once: ClaimError if another owner has fenced, BrokerError or CheckpointError
        otherwise, StoreUnavailableError if the store cannot be used for as long as PATIENCE_S.  After any of
        them the state in memory must not be saved.
        """
        writing, began_s = self._writing, time.monotonic()
        if writing is None:
            return
        while not writing.done():
            await asyncio.wait({writing}, timeout=PAUSE_S)
            if self.outage_s and time.monotonic() - began_s > PATIENCE_S and not writing.done():
                await self.abandon()
                raise StoreUnavailableError(
                    f"the store of checkpoints could not be used for {PATIENCE_S:g} s: what was done since"
                    " the last checkpoint is not saved",
                    hint="nothing is lost: the next owner does it again; bring the store back",
                )
        self._writing = None
        writing.result()

    async def abandon(self) -> None:
        """Cancel the checkpoint in flight, with the effect of a crash at this moment."""
        self._refused_s = None
        writing, self._writing = self._writing, None  # whoever waits in `finish` finds nothing any more
        if writing is not None:
            writing.cancel()
            await asyncio.wait({writing})
            if not writing.cancelled():
                writing.exception()

    async def _write(self, checkpoint: _Capture) -> None:
        """Wait for acknowledgements, check the ownership, store, commit: in this order."""
        began_s = time.monotonic()
        # 4 flush
        written = await self._sink.written_to(checkpoint.sent)
        await self._served.drain()
        await self._until_stored(self._served.erased)
        # 5 checkpoint
        self._follower.check_written(checkpoint.learned, written)
        for captured in checkpoint.partitions:
            await self._until_stored(partial(captured.partition.save, captured, written))
        await self._until_stored(partial(self._follower.save, checkpoint.learned))
        # 6 commit
        try:
            await self._source.commit(checkpoint.positions)
        except BrokerError as error:
            log.warning("offsets were not committed; lag tools see old ones", reason=str(error))
        self.took_s = time.monotonic() - began_s

    async def _until_stored(self, save: Callable[[], Awaitable[None]]) -> None:
        """Save, again and again while the store cannot be used."""
        told_s = 0.0
        while True:
            try:
                await save()
            except StoreUnavailableError as error:
                if self._refused_s is None:
                    self._refused_s = time.monotonic()
                if time.monotonic() - told_s > TOLD_EVERY_S:
                    told_s = time.monotonic()
                    log.warning("checkpoints wait for the store", reason=error.message)
                await asyncio.sleep(PAUSE_S)
            else:
                break
        if self._refused_s is not None:
            log.info("the store takes checkpoints again", after_s=round(self.outage_s, 1))
            self._refused_s = None
