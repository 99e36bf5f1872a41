"""Who listens to the page, and what each of them is sent: server-sent events.

Lives here: when a part is made (once for all, while somebody listens), what waits for a slow client.  Never
here: how many may listen and for how long (`engine/host/pages.py`), what a part says (`facts.py`).

Strategy: every part is whole, so of each only the newest waits for a client: whoever reads slowly sees fewer
moments, each of them right, and what waits is bounded by the number of parts.  What a client was sent already
is not sent again before it changes.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, NamedTuple

import structlog

__all__ = ["SNAPSHOT_S", "PageStream", "Part"]

SNAPSHOT_S: Final = 1.0
"""Between two looks at the worker; people read no faster."""

log = structlog.get_logger("headrace")


class Part(NamedTuple):
    """One kind of event of the stream."""

    event: str
    make: Callable[[], bytes]
    """Its JSON, on one line."""
    every_s: float = SNAPSHOT_S
    of_persons: bool = False
    """Whether only those get it who may see what is about persons."""


class _Listener:
    """One client: the newest of each part that it has not taken."""

    def __init__(self, *, sees_persons: bool) -> None:
        self.sees_persons = sees_persons
        self._waiting: dict[str, bytes] = {}
        self._sent: dict[str, bytes] = {}
        self._woken = asyncio.Event()
        self._ended = False

    def put(self, event: str, data: bytes) -> bool:
        """Hand over a part; return whether one before it had not been taken."""
        if self._sent.get(event) == data:
            return False
        behind = event in self._waiting
        self._waiting[event] = self._sent[event] = data
        self._woken.set()
        return behind

    def end(self) -> None:
        """Say that nothing comes any more."""
        self._ended = True
        self._woken.set()

    async def take(self) -> bytes | None:
        """Return all parts that wait, as events; None where nothing comes any more."""
        await self._woken.wait()
        self._woken.clear()
        if self._ended:
            return None
        waiting, self._waiting = self._waiting, {}
        return b"".join(
            b"event: %b\ndata: %b\n\n" % (event.encode(), data) for event, data in waiting.items()
        )


class PageStream:
    """The parts of a page, told to all who listen; nothing is made where nobody does."""

    def __init__(
        self, parts: Sequence[Part], counts: Counter[tuple[str, str]], *, counted_as: tuple[str, str]
    ) -> None:
        """What a client that reads too slowly has missed is counted in `counts` under `counted_as`."""
        self._parts, self._counts, self._counted_as = parts, counts, counted_as
        self._listeners: set[_Listener] = set()
        self._made: dict[str, tuple[float, bytes]] = {}
        """Each part as it was made last, and when, of a monotonic clock; empty where nobody listens."""
        self._telling: asyncio.Task[None] | None = None

    async def listen(self, sees_persons: bool) -> AsyncGenerator[bytes]:
        """Yield events until the client has gone, or a part could not be made."""
        listener = _Listener(sees_persons=sees_persons)
        for part in self._parts_for(listener):
            if part.event in self._made:
                listener.put(part.event, self._made[part.event][1])
        self._listeners.add(listener)
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell())
        try:
            while (events := await listener.take()) is not None:
                yield events
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                self._stop()

    def _parts_for(self, listener: _Listener) -> list[Part]:
        return [part for part in self._parts if listener.sees_persons or not part.of_persons]

    def _stop(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
        self._telling = None
        self._made.clear()

    async def _tell(self) -> None:
        """Make what is due, once a second, until cancelled; a part that cannot be made ends all listening."""
        try:
            while True:
                self._tell_once(time.monotonic())
                await asyncio.sleep(SNAPSHOT_S)
        except Exception:  # whatever is wrong with a page, the worker goes on
            log.exception("the page could not be made")
            for listener in self._listeners:
                listener.end()

    def _tell_once(self, now_s: float) -> None:
        for part in self._parts:
            listeners = [one for one in self._listeners if one.sees_persons or not part.of_persons]
            made_s, data = self._made.get(part.event, (float("-inf"), b""))
            if not listeners:
                continue
            if now_s - made_s >= part.every_s - SNAPSHOT_S / 2:
                data = part.make()
                self._made[part.event] = now_s, data
            for listener in listeners:
                if listener.put(part.event, data):
                    self._counts[self._counted_as] += 1
