"""The raw entries of sampled keys: what a recomputation needs, and no more.

Lives here: which keys are in the sample, and what is kept of them for how long.  Never here: what is
computed of it (`recompute.py`), which events enter (`comparison.py`).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final
from zlib import crc32

from operators.language.fields import Aggregate
from operators.language.window_kinds import Session
from operators.skew.recompute import Entry

__all__ = ["ENTRIES_MAX", "KEYS_MAX", "SampledGroup", "SampledKey", "in_sample"]

ENTRIES_MAX: Final = 10_000
"""Entries of one key: each of its events reads them all.  A key with as many is not looked at any more."""
KEYS_MAX: Final = 100_000
"""Keys of one group; further ones are not looked at.  Ask for one in more where it comes to this."""
TOTAL_MAX: Final = 1_000_000
"""Entries of one group, some 300 bytes each; a key that would add to them is not looked at any more."""

SampledKey = tuple[object, ...]


def in_sample(key: SampledKey, one_in: int) -> bool:
    """Return whether a key is looked at; the one key of all events always is.

    >>> [number for number in range(40) if in_sample((f"card-{number}",), 10)]
    [5, 6, 13, 23]
    """
    return not key or crc32(repr(key).encode()) % one_in == 0


class SampledGroup:
    """All windows over the same key fields and source."""

    def __init__(
        self, keys: tuple[str, ...], source: str, *, one_in: int, entries_max: int, total_max: int = TOTAL_MAX
    ) -> None:
        self.source = source
        self.entries: dict[SampledKey, list[Entry]] = {}
        """In order of time, ties as they entered."""
        self.given_up: set[SampledKey] = set()
        """Keys that had too many entries."""
        self._unsure: dict[SampledKey, int] = {}
        """Of keys in `entries`: until when a window may hold one of which nobody knows if it entered, ms."""
        self._one_in, self._entries_max, self._total_max = one_in, entries_max, total_max
        self._total = 0
        self._reach_ms: int | None = 0
        self._key_of = _key_of(keys)

    def reaches(self, aggregate: Aggregate) -> None:
        """Take one more window in; a session may be looked at for ever."""
        if isinstance(aggregate.span, Session):
            self._reach_ms = None
        elif self._reach_ms is not None:
            self._reach_ms = max(self._reach_ms, aggregate.reach_ms)

    def key_of(self, value: Any) -> SampledKey | None:
        """Return an event's key, None where it is not in the sample."""
        key = self._key_of(value)
        if not in_sample(key, self._one_in) or (key not in self.entries and len(self.entries) >= KEYS_MAX):
            return None
        return key

    def enter(self, key: SampledKey, entry: Entry, watermark: int) -> None:
        """Keep one entry of a key in the sample."""
        if key in self.given_up:
            return
        entries = self.entries.setdefault(key, [])
        insort(entries, entry, key=lambda entry: entry.time)
        self._total += 1
        self._trim(entries, watermark)
        if len(entries) >= self._entries_max or self._total > self._total_max:
            self._give_up(key)

    def _give_up(self, key: SampledKey) -> None:
        self.given_up.add(key)
        self._total -= len(self.entries[key])
        self.entries[key].clear()

    def doubt(self, key: SampledKey, time: int) -> None:
        """Take note that an entry at `time` may have entered, or not."""
        self.entries.setdefault(key, [])
        if self._reach_ms is None:
            self._give_up(key)
        else:
            self._unsure[key] = max(time + self._reach_ms, self._unsure.get(key, 0))

    def is_known(self, key: SampledKey, time: int) -> bool:
        """Return whether the entries that windows at `time` look at are all that there are."""
        return key not in self.given_up and time > self._unsure.get(key, -1)

    def sweep(self, watermark: int) -> None:
        """Forget keys of which no entry can be looked at any more."""
        self._unsure = {key: until for key, until in self._unsure.items() if until >= watermark}
        for key in list(self.entries):
            self._trim(self.entries[key], watermark)
            if not self.entries[key] and key not in self.given_up and key not in self._unsure:
                del self.entries[key]

    def _trim(self, entries: list[Entry], watermark: int) -> None:
        if self._reach_ms is None:
            return
        over, horizon = 0, watermark - self._reach_ms
        while over < len(entries) and entries[over].time <= horizon:
            over += 1
        del entries[:over]
        self._total -= over


def _key_of(keys: tuple[str, ...]) -> Callable[[Any], SampledKey]:
    if not keys:
        return lambda _: ()
    get: Callable[[Any], Any] = attrgetter(*keys)
    return (lambda value: (get(value),)) if len(keys) == 1 else get
