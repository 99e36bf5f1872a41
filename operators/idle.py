"""When the keys of a group are forgotten: those with nothing left in the longest window.

Lives here: keys by the time at which somebody must look after them.  Never here: what a key keeps
(`windows.py`, `keyed.py`), clocks.

Strategy: keys wait in the span of time of their newest entry when they were filed.  A span that is over
is opened once: who has moved on is filed again, the rest is gone.  So each entry pays for at most
one filing, and a key goes at the same watermark whenever it was filed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["LONG_AGO", "IdleKeys"]

SPANS: Final = 64
"""Idle keys are looked for this often per longest window: memory stays small and looking is free."""
LONG_AGO: Final = -(2**62)
"""Before all times."""


class IdleKeys:
    """Keys of which the newest entry may be `width_ms` behind the watermark.

    >>> idle, newest = IdleKeys(width_ms=64), {"a": 0, "b": 5}
    >>> for key, time in newest.items():
    ...     idle.file(key, time)
    >>> idle.due_ms, list(idle.passed(64, newest.__getitem__))
    (64, [('a', False)])
    """

    __slots__ = ("_keys", "_span_ms", "_width_ms", "due_ms")

    def __init__(self, width_ms: int) -> None:
        self.due_ms = -LONG_AGO
        """Watermark at which `passed` has something to tell."""
        self._width_ms = width_ms
        self._span_ms = max(1, width_ms // SPANS)
        self._keys: dict[int, list[str]] = {}

    def file(self, key: str, time: int) -> None:
        """Look after a key whose newest entry is at `time`."""
        span = time // self._span_ms
        if (waiting := self._keys.get(span)) is None:
            self._keys[span] = [key]
            self._set_due()
        else:
            waiting.append(key)

    def passed(self, watermark: int, newest_of: Callable[[str], int]) -> Iterator[tuple[str, bool]]:
        """Open the spans that are over at `watermark`; yield each key, and whether it has moved on.

        `newest_of` tells the time of a key's newest entry.  Who has not moved on is looked after no more.
        """
        while watermark >= self.due_ms:
            span = min(self._keys)
            for key in self._keys.pop(span):
                span_now = newest_of(key) // self._span_ms
                if span_now > span:
                    self._keys.setdefault(span_now, []).append(key)
                yield key, span_now > span
            self._set_due()

    def clear(self) -> None:
        """Look after nobody."""
        self._keys.clear()
        self._set_due()

    def _set_due(self) -> None:
        spans = self._keys
        self.due_ms = (min(spans) + 1) * self._span_ms - 1 + self._width_ms if spans else -LONG_AGO
