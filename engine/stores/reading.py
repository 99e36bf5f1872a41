"""How far the reading of a checkpoint has come, told while it goes on.

Lives here: the line in the log, and how often.  Never here: what is read (`sqlite_checkpoints.py`,
`redis_checkpoints.py`), what a partition is afterwards ("partition claimed").
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

__all__ = ["READING_TOLD_S", "Reading"]

READING_TOLD_S = 2.0
"""A checkpoint that is being read says so often how far it has come; a small one is read sooner."""

log = structlog.get_logger("headrace")


class Reading:
    """What has been read so far of the `of` entries of the checkpoint at `place`.

    Entries kept apart are among them where reading copies them.
    """

    def __init__(self, place: str, of: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._place = place
        self._of = of
        self._clock = clock
        self._told_s = clock()
        self._entries = self._bytes = 0

    def add(self, entries: int, size: int) -> None:
        """Add what was read since the last call, names and values; log the sum if it is time."""
        self._entries += entries
        self._bytes += size
        now_s = self._clock()
        if now_s - self._told_s >= READING_TOLD_S:
            self._told_s = now_s
            log.info(
                "restoring a checkpoint",
                place=self._place,
                entries=self._entries,
                of=self._of,
                bytes=self._bytes,
            )
