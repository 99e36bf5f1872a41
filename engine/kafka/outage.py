"""Waits for an answer of Kafka: how long the oldest has taken, and the log lines about a long one.

Lives here: the waits of this process that are under way.  Never here: the
waits' deadlines and what is tried again (`client.py`, `sink.py`), what a worker does meanwhile
(nothing: it holds still, and goes on where it stands).

One process speaks to one cluster, so there is one list of waits.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

import structlog

__all__ = ["NOTICED_S", "BrokerWait", "answered_s", "log_outages", "unanswered_s"]

NOTICED_S = 5.0
"""A wait this long is logged: brokers answer within milliseconds, and elect a new leader within seconds."""
LOOK_S = 1.0
LOGGED_EVERY_S = 60.0
"""Often enough to see that it goes on."""

log = structlog.get_logger("headrace")

_since_s: dict[BrokerWait, float] = {}
"""Waits under way, the oldest first."""
_answered_s = 0.0


class BrokerWait:
    """A wait for an answer of a broker, for as long as the block takes.

    >>> with BrokerWait():
    ...     unanswered_s()
    0.0
    """

    __slots__ = ()

    def __enter__(self) -> None:
        """Begin."""
        _since_s[self] = time.monotonic()

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, answered or not."""
        global _answered_s  # noqa: PLW0603 - of the process, as the waits are
        del _since_s[self]
        _answered_s = time.monotonic()


def unanswered_s() -> float:
    """Return how long the oldest wait has taken by now, in seconds; 0.0 below `NOTICED_S`."""
    oldest_s = next(iter(_since_s.values()), None)
    if oldest_s is None:
        return 0.0
    silent_s = time.monotonic() - oldest_s
    return silent_s if silent_s >= NOTICED_S else 0.0


def answered_s() -> float:
    """Return when the last wait ended, by the monotonic clock."""
    return _answered_s


async def log_outages(deadline_ms: int) -> None:
    """Log for ever, at once and then every minute, that no broker answers, and that one does again."""
    said_s: float | None = None
    silent_s = 0.0
    while True:
        await asyncio.sleep(LOOK_S)
        now_s, longer_s = time.monotonic(), unanswered_s()
        if longer_s and (said_s is None or now_s - said_s >= LOGGED_EVERY_S):
            log.warning(
                "no broker answers: holding still",
                silent_s=round(longer_s),
                gives_up_after_s=deadline_ms // 1000,
            )
            said_s = now_s
        elif not longer_s and said_s is not None:
            log.warning("a broker answers again", silent_s=round(silent_s))
            said_s = None
        silent_s = longer_s
