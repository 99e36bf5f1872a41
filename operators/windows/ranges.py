"""Where the windows of an event start and stop in a log, and the values of all of them.

Lives here: each kind of window as a range of positions in a log, and the loop that reads every aggregate from
its range.  Never here: what an aggregate is (`aggregates.py`), what is kept and in which order (`log.py`).

    log of one key             t0  t1  t2  t3  t4  t5      an event at t5
    (t5 - 1h, t5]                      [-----------]       sliding: from the first entry after t5 - 1h
    include_current=False              [-------]           the same, read before the event enters
    shift="1h"             [-----------]                   the same, ending an hour before t5
    tumbling("1h")                         |   [---]       from the full hour, which is inside
    last_n(2)                                  [---]       the last two entries

`where=` is no range: only events that meet it enter the log of such a group.

Cost: windows remember where they started for the newest event, so an event in order passes each entry once
per window.  All ranges are found first, then each aggregate is read from all of its ranges in one call.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from operators.language.fields import Aggregate
from operators.language.window_kinds import LastN, Tumbling
from operators.windows.aggregates import Columns, Read, Target, readers_of

__all__ = ["Ranges", "widths_of"]

Times = Sequence[int]
Bounds = Callable[[Times, int, int, int], tuple[int, int]]
"""(times, first position kept, position after the last entry to see, time of the event) -> (start, stop)."""
TimeRead = Callable[[Times, Sequence[int], int, int, int, dict[Any, Any]], None]
"""(times, where each range starts, where all stop, `own`, time of the event, where values go)."""


class _Odd(NamedTuple):
    """One range that does not slide to the event, and what is read from it."""

    bounds: Bounds
    reads: tuple[Read, ...]
    time_reads: tuple[TimeRead, ...]


def widths_of(targets: Sequence[Target]) -> tuple[int, ...]:
    """Return the widths of the sliding windows of `targets`, the longest first."""
    aggregates = [target.aggregate for target in targets]
    return tuple(sorted({a.window_ms for a in aggregates if _bounds(a) is None}, reverse=True))


class Ranges:
    """The windows of some targets over one group's logs.

    `widths`: of the group's sliding windows.  `is_indexed`: logs have a `Column` for each column, otherwise
    plain sequences of values.

    >>> from operators.language.by import by
    >>> hour = [Target("n", by("card").count("1h")), Target("sum", by("card").sum("amount", "1h"))]
    >>> out = {}
    >>> ranges = Ranges(hour, ["amount"], widths_of(hour), is_indexed=False)
    >>> ranges.write([0, 50, 90], 0, [[1.0, 2.0, 4.0]], 3, 90, 1, out)
    >>> out
    {'n': 3, 'sum': 7.0}
    """

    def __init__(
        self,
        targets: Sequence[Target],
        columns: Sequence[str | None],
        widths: Sequence[int],
        *,
        is_indexed: bool,
    ) -> None:
        sliding: list[tuple[int, Target]] = []
        odd: dict[Any, list[tuple[int, Target]]] = {}
        for target in targets:
            aggregate = target.aggregate
            if _bounds(aggregate) is None:
                sliding.append((widths.index(aggregate.window_ms), target))
            else:
                window = (aggregate.span, aggregate.window_ms, aggregate.shift_ms)
                odd.setdefault(window, []).append((0, target))
        sliding.sort(key=lambda numbered: numbered[0])
        counts = {number: target.name for number, target in sliding if target.aggregate.kind == "count"}
        self._widths = tuple((number, width, counts.get(number)) for number, width in enumerate(widths))
        """(number of the range, its width, the name of its count or None)."""
        rest = [(number, target) for number, target in sliding if target.name != counts.get(number)]
        self._reads, self._time_reads = _readers(rest, columns, is_indexed=is_indexed)
        self._odd = tuple(
            _Odd(bounds, *_readers(mine, columns, is_indexed=is_indexed))
            for mine in odd.values()
            if (bounds := _bounds(mine[0][1].aggregate)) is not None
        )

    def write_newest(
        self, times: Times, columns: Columns, starts: list[int], base: int, time: int, out: dict[Any, Any]
    ) -> None:
        """Write all windows of the newest entry of a log, which is the event itself, into `out`.

        `starts` has for each width a position before which none of its windows starts, and is moved on.
        """
        stop = len(times)
        for number, width, count_name in self._widths:
            start = starts[number]
            if times[start] <= time - width:
                start += 1
                if times[start] <= time - width:
                    start = bisect_right(times, time - width, start + 1, stop)
                starts[number] = start
            if count_name is not None:
                out[count_name] = stop - start
        for read in self._reads:
            read(columns, starts, stop, out)
        if self._time_reads or self._odd:
            self._write_others(times, base, columns, starts, stop, time, 1, out)

    def write(
        self, times: Times, base: int, columns: Columns, stop: int, time: int, own: int, out: dict[Any, Any]
    ) -> None:
        """Write all windows that end at `time` into `out`.

        Entries from `base` on are kept, those before `stop` are seen; of these the last is the event itself
        where `own` is 1.
        """
        starts: list[int] = []
        start = base
        for _, width, count_name in self._widths:
            if start < stop and times[start] <= time - width:
                start = bisect_right(times, time - width, start + 1, stop)
            starts.append(start)
            if count_name is not None:
                out[count_name] = stop - start
        for read in self._reads:
            read(columns, starts, stop, out)
        if self._time_reads or self._odd:
            self._write_others(times, base, columns, starts, stop, time, own, out)

    def _write_others(
        self,
        times: Times,
        base: int,
        columns: Columns,
        starts: Sequence[int],
        stop: int,
        time: int,
        own: int,
        out: dict[Any, Any],
    ) -> None:
        """Write what looks at times, and the windows that do not slide."""
        for time_read in self._time_reads:
            time_read(times, starts, stop, own, time, out)
        for bounds, reads, time_reads in self._odd:
            start, last = bounds(times, base, stop, time)
            for read in reads:
                read(columns, (start,), last, out)
            for time_read in time_reads:
                time_read(times, (start,), last, own, time, out)


def _readers(
    targets: Sequence[tuple[int, Target]], columns: Sequence[str | None], *, is_indexed: bool
) -> tuple[tuple[Read, ...], tuple[TimeRead, ...]]:
    """Return how values are read for targets, each with the number of its range, and what looks at times."""
    valued = [numbered for numbered in targets if numbered[1].aggregate.is_valued]
    timed = [numbered for numbered in targets if not numbered[1].aggregate.is_valued]
    reads = readers_of(valued, columns, is_indexed=is_indexed)
    return tuple(reads), tuple(_time_read(number, target) for number, target in timed)


def _bounds(aggregate: Aggregate) -> Bounds | None:
    """Return how a window is found that does not slide to the event, None for one that does."""
    width, shift = aggregate.window_ms, aggregate.shift_ms
    match aggregate.span:
        case Tumbling():
            return lambda times, base, stop, time: (
                bisect_left(times, time // width * width, base, stop),
                stop,
            )
        case LastN(count):

            def last(times: Times, base: int, stop: int, time: int) -> tuple[int, int]:
                return max(bisect_right(times, time - width, base, stop), stop - count), stop

            return last
        case _ if shift:

            def shifted(times: Times, base: int, stop: int, time: int) -> tuple[int, int]:
                stop = bisect_right(times, time - shift, base, stop)
                return bisect_right(times, time - shift - width, base, stop), stop

            return shifted
        case _:
            return None


def _time_read(number: int, target: Target) -> TimeRead:
    """Return how `count`, `rate` or `since_last` is read; an event is not previous to itself."""
    name, aggregate, has_default = target
    width, shift = aggregate.window_ms, aggregate.shift_ms

    def count(
        _times: Times, starts: Sequence[int], stop: int, _own: int, _time: int, out: dict[Any, Any]
    ) -> None:
        out[name] = stop - starts[number]

    def rate(
        _times: Times, starts: Sequence[int], stop: int, _own: int, _time: int, out: dict[Any, Any]
    ) -> None:
        out[name] = (stop - starts[number]) * 1000 / width

    def since_last(
        times: Times, starts: Sequence[int], stop: int, own: int, time: int, out: dict[Any, Any]
    ) -> None:
        stop -= 0 if shift else own
        if stop > starts[number]:
            out[name] = time - shift - times[stop - 1]
        elif not has_default:
            out.pop(name, None)

    return {"count": count, "rate": rate, "since_last": since_last}[aggregate.kind]
