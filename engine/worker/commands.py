"""Commands to a running worker, on their way from the commands topic to the loop.

Lives here: the queue, and the record of the examples log that a command becomes.  Never here: what a
command does (`operators/race/arena.py`), the topic (`app.py`), writing (`loop.py`).
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from topics import headers
from topics.codec import COMMAND_BYTES_MAX, command_id
from topics.messages import Outgoing

__all__ = ["Asked", "Commands"]

WAITING_MAX = 100
"""Commands that wait for the loop; more wait in their topic."""


class Asked(NamedTuple):
    """A command as a record, and the future that is resolved once the log has it."""

    record: Outgoing
    done: asyncio.Future[None]


class Commands:
    """Commands that wait to be written into the examples log."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[tuple[bytes, asyncio.Future[None]]] = asyncio.Queue(maxsize=WAITING_MAX)

    async def ask(self, value: bytes) -> None:
        """Queue the bytes of a command; returns when the examples log has it."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._waiting.put((value[: COMMAND_BYTES_MAX + 1], done))  # one too many is refused there
        await done

    def take(self, now_ms: int) -> Asked | None:
        """Return the next command, or None."""
        if self._waiting.empty():
            return None
        value, done = self._waiting.get_nowait()
        return Asked(
            Outgoing("examples", 0, command_id(value).encode(), value, headers.COMMAND, now_ms), done
        )
