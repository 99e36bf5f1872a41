"""Exact windows read from slices of a key's log: what needs the values themselves.

Lives here: logs of any values, and the aggregates that cannot be kept running: quantiles, counts of
different values, the event with the largest.  Never here: keys (`keyed.py`), running sums (`windows.py`).

    log of one key             t0  t1  t2  t3  t4  t5      an event at t5
    (t5 - 1h, t5]                      [-----------]       a sliding window
    shift="1h"             [-----------]                   the same, ending an hour before t5
    tumbling("1h")                         |   [---]       from the full hour, which is inside
    last_n(2)                                  [---]       the last two entries

Cost: an event reads every entry of each of its windows: O(entries), at the speed of C loops.  Large windows
of values that can be followed (`running.py`) cost what enters and leaves, unless the event is out of order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from math import fsum, sqrt
from typing import Any, Final

import msgspec

from operators.exact import variance_of
from operators.kernels import Target
from operators.keyed import Row
from operators.language.fields import Aggregate
from operators.language.window_kinds import LastN, Tumbling
from operators.running import FOLLOWERS, quantile_of_ordered, shares_entropy

__all__ = ["Log", "Slices", "entropy_of", "mode_of", "quantile_of"]

FOLLOW_MIN: Final = 64
"""A window of this many entries is followed; a smaller one is read as fast."""
TRIM_MIN: Final = 8
"""Forgotten entries are cut off a list when they are this many and half of it."""

Values = list[Any]
Bounds = Callable[[list[int], int, int, int], int]
"""(times, first entry kept, position after the last to see, time of the window's end) -> first inside."""


class Log:
    """What one key keeps: times in order, and rows laid end to end; entries before `base` are forgotten."""

    __slots__ = ("base", "followed", "times", "values")

    def __init__(self, times: list[int], values: Values) -> None:
        self.times = times
        self.values = values
        self.base = 0
        self.followed: dict[int, _Followed] = {}
        """Derived: per reader, the window that is followed."""


class _Followed:
    """A window that is followed: the entries from `start` to `end` are inside."""

    __slots__ = ("end", "inside", "offset", "start")

    def __init__(self, start: int, end: int, inside: Any, offset: int) -> None:
        self.start = start
        self.end = end
        self.inside = inside
        self.offset = offset


class Slices:
    """How one group's logs are kept and read: a `Kept`.

    `columns` name the values of a row (None: the label's); `event_max` bounds a key's entries, the
    oldest make room.  All windows end `shift_ms` before the event.

    >>> from operators.language.by import by
    >>> from operators.keyed import Keyed
    >>> from topics.messages import Event
    >>> shops, usual = by("card").distinct("shop", "1h"), by("card").mode("shop", "1h")
    >>> hour = Keyed(Slices(["shop"], [Target("n", shops), Target("usual", usual)], event_max=100))
    >>> for time, shop in enumerate(["a", "b", "b"]):
    ...     out = {}
    ...     hour.step("alice", Event("id", time, "alice", None, offset=0, watermark=time), (shop,), out)
    ...     print(out)
    {'n': 1, 'usual': 'a'}
    {'n': 2, 'usual': 'b'}
    {'n': 2, 'usual': 'b'}
    """

    def __init__(self, columns: Sequence[str | None], targets: Sequence[Target], event_max: int) -> None:
        self._stride = len(columns)
        self._event_max = event_max
        self._shift_ms = targets[0].aggregate.shift_ms
        self.reach_ms = max(target.aggregate.reach_ms for target in targets)
        before = [target for target in targets if _leaves_out(target.aggregate)]
        after = [target for target in targets if not _leaves_out(target.aggregate)]
        self._before = [_reader(target, columns, number) for number, target in enumerate(before)]
        self._after = [_reader(target, columns, number) for number, target in enumerate(after, len(before))]

    def new(self) -> Log:
        """Return a log without entries."""
        return Log([], [])

    def enter(self, log: Log, time: int, watermark: int, row: Row) -> int:
        """Put an entry in its place, behind those of equal time; forget what is over or too much."""
        times, values, stride = log.times, log.values, self._stride
        base, end, horizon = log.base, len(log.times), watermark - self.reach_ms
        while base < end and times[base] <= horizon:
            base += 1
        evicted = end - base >= self._event_max
        log.base = base = base + evicted
        if base >= TRIM_MIN and base * 2 >= end:
            del times[:base], values[: base * stride]
            end -= base
            log.base = 0
            _shift(log, base)
        if end == log.base or times[-1] <= time:
            times.append(time)
            values += row
        else:
            place = bisect_right(times, time, log.base)
            times.insert(place, time)
            values[place * stride : place * stride] = row
            _insert(log, place, row)
        return evicted

    def look(self, log: Log, time: int, out: dict[Any, Any]) -> None:
        """Write what leaves the event itself out."""
        if self._before:
            self._read(self._before, log, time, out)

    def read(self, log: Log, time: int, out: dict[Any, Any]) -> None:
        """Write all other windows that end at `time`."""
        self._read(self._after, log, time, out)

    def _read(self, readers: Sequence[_Reader], log: Log, time: int, out: dict[Any, Any]) -> None:
        time -= self._shift_ms
        times = log.times
        end = len(times) if not times or times[-1] <= time else bisect_right(times, time, log.base)
        for reader in readers:
            reader(log, end, time, out)

    def seen_late(self, log: Log, time: int, watermark: int) -> Log:
        """Return a copy of what is kept up to `time`."""
        base = bisect_right(log.times, watermark - self.reach_ms, log.base)
        end = bisect_right(log.times, time, base)
        return Log(log.times[base:end], log.values[base * self._stride : end * self._stride])

    def newest(self, log: Log) -> int:
        """Return the time of the newest entry."""
        return log.times[-1]

    def dump(self, log: Log) -> bytes:
        """Return the entries that are kept."""
        times = log.times[log.base :]
        steps = [times[0], *(after - before for before, after in pairwise(times))]
        return _pack((steps, log.values[log.base * self._stride :]))

    def load(self, data: bytes) -> Log:
        """Return the log that `dump` gave."""
        steps, values = _decode(data)
        return Log(list(accumulate(steps)), values)


_Reader = Callable[[Log, int, int, dict[Any, Any]], None]
_Reduction = Callable[[Log, int, int, int], Any]
"""(log, first entry inside, position after the last, time of the window's end) -> value or None."""
_pack = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[int], list[int | float | bool | str | None]]).decode


def _leaves_out(aggregate: Aggregate) -> bool:
    """Return whether the event itself is left out; it is no previous event of its own."""
    return not aggregate.include_current or aggregate.kind == "since_last"


def _reader(target: Target, columns: Sequence[str | None], number: int) -> _Reader:
    """Return how one aggregate is read."""
    name, aggregate, has_default = target
    first = _bounds(aggregate)
    reduce = _reduction(aggregate, columns)
    if aggregate.kind in FOLLOWERS:
        reduce = _following(reduce, aggregate, columns, number)

    def read(log: Log, end: int, time: int, out: dict[Any, Any]) -> None:
        start = first(log.times, log.base, end, time)
        found = reduce(log, start, end, time)
        if found is not None:
            out[name] = found
        elif not has_default:
            out.pop(name, None)

    return read


def _bounds(aggregate: Aggregate) -> Bounds:
    """Return how the first entry of a window is found."""
    width = aggregate.window_ms
    match aggregate.span:
        case Tumbling():
            return lambda times, base, end, time: bisect_left(times, time // width * width, base, end)
        case LastN(count):

            def last(times: list[int], base: int, end: int, time: int) -> int:
                return max(bisect_right(times, time - width, base, end), end - count)

            return last
        case _:
            return lambda times, base, end, time: bisect_right(times, time - width, base, end)


def _reduction(aggregate: Aggregate, columns: Sequence[str | None]) -> _Reduction:
    """Return how entries `start` to `end` become one value, None where it is missing."""
    kind, stride, width = aggregate.kind, len(columns), aggregate.window_ms
    if kind == "count":
        return lambda _log, start, end, _time: end - start
    if kind == "rate":
        return lambda _log, start, end, _time: (end - start) * 1000 / width
    if kind == "since_last":
        return lambda log, start, end, time: time - log.times[end - 1] if end > start else None
    offset = columns.index(aggregate.column)
    if aggregate.by_column is not None:
        other, sign = columns.index(aggregate.by_column), 1 if kind == "arg_max" else -1

        def extreme(log: Log, start: int, end: int, _time: int) -> Any:
            values = log.values[start * stride : end * stride]
            pairs = list(zip(values[other::stride], values[offset::stride], strict=True))[::-1]
            pairs = [pair for pair in pairs if None not in pair]
            return max(pairs, key=lambda pair: pair[0] * sign)[1] if pairs else None

        return extreme
    if kind in ("first", "last"):
        return _end(offset, stride, is_first=kind == "first")
    reduce = REDUCTIONS[kind]
    empty = 0.0 if kind == "sum" else 0 if kind == "distinct" else None
    argument = aggregate.argument

    def reduced(log: Log, start: int, end: int, _time: int) -> Any:
        found = log.values[start * stride + offset : end * stride : stride]
        if None in found:
            found = [value for value in found if value is not None]
        return reduce(found, argument) if found else empty

    return reduced


def _end(offset: int, stride: int, *, is_first: bool) -> _Reduction:
    """Return how the oldest or the newest value that is present is found."""

    def end_of(log: Log, start: int, end: int, _time: int) -> Any:
        values = log.values
        for place in range(start, end) if is_first else range(end - 1, start - 1, -1):
            if (found := values[place * stride + offset]) is not None:
                return found
        return None

    return end_of


def _following(
    reduce: _Reduction, aggregate: Aggregate, columns: Sequence[str | None], number: int
) -> _Reduction:
    """Return `reduce` as it is for small windows and steps back, by following the window otherwise."""
    stride, offset, argument = len(columns), columns.index(aggregate.column), aggregate.argument
    make, value = FOLLOWERS[aggregate.kind]

    def followed(log: Log, start: int, end: int, time: int) -> Any:
        if end - start < FOLLOW_MIN:
            log.followed.pop(number, None)
            return reduce(log, start, end, time)
        found = log.followed.get(number)
        if found is None or start >= found.end:
            found = log.followed[number] = _Followed(start, start, make(), offset)
        elif start < found.start or end < found.end:
            return reduce(log, start, end, time)
        inside, values = found.inside, log.values
        for entering in values[found.end * stride + offset : end * stride : stride]:
            if entering is not None:
                inside.add(entering)
        for leaving in values[found.start * stride + offset : start * stride : stride]:
            if leaving is not None:
                inside.remove(leaving)
        found.start, found.end = start, end
        return value(inside, argument, lambda: values[start * stride + offset : end * stride : stride][::-1])

    return followed


def _insert(log: Log, place: int, row: Row) -> None:
    """Let followed windows know of an entry that came before later ones."""
    for found in log.followed.values():
        if place < found.start:
            found.start += 1
            found.end += 1
        elif place < found.end:
            found.end += 1
            if row[found.offset] is not None:
                found.inside.add(row[found.offset])


def _shift(log: Log, count: int) -> None:
    """Let followed windows know that the first `count` entries were cut off."""
    for number, found in list(log.followed.items()):
        if found.start < count:
            del log.followed[number]
        found.start -= count
        found.end -= count


def quantile_of(values: Values, share: float) -> float:
    """Return the quantile, linear between neighbours (Hyndman and Fan's type 7).

    >>> quantile_of([4.0, 1.0, 2.0], 0.75)
    3.0
    """
    return quantile_of_ordered(sorted(values), share)


def mode_of(values: Values, rank: int) -> Any:
    """Return the value that is `rank`-th in frequency, the newest of equally frequent ones first.

    >>> mode_of(["a", "b", "a", "c", "b"], 1), mode_of(["a", "b", "a", "c", "b"], 2), mode_of(["a"], 2)
    ('b', 'a', None)
    """
    ranked = Counter(values[::-1]).most_common(rank)
    return ranked[rank - 1][0] if len(ranked) >= rank else None


def entropy_of(values: Values) -> float:
    """Return the entropy of the values' frequencies in bits (Shannon, 1948).

    >>> entropy_of(["a", "b", "a", "b"]), entropy_of(["a", "a"])
    (1.0, 0.0)
    """
    return shares_entropy(Counter(values))


REDUCTIONS: Final[dict[str, Callable[[Values, Any], Any]]] = {
    "sum": lambda values, _: fsum(values),
    "mean": lambda values, _: fsum(values) / len(values),
    "var": lambda values, _: variance_of(values),
    "std": lambda values, _: sqrt(variance_of(values)),
    "min": lambda values, _: min(values[::-1]),
    "max": lambda values, _: max(values[::-1]),
    "distinct": lambda values, _: len(set(values)),
    "mode": lambda values, rank: mode_of(values, rank or 1),
    "entropy": lambda values, _: entropy_of(values),
    "median": lambda values, _: quantile_of(values, 0.5),
    "quantile": quantile_of,
}
"""Each aggregate of the values that are present, at least one, oldest first."""
