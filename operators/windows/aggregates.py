"""The table of aggregates, and how they are read from ranges of a log.

Lives here: one row per aggregate; every window over a log as a range of its positions; the readers made of
both.  Never here: what is kept and in which order (`log.py`), what is derived from a column
(`prefix_sums.py`).

    log of one key             t0  t1  t2  t3  t4  t5      an event at t5
    (t5 - 1h, t5]                      [-----------]       sliding: from the first entry after t5 - 1h
    include_current=False              [-------]           the same, read before the event enters
    shift="1h"             [-----------]                   the same, ending an hour before t5
    tumbling("1h")                         |   [---]       from the full hour, which is inside
    last_n(2)                                  [---]       the last two entries

`where=` is no range: only events that meet it enter the log of such a group.

A range can be read in two ways that agree to the bit: from cells (few entries, see `PackedLogs`), or from a
column's prefix sums and stacks.  A holistic aggregate has no such lists: it is read from the values, and its
window is followed once it is long (`holistic.py`).

Cost: windows remember where they started for the newest event, so an event in order passes each entry once
per window.  `count`, `sum`, `mean`, `max` and `min` of all sliding windows over one column are read in one
pass, without a loop and a call for each.

To add an aggregate: a row of `AGGREGATES`, its name in `window_kinds.py`, and its meaning in
`tests/window_oracle.py`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from typing import Any, Final, NamedTuple

from operators.language.fields import Aggregate
from operators.language.window_kinds import LastN, Tumbling
from operators.windows.exact import variance_of
from operators.windows.holistic import Followed, Frequencies, Ordered, entropy_of, mode_of, quantile_of
from operators.windows.prefix_sums import Column, Derived

__all__ = ["AGGREGATES", "Columns", "Target", "Write", "derived_of", "widths_of", "windows_writer"]

FOLLOW_MIN: Final = 64
"""A window of this many entries is followed; a shorter one is read as fast."""

Times = Sequence[int]
Columns = Sequence[Any]
"""The columns of a log, each a `Column`; or the cells of a packed one, entry after entry."""
Starts = list[int]
"""For each width of `widths_of` a position before which its window does not start; writing moves it on."""
Out = dict[Any, Any]
Write = Callable[[Times, Columns, Starts, int, int, int, Out], None]
"""How windows that end at an event are written.

(times, columns, starts, position after the last entry to see, first position kept, time of the event, where
values go).
"""
Read = Callable[[Columns, Sequence[int], int, Out], None]
"""(columns, where each range starts, where all of them stop, where values go)."""
TimeRead = Callable[[Times, Sequence[int], int, int, Out], None]
"""(times, where each range starts, where all stop, time of the event, where values go)."""
Bounds = Callable[[Times, int, int, int], tuple[int, int]]
"""(times, first position kept, position after the last entry to see, time of the event) -> (start, stop)."""


class Target(NamedTuple):
    """One aggregate and the name under which its value is written."""

    name: str | int
    aggregate: Aggregate
    has_default: bool = False
    """Whether a missing value leaves the default in the output; otherwise the name is removed."""


class Rule(NamedTuple):
    """The ways to read one aggregate of one column."""

    of_values: Callable[[Sequence[Any], Any], Any]
    """(values that are present, at least one, oldest first; argument) -> value."""
    of_column: Callable[[Column, int, int], Any] | None = None
    """(column, start, stop) -> value of a range in which some are present."""
    derived: Derived = Derived()
    """The lists that are needed beside the values of a column."""
    follower: type[Frequencies | Ordered] | None = None
    """The object that follows long windows, if there is one."""
    empty: float | None = None
    """The value of no values."""


def _std(column: Column, start: int, stop: int) -> float:
    return sqrt(column.variance(start, stop))


_SQUARES: Final = Derived(squares=True)

AGGREGATES: Final[dict[str, Rule]] = {
    "sum": Rule(lambda values, _: fsum(values), Column.sum, Derived(sums=True), empty=0.0),
    "mean": Rule(lambda values, _: fsum(values) / len(values), Column.mean, Derived(sums=True)),
    "var": Rule(lambda values, _: variance_of(values), Column.variance, _SQUARES),
    "std": Rule(lambda values, _: sqrt(variance_of(values)), _std, _SQUARES),
    # `[::-1]`: the newest of equals, as in the stacks.
    "min": Rule(lambda values, _: min(values[::-1]), Column.min, Derived(dips=True)),
    "max": Rule(lambda values, _: max(values[::-1]), Column.max, Derived(peaks=True)),
    "first": Rule(lambda values, _: values[0], Column.first),
    "last": Rule(lambda values, _: values[-1], Column.last),
    "distinct": Rule(lambda values, _: len(set(values)), follower=Frequencies, empty=0),
    "mode": Rule(lambda values, rank: mode_of(values, rank or 1), follower=Frequencies),
    "entropy": Rule(lambda values, _: entropy_of(values), follower=Frequencies),
    "median": Rule(lambda values, _: quantile_of(values, 0.5), follower=Ordered),
    "quantile": Rule(quantile_of, follower=Ordered),
}
"""Every aggregate of one column; `count`, `rate` and `since_last` need none, `arg_max` and `arg_min` two."""


def derived_of(aggregates: Sequence[Aggregate], column: str | None) -> Derived:
    """Return the lists that are kept beside the values of `column` for these aggregates."""
    rules = [
        AGGREGATES[a.function].derived for a in aggregates if a.function in AGGREGATES and a.column == column
    ]
    return Derived(*(any(flags) for flags in zip(*rules, strict=True))) if rules else Derived()


# -- all windows of a group ------------------------------------------------------------------------------


def widths_of(targets: Sequence[Target]) -> tuple[int, ...]:
    """Return the widths of the sliding windows of `targets`, the longest first."""
    aggregates = [target.aggregate for target in targets]
    return tuple(sorted({a.window_ms for a in aggregates if _bounds(a) is None}, reverse=True))


def windows_writer(
    targets: Sequence[Target], columns: Sequence[str | None], widths: Sequence[int], *, is_packed: bool
) -> Write:
    """Return how all windows of `targets` are written, over logs of `columns`.

    `widths`: of the group's sliding windows.  `is_packed`: cells are read in place of columns.

    >>> from operators.language.by import by
    >>> hour = [Target("n", by("card").count("1h")), Target("sum", by("card").sum("amount", "1h"))]
    >>> out = {}
    >>> write = windows_writer(hour, ["amount"], widths_of(hour), is_packed=True)
    >>> write([0, 50, 90], [0, 1.0, 50, 2.0, 90, 4.0], [0], 3, 0, 90, out)
    >>> out
    {'n': 3, 'sum': 7.0}
    """
    sliding: list[tuple[int, Target]] = []
    others: dict[Any, list[tuple[int, Target]]] = {}
    for target in targets:
        aggregate = target.aggregate
        if _bounds(aggregate) is None:
            sliding.append((widths.index(aggregate.window_ms), target))
        else:
            window = (aggregate.span, aggregate.window_ms, aggregate.shift_ms)
            others.setdefault(window, []).append((0, target))
    slides = _slide_writers(sliding, columns, widths, len(columns) + 1 if is_packed else 0)
    rest = [numbered for numbered in sliding if numbered[1].aggregate.function not in _USUAL]
    reads, time_reads = _readers(rest, columns, is_packed=is_packed)
    found = [
        (bounds, *_readers(mine, columns, is_packed=is_packed))
        for mine in others.values()
        if (bounds := _bounds(mine[0][1].aggregate)) is not None
    ]
    if len(slides) == 1 and not (reads or time_reads or found):
        return slides[0]

    def write(times: Times, kept: Columns, starts: Starts, stop: int, base: int, time: int, out: Out) -> None:
        for slide in slides:
            slide(times, kept, starts, stop, base, time, out)
        for read in reads:
            read(kept, starts, stop, out)
        for time_read in time_reads:
            time_read(times, starts, stop, time, out)
        for bounds, bound_reads, bound_time_reads in found:
            start, last = bounds(times, base, stop, time)
            for read in bound_reads:
                read(kept, (start,), last, out)
            for time_read in bound_time_reads:
                time_read(times, (start,), last, time, out)

    return write


def _bounds(aggregate: Aggregate) -> Bounds | None:
    """Return the function that gives the range of a window that does not slide; None for one that does."""
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


# -- sliding windows, the usual aggregates in one pass -----------------------------------------------------


class _Row(NamedTuple):
    """One sliding window over one column: the names of its aggregates, None for one that is not wanted."""

    number: int
    width_ms: int
    count: Any = None
    sum: Any = None
    mean: Any = None
    extreme: Any = None
    missing: tuple[Any, ...] = ()
    """Names that are taken out where the window has no values."""


@dataclass(slots=True)
class _Pass:
    """The aggregates that are read of one column in one pass: at most one of maximum and minimum."""

    offset: int | None
    """None where windows are only counted."""
    extreme: str | None
    rows: list[_Row]

    def takes(self, offset: int | None, extreme: str | None) -> bool:
        """Return whether an aggregate of a column (None: a count) can be read here."""
        return (offset is None or self.offset == offset) and (
            extreme is None or self.extreme in (None, extreme)
        )

    def add(self, number: int, width_ms: int, field: str, name: Any, missing: tuple[Any, ...]) -> None:
        """Add one more aggregate to the pass."""
        free = (
            at for at, row in enumerate(self.rows) if row.number == number and getattr(row, field) is None
        )
        if (at := next(free, None)) is None:
            at = len(self.rows)
            self.rows.append(_Row(number, width_ms))
        changed: dict[str, Any] = {field: name, "missing": (*self.rows[at].missing, *missing)}
        self.rows[at] = self.rows[at]._replace(**changed)


_USUAL: Final = {"sum": "sum", "mean": "mean", "max": "extreme", "min": "extreme", "count": "count"}
"""Aggregate -> field of `_Row`."""


def _slide_writers(
    sliding: Sequence[tuple[int, Target]], columns: Sequence[str | None], widths: Sequence[int], stride: int
) -> list[Write]:
    """Return how the usual aggregates of sliding windows are written.

    The first pass moves all windows of `sliding` on.
    """
    passes: list[_Pass] = []
    usual = [one for one in sliding if one[1].aggregate.function in _USUAL]
    for number, (name, aggregate, has_default) in sorted(
        usual, key=lambda one: one[1].aggregate.function == "count"
    ):
        field = _USUAL[aggregate.function]
        offset = columns.index(aggregate.column) if aggregate.is_valued else None
        extreme = aggregate.function if field == "extreme" else None
        mine = next((one for one in passes if one.takes(offset, extreme)), None)
        if mine is None:
            passes.append(mine := _Pass(offset, extreme, []))
        mine.extreme = mine.extreme or extreme
        missing = () if has_default or field in ("count", "sum") else (name,)
        mine.add(number, widths[number], field, name, missing)
    if sliding and not passes:
        passes.append(_Pass(None, None, []))
    for number in {number for number, _ in sliding} - {row.number for one in passes[:1] for row in one.rows}:
        passes[0].rows.append(_Row(number, widths[number]))
    return [_slide_writer(one, stride) for one in passes]


def _slide_writer(one: _Pass, stride: int) -> Write:
    rows = tuple(sorted(one.rows, key=lambda row: row.number))
    if one.offset is None:
        return _counting(rows)
    is_max = None if one.extreme is None else one.extreme == "max"
    return (
        _over_cells(rows, one.offset + 1, stride, is_max)
        if stride
        else _over_column(rows, one.offset, is_max)
    )


def _counting(rows: Sequence[_Row]) -> Write:
    """Return the function that moves windows on and writes their counts."""

    def write(times: Times, _: Columns, starts: Starts, stop: int, _base: int, time: int, out: Out) -> None:
        for number, width, count_name, *_ in rows:
            start, horizon = starts[number], time - width
            while start < stop and times[start] <= horizon:
                start += 1
            starts[number] = start
            if count_name is not None:
                out[count_name] = stop - start

    return write


def _over_cells(rows: Sequence[_Row], offset: int, stride: int, is_max: bool | None) -> Write:
    """Return the function that writes the usual aggregates of cells; equal windows are read once.

    All are equal where no entry is older than the narrowest: so they are for a key that is new.
    """
    is_summed = any(row.sum is not None or row.mean is not None for row in rows)
    choose: Callable[[Sequence[Any]], Any] = max if is_max else min
    narrowest = rows[-1].width_ms
    counts, sums, means, extremes = [
        [name for name in names if name is not None] for names in [*zip(*rows, strict=True)][2:6]
    ]

    def write_equal(values: Sequence[Any], count: int, out: Out) -> None:
        for name in counts:
            out[name] = count
        if is_summed:
            total = fsum(values)
            for name in sums:
                out[name] = total
            for name in means:
                out[name] = total / count
        if is_max is not None:
            extreme = choose(values)  # the newest of equals
            for name in extremes:
                out[name] = extreme

    def write(times: Times, cells: Columns, starts: Starts, stop: int, _: int, time: int, out: Out) -> None:
        newest_first, known = cells[(stop - 1) * stride + offset :: -stride], -1
        has_missing = type(cells) is list and None in newest_first  # packed cells, a tuple, miss nothing
        if stop and not (starts[0] or has_missing) and times[0] > time - narrowest:
            write_equal(newest_first, stop, out)
            return
        for number, width, count_name, sum_name, mean_name, extreme_name, missing in rows:
            start, horizon = starts[number], time - width
            while start < stop and times[start] <= horizon:
                start += 1
            starts[number] = start
            if start != known:
                known, values = start, newest_first[: stop - start]
                values = _present(values) if has_missing else values
                count = len(values)
                total = fsum(values) if is_summed else 0.0
                if is_max is not None and values:
                    extreme = choose(values) if count > 1 else values[0]  # the newest of equals
            if count_name is not None:
                out[count_name] = stop - start
            if sum_name is not None:
                out[sum_name] = total
            if count:
                if mean_name is not None:
                    out[mean_name] = total / count
                if extreme_name is not None:
                    out[extreme_name] = extreme
            else:
                for name in missing:
                    out.pop(name, None)

    return write


def _over_column(rows: Sequence[_Row], offset: int, is_max: bool | None) -> Write:
    """Return the function that writes the usual aggregates of a column from its prefix sums and a stack."""
    is_summed = any(row.sum is not None or row.mean is not None for row in rows)

    def write(  # noqa: PLR0912  one pass over all that is asked of a column
        times: Times, columns: Columns, starts: Starts, stop: int, _: int, time: int, out: Out
    ) -> None:
        column = columns[offset]
        values, highs, lows, present = column.values, column.highs, column.lows, column.present
        stack, index, is_end = column.peaks if is_max else column.dips, 0, stop == len(values)
        if highs is not None:
            high, low = highs[stop], lows[stop]
        for number, width, count_name, sum_name, mean_name, extreme_name, missing in rows:
            start, horizon = starts[number], time - width
            while start < stop and times[start] <= horizon:
                start += 1
            starts[number] = start
            count = stop - start
            if count_name is not None:
                out[count_name] = count
            if present is not None:
                count = present[stop] - present[start]
            if highs is not None:
                total = (high - highs[start]) + (low - lows[start])
            elif is_summed:
                total = column.sum(start, stop)
            if sum_name is not None:
                out[sum_name] = total
            if not count:
                for name in missing:
                    out.pop(name, None)
                continue
            if mean_name is not None:
                out[mean_name] = total / count
            if extreme_name is not None:
                if is_end:
                    if stack[index] < start:
                        index += 1
                        if stack[index] < start:
                            index = bisect_left(stack, start, index + 1)
                    out[extreme_name] = values[stack[index]]
                else:
                    out[extreme_name] = column.max(start, stop) if is_max else column.min(start, stop)

    return write


def _present(values: Sequence[Any]) -> Sequence[Any]:
    return [value for value in values if value is not None] if None in values else values


# -- any window, one aggregate at a time ----------------------------------------------------------------


def _readers(
    targets: Sequence[tuple[int, Target]], columns: Sequence[str | None], *, is_packed: bool
) -> tuple[list[Read], list[TimeRead]]:
    """Return how values are read for targets, each with the number of its range, and what looks at times."""
    reads: list[Read] = []
    time_reads: list[TimeRead] = []
    for number, target in targets:
        aggregate = target.aggregate
        if not aggregate.is_valued:
            time_reads.append(_time_reader(number, target))
        elif is_packed or aggregate.by_column is not None:
            reads.append(_values_reader(number, target, columns, is_packed=is_packed))
        else:
            reads.append(_column_reader(number, target, columns.index(aggregate.column)))
    return reads, time_reads


def _put(out: Out, target: Target, value: Any) -> None:
    """Write a value, or remove its name where it is missing and has no default."""
    if value is not None:
        out[target.name] = value
    elif not target.has_default:
        out.pop(target.name, None)


def _values_reader(number: int, target: Target, columns: Sequence[str | None], *, is_packed: bool) -> Read:
    """Return how an aggregate is read from values, or from pairs of them: those of its two columns."""
    aggregate, stride = target.aggregate, len(columns) + 1
    offset, argument = columns.index(aggregate.column), aggregate.argument

    def values_of(columns: Any, offset: int, start: int, stop: int) -> Sequence[Any]:
        if is_packed:
            values: Sequence[Any] = columns[start * stride + offset + 1 : stop * stride : stride]
            return values
        return columns[offset].values[start:stop]  # type: ignore[no-any-return]

    def read(columns: Columns, starts: Sequence[int], stop: int, out: Out) -> None:
        values = _present(values_of(columns, offset, starts[number], stop))
        _put(out, target, reduce(values, argument) if values else empty)

    def read_pair(columns: Columns, starts: Sequence[int], stop: int, out: Out) -> None:
        start = starts[number]
        keys, values = values_of(columns, other, start, stop), values_of(columns, offset, start, stop)
        pairs = [pair for pair in zip(keys[::-1], values[::-1], strict=True) if None not in pair]
        _put(out, target, max(pairs, key=lambda pair: pair[0] * sign)[1] if pairs else None)

    if aggregate.by_column is not None:
        other, sign = columns.index(aggregate.by_column), 1 if aggregate.function == "arg_max" else -1
        return read_pair
    rule = AGGREGATES[aggregate.function]
    reduce, empty = rule.of_values, rule.empty
    return read


def _column_reader(number: int, target: Target, offset: int) -> Read:
    """Return how an aggregate is read from a column: by what is derived, or by following long windows."""
    name, function, argument = target.name, target.aggregate.function, target.aggregate.argument
    rule = AGGREGATES[function]
    of_column, reduce, make, empty = rule.of_column, rule.of_values, rule.follower, rule.empty

    def followed(column: Column, start: int, stop: int) -> Any:
        assert make is not None
        values, followers = column.values, column.followers
        if stop - start < FOLLOW_MIN:
            followers.pop(name, None)
        else:
            window = followers.get(name)
            if window is None or start >= window.stop:
                window = followers[name] = Followed(start, make())
            if window.move(values, start, stop):
                return window.inside.value(function, argument, lambda: values[start:stop][::-1])
        present = _present(values[start:stop])
        return reduce(present, argument) if present else empty

    def read(columns: Columns, starts: Sequence[int], stop: int, out: Out) -> None:
        column, start = columns[offset], starts[number]
        if of_column is None:
            value = followed(column, start, stop)
        else:
            value = of_column(column, start, stop) if column.count(start, stop) else empty
        _put(out, target, value)

    return read


def _time_reader(number: int, target: Target) -> TimeRead:
    """Return how `count`, `rate` or `since_last` is read; the last is written before its event enters."""
    aggregate, name = target.aggregate, target.name
    width, shift = aggregate.window_ms, aggregate.shift_ms

    def count(_: Times, starts: Sequence[int], stop: int, _time: int, out: Out) -> None:
        out[name] = stop - starts[number]

    def rate(_: Times, starts: Sequence[int], stop: int, _time: int, out: Out) -> None:
        out[name] = (stop - starts[number]) * 1000 / width

    def since_last(times: Times, starts: Sequence[int], stop: int, time: int, out: Out) -> None:
        _put(out, target, time - shift - times[stop - 1] if stop > starts[number] else None)

    return {"count": count, "rate": rate, "since_last": since_last}[aggregate.function]
