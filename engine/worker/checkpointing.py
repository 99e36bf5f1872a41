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
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import structlog

from engine.kafka.client import LogPartition
from engine.kafka.sink import Mark, Sink
from engine.kafka.source import Source
from engine.stores.online_features import ServedFeatures
from engine.worker.follower import Follower, LearnerDelta
from engine.worker.owned_partitions import OwnedPartitions
from engine.worker.partition import PartitionDelta
from topics.errors import BrokerError

__all__ = ["CheckpointWriter"]

log = structlog.get_logger("headrace")


class _Capture(NamedTuple):
    """The captured state of everything owned, as of one moment."""

    sent: Mark
    partitions: list[PartitionDelta]
    learned: LearnerDelta
    positions: dict[LogPartition, int]
    """Where to read on in each topic."""


class CheckpointWriter:
    """Writes checkpoints; at most one is on its way."""

    def __init__(
        self,
        partitions: OwnedPartitions,
        follower: Follower,
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
        otherwise.  After any of them the state in memory must not be saved.
        """
        writing = self._writing
        if writing is not None:
            await asyncio.wait({writing})
            self._writing = None
            writing.result()

    async def abandon(self) -> None:
        """Cancel the checkpoint in flight, with the effect of a crash at this moment."""
        writing, self._writing = self._writing, None  # whoever waits in `finish` finds nothing any more
        if writing is not None:
            writing.cancel()
            await asyncio.wait({writing})
            if not writing.cancelled():
                writing.exception()

    async def _write(self, checkpoint: _Capture) -> None:
        """Wait for acknowledgements, check the ownership, store, commit: in this order."""
        # 4 flush
        written = await self._sink.written_to(checkpoint.sent)
        await self._served.drain()
        # 5 checkpoint
        self._follower.check_written(checkpoint.learned, written)
        for captured in checkpoint.partitions:
            await captured.partition.save(captured, written)
        await self._follower.save(checkpoint.learned)
        # 6 commit
        try:
            await self._source.commit(checkpoint.positions)
        except BrokerError as error:
            log.warning("offsets were not committed; lag tools see old ones", reason=str(error))
