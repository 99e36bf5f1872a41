"""The windows of sampled keys: those of the product, fed with these keys' raw events in order.

Lives here: which keys are in the sample, the limits of what is kept of them, and whether a key's windows hold
all that they should.  Never here: what is compared with what was served (`comparison.py`).

    event, key in the sample   ---> windows ---> values, as a worker's scorer has them
    event, beyond a limit      -x-> the key's windows are in doubt for as long as they look back

Memory: at most SAMPLED_KEYS_MAX keys and TOTAL_MAX entries of each key and source, ENTRIES_MAX of one key.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import attrgetter
from typing import Any, Final, NamedTuple
from zlib import crc32

from operators.language.fields import Aggregate
from operators.language.plan import FeaturePlan
from operators.language.window_kinds import Session
from operators.windows.features import Features, JoinedLabel
from topics.messages import Event, FeatureValue

__all__ = [
    "ENTRIES_MAX",
    "SAMPLED_KEYS_MAX",
    "UNREAD",
    "AggregateValues",
    "SampledKey",
    "SampledLabel",
    "SampledWindows",
    "in_sample",
]

ENTRIES_MAX: Final = 10_000
"""Entries of one key.  A key with more is not compared until the oldest of them have left its windows."""
SAMPLED_KEYS_MAX: Final = 100_000
"""Keys of one group; further ones are not compared.  A larger `one_in` samples fewer."""
TOTAL_MAX: Final = 1_000_000
"""Entries of one group, some 300 bytes each; a key that would exceed it is not compared for a while."""
UNREAD: Final = -1
"""In place of a label's offset, where no record said it."""

_NEVER_AGAIN: Final = 1 << 62

SampledKey = tuple[object, ...]
AggregateValues = dict[int, FeatureValue]
"""Values of aggregates by their number; what is missing is left out."""


def in_sample(key: SampledKey, one_in: int) -> bool:
    """Return whether a key is in the sample; the one key of all events always is.

    >>> [number for number in range(40) if in_sample((f"card-{number}",), 10)]
    [5, 6, 13, 23]
    """
    return not key or crc32(repr(key).encode()) % one_in == 0


class SampledLabel(NamedTuple):
    """A label that has met its event, of a key in the sample."""

    offset: int
    """In the labels log; UNREAD where no record said it."""
    watermark: int
    """The partition's when it was joined, ms."""
    joined: JoinedLabel


class SampledWindows:
    """All windows over the same key fields and source (`events` or `labels`), for sampled keys.

    `numbers` says under which number the value of each aggregate is returned.
    """

    def __init__(
        self,
        plan: FeaturePlan,
        keys: tuple[str, ...],
        source: str,
        numbers: Mapping[Aggregate, int],
        *,
        one_in: int,
        keys_max: int = SAMPLED_KEYS_MAX,
        total_max: int = TOTAL_MAX,
    ) -> None:
        groups = tuple(group for group in plan.groups if (group.keys, group.source) == (keys, source))
        aggregates = [aggregate for group in groups for aggregate in group.aggregates]
        self._plan = replace(
            plan,
            features=tuple((str(numbers[aggregate]), aggregate) for aggregate in aggregates),
            groups=groups,
            lookups=(),
            max_events_per_key=min(ENTRIES_MAX, plan.max_events_per_key),
        )
        self.source = source
        self.numbers = frozenset(numbers[aggregate] for aggregate in aggregates)
        self._features = Features(self._plan)
        self._trial = Features(self._plan)
        """Holds some labels of one key, for `read_before`."""
        self._empty = self._trial.snapshot()
        self._reach_ms = max(aggregate.reach_ms for aggregate in aggregates)
        self._has_sessions = any(isinstance(aggregate.span, Session) for aggregate in aggregates)
        self._newest: dict[SampledKey, int] = {}
        """Keys that have entries: the time of the newest."""
        self._labels: dict[SampledKey, deque[SampledLabel]] = {}
        """The labels of these keys, as they joined."""
        self._times: deque[int] = deque()
        """Times of all entries that a window may look at, as they entered."""
        self._unsure: dict[SampledKey, int] = {}
        """Until when a window of a key may hold, or lack, an entry wrongly, ms."""
        self._turned_away = -1
        """The same for new keys: until then some of their entries may have been left out for want of room."""
        self._one_in, self._keys_max, self._total_max = one_in, keys_max, total_max
        self._key_of = _key_of(keys)

    def key_of(self, value: Any) -> SampledKey | None:
        """Return the key of the user's event, None where it is not in the sample."""
        key = self._key_of(value)
        return key if in_sample(key, self._one_in) else None

    def is_complete(self, key: SampledKey, time: int) -> bool:
        """Return whether the windows of a key at `time` hold every entry that they should."""
        return time > self._unsure.get(key, -1 if key in self._newest else self._turned_away)

    def take(self, key: SampledKey, event: Event) -> AggregateValues:
        """Enter one event of a sampled key, if there is room; return the values of its windows."""
        if not self._has_room(key, event.event_time, event.watermark):
            return {}
        evicted = self._features.evicted_events
        values = self.read(event)
        if self._features.evicted_events > evicted:
            self.doubt(key, event.event_time)
        return values

    def read(self, event: Event) -> AggregateValues:
        """Return the values of an event's windows; the event enters windows over events."""
        return _numbered(self._features, event)

    def label_keys(self, event: Event) -> tuple[str | None, ...]:
        """Return the keys under which the label of an event enters."""
        return self._features.label_keys(event)

    def enter(self, key: SampledKey, label: SampledLabel) -> None:
        """Enter one label of a sampled key, if there is room."""
        time = label.joined.label_time
        if not self._has_room(key, time, label.watermark):
            return
        evicted = self._features.evicted_events
        self._features.step_labels([label.joined])
        kept = self._labels.setdefault(key, deque())
        kept.append(label)
        if not self._has_sessions:
            horizon = label.watermark - self._reach_ms
            while kept and kept[0].joined.label_time <= horizon:
                kept.popleft()
        if self._features.evicted_events > evicted or len(kept) > self._plan.max_events_per_key:
            self.doubt(key, time)
            kept.popleft()

    def offsets(self, key: SampledKey, time: int) -> set[int]:
        """Return the offsets of the labels of a key that are not after `time`."""
        labels = self._labels.get(key, ())
        return {one.offset for one in labels if one.joined.label_time <= time and one.offset != UNREAD}

    def read_before(self, key: SampledKey, event: Event, offset: int) -> AggregateValues:
        """Return the values of an event's windows with only the labels before `offset`."""
        self._trial.restore(self._empty)
        self._trial.step_labels([one.joined for one in self._labels.get(key, ()) if one.offset < offset])
        return _numbered(self._trial, event)

    def doubt(self, key: SampledKey, time: int) -> None:
        """Record that an entry at `time` may be missing from the windows of a key, or in them wrongly."""
        until = _NEVER_AGAIN if self._has_sessions else time + self._reach_ms
        if key in self._newest or len(self._unsure) < self._keys_max:
            self._unsure[key] = max(until, self._unsure.get(key, -1))
        else:
            self._turned_away = max(until, self._turned_away)

    def sweep(self, watermark: int) -> None:
        """Remove the keys whose entries no window can hold any more."""
        over = watermark - self._reach_ms
        self._unsure = {key: until for key, until in self._unsure.items() if until >= watermark}
        for key in [key for key, newest in self._newest.items() if newest <= over]:
            del self._newest[key]
            self._labels.pop(key, None)

    def _has_room(self, key: SampledKey, time: int, watermark: int) -> bool:
        """Return whether there is room for an entry; otherwise mark its key as doubtful."""
        times, over = self._times, watermark - self._reach_ms
        while times and times[0] <= over:
            times.popleft()
        is_new = key not in self._newest
        if len(times) >= self._total_max or (is_new and len(self._newest) >= self._keys_max):
            self.doubt(key, time)
            return False
        if is_new and self._turned_away >= time:
            self._unsure[key] = max(self._turned_away, self._unsure.get(key, -1))
        times.append(time)
        self._newest[key] = max(time, self._newest.get(key, time))
        return True


def _numbered(features: Features, event: Event) -> AggregateValues:
    (row,) = features.step_events([event])
    return {int(number): value for number, value in row.items()}


def _key_of(keys: tuple[str, ...]) -> Callable[[Any], SampledKey]:
    if not keys:
        return lambda _: ()
    get: Callable[[Any], Any] = attrgetter(*keys)
    return (lambda value: (get(value),)) if len(keys) == 1 else get
