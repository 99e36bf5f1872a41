"""How long events wait for their answers, seen from outside."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

LOOK_S = 0.1


@dataclass
class Waits:
    """The times from each event to its answer, and how many events were waiting meanwhile."""

    seconds: list[float] = field(default_factory=list)
    """Of every event that was answered, as the answers came; exact to a look."""
    backlogs: list[int] = field(default_factory=list)
    """Events published and not answered, at each look."""
    silence_s: float = 0.0
    """The longest time in which events waited and none was answered."""
    _open: dict[str, float] = field(default_factory=dict)
    _known: int = 0
    _answered_s: float = 0.0

    def look(self, now_s: float, published_s: Sequence[float], counts: Mapping[str, int]) -> None:
        """Take one look: `published_s[N]` is the time of the event `rN`, `counts` how often answers count.

        >>> waits = Waits()
        >>> waits.look(10.0, [8.0, 9.0, 9.5], {"r0": 1})
        >>> waits.look(12.0, [8.0, 9.0, 9.5], {"r0": 1, "r2": 1})
        >>> waits.seconds, waits.backlogs, waits.silence_s
        ([2.5], [2, 1], 2.0)
        """
        quiet = not self._open
        fresh = {f"r{n}": published_s[n] for n in range(self._known, len(published_s))}
        if not self.backlogs:  # what was answered before the first look is not known
            fresh = {event_id: then_s for event_id, then_s in fresh.items() if not counts.get(event_id)}
        self._open |= fresh
        self._known = len(published_s)
        answered = [event_id for event_id in self._open if counts.get(event_id)]
        if self._open and not quiet:
            self.silence_s = max(self.silence_s, now_s - self._answered_s)
        if answered or quiet:
            self._answered_s = now_s
        self.seconds += [now_s - self._open.pop(event_id) for event_id in answered]
        self.backlogs.append(len(self._open))


@asynccontextmanager
async def waiting(
    published_s: Sequence[float], counts: Callable[[], Mapping[str, int]]
) -> AsyncIterator[Waits]:
    """Look ten times a second in the background."""
    waits = Waits()

    async def looking() -> None:
        while True:
            waits.look(time.monotonic(), published_s, counts())
            await asyncio.sleep(LOOK_S)

    task = asyncio.create_task(looking())
    try:
        yield waits
    finally:
        task.cancel()
        await asyncio.wait({task})


def quantile(values: Iterable[float], share: float) -> float:
    """Return the least value that no less than this share of them does not exceed; nan of none.

    >>> quantile([3, 1, 2, 4], 0.5), quantile([3, 1, 2, 4], 0.99)
    (2, 4)
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
