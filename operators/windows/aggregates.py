"""The table of aggregates: name -> how each is read from a range of a log.

Lives here: one row per aggregate, the readers made of it, and what follows long windows of `mode`,
`distinct`, `entropy` and quantiles.  Never here: where a range starts and ends (`ranges.py`), what is kept
(`log.py`).

A range can be read in two ways that agree to the bit: from the values themselves (few entries), or from a
column's prefix sums and stacks (`prefix_sums.py`).  An aggregate without such lists is read from the values,
and its window is followed once it is long: each value enters and leaves once.

    log             a  b  c  d  e  f  g          window of the last event [c d e f]
                          [--------]             window of this event     [d e f g]: g enters, c leaves
                             [--------]

To add an aggregate: a row of `AGGREGATES`, its name in `window_kinds.py`, and its meaning in
`tests/window_oracle.py`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Sequence
from heapq import nlargest
from math import fsum, log2, sqrt
from typing import Any, Final, NamedTuple, Protocol

from operators.language.fields import Aggregate
from operators.windows.exact import variance_of
from operators.windows.prefix_sums import Column, Derived

__all__ = [
    "AGGREGATES",
    "Columns",
    "Read",
    "Target",
    "derived_of",
    "entropy_of",
    "mode_of",
    "quantile_of",
    "readers_of",
]

FOLLOW_MIN: Final = 64
"""A window of this many entries is followed; a shorter one is read as fast."""

Values = Sequence[Any]
Columns = Sequence[Any]
"""The columns of a log: sequences of values, or each a `Column`."""
Read = Callable[[Columns, Sequence[int], int, dict[Any, Any]], None]
"""(columns, where each range starts, where all of them stop, where values go)."""


class Target(NamedTuple):
    """Where an aggregate goes."""

    name: str | int
    aggregate: Aggregate
    has_default: bool = False
    """A missing value leaves what is there; otherwise it takes the name out."""


class Rule(NamedTuple):
    """How one aggregate of one column is read."""

    of_values: Callable[[Values, Any], Any]
    """(values that are present, at least one, oldest first; argument) -> value."""
    of_column: Callable[[Column, int, int], Any] | None = None
    """(column, start, stop) -> value of a range in which some are present."""
    derived: Derived = Derived()
    """What `of_column` wants of a column."""
    follower: type[Frequencies | Ordered] | None = None
    """What follows long windows."""
    empty: float | None = None
    """The value of no values."""


# -- values that are followed ---------------------------------------------------------------------------


class Follower(Protocol):
    """The values inside a window that moves on."""

    def add(self, value: Any) -> None:
        """Let one value in."""
        ...

    def remove(self, value: Any) -> None:
        """Let one value out."""
        ...

    def value(self, kind: str, argument: Any, newest_first: Callable[[], Values]) -> Any:
        """Return an aggregate, None where it is missing."""
        ...


class Frequencies:
    """How often each value is inside.

    >>> inside = Frequencies()
    >>> for value in "abca":
    ...     inside.add(value)
    >>> inside.remove("b")
    >>> inside.counts
    {'a': 2, 'c': 1}
    """

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[Any, int] = {}

    def add(self, value: Any) -> None:
        """Let one value in."""
        self.counts[value] = self.counts.get(value, 0) + 1

    def remove(self, value: Any) -> None:
        """Let one value out."""
        left = self.counts[value] - 1
        if left:
            self.counts[value] = left
        else:
            del self.counts[value]

    def value(self, kind: str, argument: Any, newest_first: Callable[[], Values]) -> Any:
        """Return `distinct`, `entropy` or the `mode` of a rank."""
        if kind == "distinct":
            return len(self.counts)
        if kind == "entropy":
            return _entropy(self.counts) if self.counts else None
        return self._mode(argument or 1, newest_first())

    def _mode(self, rank: int, newest_first: Values) -> Any:
        """Return the value of `rank`; of equally frequent ones the newest comes first."""
        counts = self.counts
        if len(counts) < rank:
            return None
        least = nlargest(rank, counts.values())[-1]
        wanted = sum(count >= least for count in counts.values())
        found: dict[Any, int] = {}
        for value in newest_first:
            if value is not None and value not in found and counts[value] >= least:
                found[value] = counts[value]
                if len(found) == wanted:
                    break
        return sorted(found, key=lambda value: -found[value])[rank - 1]


class Ordered:
    """The numbers inside, the smallest first.  Entering moves those that are larger: cheap up to 100,000."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: list[Any] = []

    def add(self, value: Any) -> None:
        """Let one number in."""
        insort(self.values, value)

    def remove(self, value: Any) -> None:
        """Let one number out."""
        del self.values[bisect_left(self.values, value)]

    def value(self, kind: str, argument: Any, newest_first: Callable[[], Values]) -> Any:  # noqa: ARG002
        """Return `median` or the `quantile` of a share."""
        if not self.values:
            return None
        return _quantile_of_ordered(self.values, 0.5 if kind == "median" else argument)


class Followed:
    """A window that is followed over one column: the entries from `start` to `stop` are inside."""

    __slots__ = ("inside", "start", "stop")

    def __init__(self, start: int, inside: Follower) -> None:
        self.start = self.stop = start
        self.inside = inside

    def move(self, values: list[Any], start: int, stop: int) -> bool:
        """Let the window move on to a range; return False, and stay, where that would be a step back."""
        if start < self.start or stop < self.stop:
            return False
        for value in values[self.stop : stop]:
            if value is not None:
                self.inside.add(value)
        for value in values[self.start : start]:
            if value is not None:
                self.inside.remove(value)
        self.start, self.stop = start, stop
        return True

    def inserted(self, position: int, value: Any) -> None:
        """Follow the column after a value was put before later ones."""
        if position < self.start:
            self.start += 1
            self.stop += 1
        elif position < self.stop:
            self.stop += 1
            if value is not None:
                self.inside.add(value)

    def trimmed(self, count: int) -> bool:
        """Follow the column after its first values were cut off; return whether the window is still known."""
        is_known = self.start >= count
        self.start -= count
        self.stop -= count
        return is_known


# -- the table ------------------------------------------------------------------------------------------


def quantile_of(values: Values, share: float) -> float:
    """Return the quantile, linear between neighbours (Hyndman and Fan's type 7).

    >>> quantile_of([4.0, 1.0, 2.0], 0.75)
    3.0
    """
    return _quantile_of_ordered(sorted(values), share)


def _quantile_of_ordered(ordered: Values, share: float) -> float:
    place = share * (len(ordered) - 1)
    below = int(place)
    low = ordered[below]
    found = low if place == below else low + (ordered[below + 1] - low) * (place - below)
    return float(found) + 0.0  # one zero


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
    return _entropy(Counter(values))


def _entropy(counts: dict[Any, int]) -> float:
    total = sum(counts.values())
    return 0.0 - fsum([count / total * log2(count / total) for count in counts.values()])


def _std(column: Column, start: int, stop: int) -> float:
    return sqrt(column.variance(start, stop))


def _present(values: Values) -> Values:
    return [value for value in values if value is not None] if None in values else values


_SQUARES: Final = Derived(squares=True)

AGGREGATES: Final[dict[str, Rule]] = {
    "sum": Rule(lambda values, _: fsum(values), derived=Derived(sums=True), empty=0.0),
    "mean": Rule(lambda values, _: fsum(values) / len(values), derived=Derived(sums=True)),
    "var": Rule(lambda values, _: variance_of(values), Column.variance, _SQUARES),
    "std": Rule(lambda values, _: sqrt(variance_of(values)), _std, _SQUARES),
    # `[::-1]`: the newest of equals, as in the stacks.
    "min": Rule(lambda values, _: min(values[::-1]), derived=Derived(dips=True)),
    "max": Rule(lambda values, _: max(values[::-1]), derived=Derived(peaks=True)),
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
    """Return what is kept beside the values of `column` for these aggregates."""
    rules = [AGGREGATES[a.kind].derived for a in aggregates if a.kind in AGGREGATES and a.column == column]
    return Derived(*(any(flags) for flags in zip(*rules, strict=True))) if rules else Derived()


# -- readers --------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """One target of a reader: the number of its range, and where the value goes."""

    number: int
    name: str | int
    has_default: bool


class _Sums(NamedTuple):
    """The sums and means of one column, those of one range together."""

    both: Sequence[tuple[int, Any, Any]]
    """(number of the range, name of the sum, name of the mean)."""
    sums: Sequence[tuple[int, Any]]
    means: Sequence[tuple[int, Any]]
    places: Sequence[Place]
    """Of the means."""


def readers_of(
    targets: Sequence[tuple[int, Target]], columns: Sequence[str | None], *, is_indexed: bool
) -> list[Read]:
    """Return readers for valued targets, each with the number of its range, over logs of `columns`.

    `is_indexed`: each column of a log is a `Column`, otherwise a plain sequence of values.
    """
    readers: list[Read] = []
    families: dict[tuple[Any, ...], list[tuple[Place, Aggregate]]] = {}
    for number, (name, aggregate, has_default) in targets:
        kind = "sum" if aggregate.kind == "mean" else aggregate.kind
        family = (kind, aggregate.column, aggregate.number, aggregate.by_column)
        families.setdefault(family, []).append((Place(number, name, has_default), aggregate))
    for members in families.values():
        aggregate = members[0][1]
        places = [place for place, _ in members]
        offset = columns.index(aggregate.column)
        if aggregate.by_column is not None:
            other = columns.index(aggregate.by_column)
            readers.append(_pair_reader(aggregate, offset, other, places, is_indexed=is_indexed))
        elif aggregate.kind in ("sum", "mean"):
            reader = _prefix_sum_reader if is_indexed else _sum_reader
            readers.append(reader(offset, _sums_of(members)))
        elif not is_indexed:
            readers.append(_values_reader(aggregate, offset, places))
        elif aggregate.kind in ("max", "min"):
            readers.append(_stack_reader(aggregate, offset, places))
        else:
            readers.append(_column_reader(aggregate, offset, places))
    return readers


def _put(out: dict[Any, Any], place: Place, value: Any) -> None:
    """Write a value, or take its name out where it is missing and has no default."""
    if value is not None:
        out[place.name] = value
    elif not place.has_default:
        out.pop(place.name, None)


def _sums_of(members: Sequence[tuple[Place, Aggregate]]) -> _Sums:
    sums = [place for place, aggregate in members if aggregate.kind == "sum"]
    means = [place for place, aggregate in members if aggregate.kind == "mean"]
    numbers = {place.number for place in sums} & {place.number for place in means}
    sum_of = {place.number: place for place in sums if place.number in numbers}
    mean_of = {place.number: place for place in means if place.number in numbers}
    return _Sums(
        tuple((number, sum_of[number].name, mean_of[number].name) for number in sum_of),
        tuple((place.number, place.name) for place in sums if place not in sum_of.values()),
        tuple((place.number, place.name) for place in means if place not in mean_of.values()),
        tuple(means),
    )


def _sum_reader(offset: int, wanted: _Sums) -> Read:
    """Return how sums and means are read from values."""
    both, sums, means, places = wanted
    numbers = tuple(dict.fromkeys(number for number, *_ in (*both, *sums, *means)))
    all_sums = (*sums, *((number, name) for number, name, _ in both))

    def read(columns: Columns, starts: Sequence[int], stop: int, out: dict[Any, Any]) -> None:
        column, known = columns[offset], -1
        if None not in column:
            try:
                for number, sum_name, mean_name in both:
                    if (start := starts[number]) != known:
                        known, count, total = start, stop - start, fsum(column[start:stop])
                    out[sum_name] = total
                    out[mean_name] = total / count
                for number, name in sums:
                    out[name] = fsum(column[starts[number] : stop])
                for number, name in means:
                    start = starts[number]
                    out[name] = fsum(column[start:stop]) / (stop - start)
            except ZeroDivisionError:  # an empty window has no mean
                pass
            else:
                return
        found = {number: _present(column[starts[number] : stop]) for number in numbers}
        for number, name in all_sums:
            out[name] = fsum(found[number])
        for place in places:
            values = found[place.number]
            _put(out, place, fsum(values) / len(values) if values else None)

    return read


def _prefix_sum_reader(offset: int, wanted: _Sums) -> Read:
    """Return how sums and means are read from prefix sums."""
    both, sums, means, places = wanted
    all_sums = (*sums, *((number, name) for number, name, _ in both))

    def read(columns: Columns, starts: Sequence[int], stop: int, out: dict[Any, Any]) -> None:
        column = columns[offset]
        highs, lows = column.highs, column.lows
        if highs is not None and column.present is None:
            high, low = highs[stop], lows[stop]
            try:
                for number, sum_name, mean_name in both:
                    start = starts[number]
                    out[sum_name] = total = (high - highs[start]) + (low - lows[start])
                    out[mean_name] = total / (stop - start)
                for number, name in sums:
                    start = starts[number]
                    out[name] = (high - highs[start]) + (low - lows[start])
                for number, name in means:
                    start = starts[number]
                    out[name] = ((high - highs[start]) + (low - lows[start])) / (stop - start)
            except ZeroDivisionError:  # an empty window has no mean
                pass
            else:
                return
        for number, name in all_sums:
            out[name] = column.sum(starts[number], stop)
        for place in places:
            start = starts[place.number]
            count = column.count(start, stop)
            _put(out, place, column.sum(start, stop) / count if count else None)

    return read


def _stack_reader(aggregate: Aggregate, offset: int, places: Sequence[Place]) -> Read:
    """Return how the largest (smallest) value is read from a monotonic stack."""
    is_max = aggregate.kind == "max"
    choose: Callable[..., Any] = max if is_max else min

    def read(columns: Columns, starts: Sequence[int], stop: int, out: dict[Any, Any]) -> None:
        column = columns[offset]
        stack, values = column.peaks if is_max else column.dips, column.values
        if stop == len(values) and stack:
            at = 0
            try:
                for number, name, _ in places:
                    start = starts[number]
                    if stack[at] < start:
                        at += 1
                        if stack[at] < start:
                            at = bisect_left(stack, start, at + 1)
                    out[name] = values[stack[at]]
            except IndexError:  # an empty window has no largest
                pass
            else:
                return
        for place in places:  # entries after a range may hide its largest
            start = starts[place.number]
            _put(out, place, choose(_present(values[start:stop])[::-1], default=None))

    return read


def _values_reader(aggregate: Aggregate, offset: int, places: Sequence[Place]) -> Read:
    """Return how an aggregate is read from values."""
    rule, argument = AGGREGATES[aggregate.kind], aggregate.argument
    reduce, empty = rule.of_values, rule.empty

    def read(columns: Columns, starts: Sequence[int], stop: int, out: dict[Any, Any]) -> None:
        column, known, value = columns[offset], -1, empty
        for number, name, has_default in places:
            if (start := starts[number]) != known:
                values = column[start:stop]
                if None in values:
                    values = [value for value in values if value is not None]
                known, value = start, reduce(values, argument) if values else empty
            if value is not None:
                out[name] = value
            elif not has_default:
                out.pop(name, None)

    return read


def _column_reader(aggregate: Aggregate, offset: int, places: Sequence[Place]) -> Read:
    """Return how an aggregate is read from a column: by what is derived, or by following long windows."""
    rule, kind, argument = AGGREGATES[aggregate.kind], aggregate.kind, aggregate.argument
    of_column, reduce, make, empty = rule.of_column, rule.of_values, rule.follower, rule.empty

    def followed(column: Column, place: Place, start: int, stop: int) -> Any:
        assert make is not None
        values, followers = column.values, column.followers
        if stop - start < FOLLOW_MIN:
            followers.pop(place, None)
        else:
            window = followers.get(place)
            if window is None or start >= window.stop:
                window = followers[place] = Followed(start, make())
            if window.move(values, start, stop):
                return window.inside.value(kind, argument, lambda: values[start:stop][::-1])
        present = _present(values[start:stop])
        return reduce(present, argument) if present else empty

    def read(columns: Columns, starts: Sequence[int], stop: int, out: dict[Any, Any]) -> None:
        column = columns[offset]
        for place in places:
            start = starts[place.number]
            if of_column is None:
                value = followed(column, place, start, stop)
            else:
                value = of_column(column, start, stop) if column.count(start, stop) else empty
            _put(out, place, value)

    return read


def _pair_reader(
    aggregate: Aggregate, offset: int, other: int, places: Sequence[Place], *, is_indexed: bool
) -> Read:
    """Return how the value with the largest (smallest) of another column is read: the newest of equals."""
    sign = 1 if aggregate.kind == "arg_max" else -1

    def read(columns: Columns, starts: Sequence[int], stop: int, out: dict[Any, Any]) -> None:
        keys, values = columns[other], columns[offset]
        if is_indexed:
            keys, values = keys.values, values.values
        for place in places:
            start = starts[place.number]
            pairs = list(zip(keys[start:stop], values[start:stop], strict=True))[::-1]
            pairs = [pair for pair in pairs if None not in pair]
            _put(out, place, max(pairs, key=lambda pair: pair[0] * sign)[1] if pairs else None)

    return read
