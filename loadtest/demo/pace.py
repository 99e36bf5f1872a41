"""How fast the demo's feed may go: at two thirds of what the worker can do, or as fast as it can.

Lives here: rates and bounds, from figures that are handed in.  Never here: clocks, publishing (`race.py`).

Strategy.  A saturated worker answers late, however fast it is: its queue is the latency.  So the feed keeps
to a share of its capacity, and finds that without loading it.  The worker's page tells how long its steps
have taken: answers per second of steps, times the part of the time that a saturated worker is in steps.

    page         answered 4,000   steps 2.10 s
    0.5 s later  answered 4,450   steps 2.37 s     450 / 0.27 s * 0.9 = 1,500/s, so the rate is 1,000/s

A slow or a busy machine needs longer for a step and so gets a lower rate.  Where the worker falls behind all
the same, because something else holds it up, the feed waits for it (`ahead_max`).
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

__all__ = ["FeedPace", "Flood", "TwoThirds"]

SHARE = 2 / 3
"""Of the worker's capacity."""
STEPS_SHARE = 0.9
"""Of a saturated worker's time, measured under `--flood`: the rest goes into polling, sending, saving."""
RATE_FIRST = 200.0
"""Events per second before the worker has told anything: little for any machine."""
RATE_MIN = 20.0
RISE_MAX = 1.5
"""From one page to the next the rate grows by no more: what the first events cost says little."""
PAGES = 7
"""Pages that the capacity is taken from: about the last three seconds."""
BEHIND_S = 0.25
"""So many seconds' events may be without an answer; beyond that the feed waits."""
BEHIND_EVENTS_MIN = 32
FLOOD_AHEAD_MAX = 4_096
"""Records of both topics always wait, so that the worker never meets the end of one of them."""


class FeedPace(Protocol):
    """What a feed goes by."""

    backlog: bool
    """Whether there is always more than the worker can do."""

    @property
    def rate(self) -> float:
        """Events per second."""
        ...

    @property
    def ahead_max(self) -> int:
        """Events without an answer from which on the feed waits."""
        ...

    def see(self, answered: int, busy_s: float) -> None:
        """Take the worker's totals: events answered, seconds spent in steps."""
        ...


class TwoThirds:
    """A rate of two thirds of the worker's capacity, `rate_max` at most.

    >>> pace = TwoThirds(rate_max=10_000)
    >>> pace.see(0, 0.0)
    >>> for page in range(1, 20):
    ...     pace.see(450 * page, 0.27 * page)
    >>> round(pace.rate)
    1000
    """

    backlog = False

    def __init__(self, rate_max: float) -> None:
        self._rate_max = rate_max
        self._rate = min(RATE_FIRST, rate_max)
        self._pages: deque[tuple[int, float]] = deque(maxlen=PAGES)

    @property
    def rate(self) -> float:
        """Events per second."""
        return self._rate

    @property
    def ahead_max(self) -> int:
        """Events without an answer from which on the feed waits."""
        return max(BEHIND_EVENTS_MIN, round(self._rate * BEHIND_S))

    def see(self, answered: int, busy_s: float) -> None:
        """Take the worker's totals: events answered, seconds spent in steps."""
        self._pages.append((answered, busy_s))
        answers, seconds = answered - self._pages[0][0], busy_s - self._pages[0][1]
        if answers > 0 and seconds > 0:
            wanted = SHARE * STEPS_SHARE * answers / seconds
            self._rate = min(max(wanted, RATE_MIN), self._rate * RISE_MAX, self._rate_max)


class Flood:
    """As fast as the worker takes it, `rate_max` at most: how a saturated worker answers."""

    backlog = True

    def __init__(self, rate_max: float) -> None:
        self.rate = rate_max
        self.ahead_max = FLOOD_AHEAD_MAX

    def see(self, answered: int, busy_s: float) -> None:
        """Do nothing: the pace is not the worker's."""
