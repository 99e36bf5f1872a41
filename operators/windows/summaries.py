"""Mergeable summaries: the aggregates of a stretch of one key's entries, without the entries.

Lives here: the mergeable form of each aggregate, two sketches among them.  Never here: which stretch
(`tiles.py`, `sessions.py`).

Strategy: a summary is a function of the set of its entries alone (sums are exact integers, see `exact.py`;
extremes, first and last carry their times; sketches hash values by BLAKE2, never by `hash`).  So entries may
come in any order, summaries may be merged in any order, and processes agree, with the same bits.

No library that is kept does that for sketches.  River's `sketch.NUnique` looks at 22 bits of its hash: of 4
million different values it tells 3 % too few, of 8 million 17 %, and never more than 9 million.  A stored
theta sketch of `datasketches` cannot be updated; its quantile sketches are random.  A t-digest (`fastdigest`,
100 centroids) is 2 % off at p99 and 7 % at p99.9 on lognormal values, and depends on the order of values and
merges, so a restored worker would serve other numbers.  HdrHistogram holds whole numbers of a known range.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import frexp, ldexp, sqrt
from struct import pack
from typing import Any, Final, NamedTuple

from operators.language.fields import Aggregate
from operators.windows.aggregates import Target
from operators.windows.exact import SCALE, UNIT, Number, variance
from operators.windows.keyed_state import Row

__all__ = [
    "DISTINCT_EXACT",
    "QUANTILE_ERROR",
    "Layout",
    "Measure",
    "Summary",
    "add_hash",
    "bucket_of",
    "distinct_of",
    "histogram_quantile",
    "layout_of",
    "merged_hashes",
    "value_hash",
    "value_of",
]

DISTINCT_EXACT: Final = 512
"""Below so many different values the count is exact; from there on it errs by 1 / sqrt(510), 4.4 %."""
QUANTILE_ERROR: Final = 1 / 128
"""A quantile is the value at the nearest rank, to this relative error."""

_PER_OCTAVE: Final = 64
_OCTAVES: Final = 300
"""Numbers in windows are 0 or at least 2**-200 from it."""

Cell = Any
"""What one measure remembers: a list or dict that is changed in place, empty without entries."""


class Measure(NamedTuple):
    """One quantity that a summary holds of one column."""

    family: str
    offset: int
    by_offset: int = -1
    """The column whose extreme is looked for."""


Layout = tuple[Measure, ...]

_FAMILY: Final = {
    "sum": "sums",
    "mean": "sums",
    "var": "sums",
    "std": "sums",
    "median": "buckets",
    "quantile": "buckets",
}
"""Families that are not called like their one aggregate."""


class Summary:
    """One stretch: the number of its entries, and one cell per measure.

    >>> layout = (Measure("sums", 0), Measure("max", 0))
    >>> one, two = Summary(layout), Summary(layout)
    >>> one.add(layout, 0, (0.1,))
    >>> two.add(layout, 1, (0.2,))
    >>> one.merge(layout, two)
    >>> one.count, one.cells[1]
    (2, [1, 0.2, 0.2])
    """

    __slots__ = ("cells", "count")

    def __init__(self, layout: Layout) -> None:
        self.count = 0
        self.cells: list[Cell] = [_FAMILIES[measure.family].new() for measure in layout]

    def add(self, layout: Layout, time: int, row: Row) -> None:
        """Add one entry."""
        self.count += 1
        for (family, offset, by_offset), cell in zip(layout, self.cells, strict=True):
            value = row[offset]
            if value is not None:
                _FAMILIES[family].add(cell, time, value, row[by_offset])

    def merge(self, layout: Layout, other: Summary) -> None:
        """Add the summary of another stretch."""
        self.count += other.count
        for measure, cell, more in zip(layout, self.cells, other.cells, strict=True):
            if more:
                _FAMILIES[measure.family].merge(cell, more)

    def take_out(self, layout: Layout, other: Summary) -> bool:
        """Undo the merge of an older stretch; return False if only a new summary can do so.

        Then this one is of no use any more: an extreme, the first value, or a different one left with it.
        """
        self.count -= other.count
        for measure, cell, less in zip(layout, self.cells, other.cells, strict=True):
            if less and not _TAKE_OUT[measure.family](cell, less):
                return False
        return True

    def copy(self, layout: Layout) -> Summary:
        """Return a copy of the summary."""
        made = Summary(layout)
        made.merge(layout, self)
        return made

    def dump(self, layout: Layout) -> list[Any]:
        """Return plain values that msgpack takes: sums are larger than its integers."""
        cells = [
            [cell[0], *map(_bytes, cell[1:])] if cell and measure.family == "sums" else cell
            for measure, cell in zip(layout, self.cells, strict=True)
        ]
        return [self.count, *cells]

    @staticmethod
    def load(layout: Layout, data: list[Any]) -> Summary:
        """Return the summary that `dump` gave."""
        made = Summary(())
        made.count = data[0]
        made.cells = [
            [cell[0], *map(_whole, cell[1:])] if cell and measure.family == "sums" else cell
            for measure, cell in zip(layout, data[1:], strict=True)
        ]
        return made


def layout_of(targets: Sequence[Target], columns: Sequence[str | None]) -> Layout:
    """Return the measures that summaries need for `targets`."""
    measures = [_measure(target.aggregate, columns) for target in targets if target.aggregate.is_valued]
    return tuple(dict.fromkeys(measures))


def value_of(aggregate: Aggregate, layout: Layout, columns: Sequence[str | None]) -> Callable[[Summary], Any]:
    """Return the function that reads `aggregate` from a summary, and gives None where it is missing."""
    function, argument = aggregate.function, aggregate.argument
    if function == "count":
        return lambda summary: summary.count
    if function == "rate":
        width_ms = aggregate.window_ms - getattr(aggregate.span, "step_ms", 0)
        return lambda summary: summary.count * 1000 / width_ms
    index = layout.index(_measure(aggregate, columns))
    read, empty = _READ[function], {"sum": 0.0, "distinct": 0}.get(function)

    def value(summary: Summary) -> Any:
        cell = summary.cells[index]
        return read(cell, argument) if cell else empty

    return value


def _measure(aggregate: Aggregate, columns: Sequence[str | None]) -> Measure:
    family = _FAMILY.get(aggregate.function, aggregate.function)
    by_column = aggregate.by_column
    return Measure(
        family, columns.index(aggregate.column), -1 if by_column is None else columns.index(by_column)
    )


# -- sketches: how many different values, and which quantiles -----------------------------------------------


def value_hash(value: Number | str) -> int:
    """Return 64 bits that equal values share, whatever the process.

    >>> value_hash(1) == value_hash(1.0) == value_hash(True) != value_hash("1")
    True
    """
    if isinstance(value, str):
        data = b"t" + value.encode(errors="surrogatepass")
    else:
        data = b"n" + pack("<d", value + 0.0)
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def add_hash(hashes: list[int], added: int) -> None:
    """Enter one value's hash; kept are the DISTINCT_EXACT smallest, in order.

    Bar-Yossef et al., "Counting distinct elements in a data stream" (2002); as k minimum values
    in Beyer et al., "On synopses for distinct-value estimation under multiset operations" (2007).
    """
    index = bisect_left(hashes, added)
    if index == DISTINCT_EXACT or (index < len(hashes) and hashes[index] == added):
        return
    hashes.insert(index, added)
    del hashes[DISTINCT_EXACT:]


def merged_hashes(one: list[int], other: list[int]) -> list[int]:
    """Return the hashes that would be kept of the values of both."""
    return sorted({*one, *other})[:DISTINCT_EXACT]


def distinct_of(hashes: list[int]) -> int:
    """Return the number of different values: exact below DISTINCT_EXACT, else an estimate.

    >>> hashes = []
    >>> for value in range(300):
    ...     add_hash(hashes, value_hash(value % 100))
    >>> distinct_of(hashes)
    100
    """
    if len(hashes) < DISTINCT_EXACT:
        return len(hashes)
    return round((DISTINCT_EXACT - 1) * 2**64 / hashes[-1])


def bucket_of(value: Number) -> int:
    """Return the bucket of a number: 64 of equal width between powers of two, 0 for zero.

    Hartmann and Schlossnagle, "Circllhist: a log-linear histogram data structure" (2020), in base 2.

    >>> [bucket_of(value) - bucket_of(1.0) for value in (1.0, 1.01, 1.02, 2.0)]
    [0, 0, 1, 64]
    """
    if not value:
        return 0
    mantissa, exponent = frexp(abs(value))
    bucket = (exponent + _OCTAVES) * _PER_OCTAVE + int((mantissa - 0.5) * 2 * _PER_OCTAVE) + 1
    return bucket if value > 0 else -bucket


def histogram_quantile(counts: dict[int, int], share: float) -> float:
    """Return the value at the rank nearest to `share`, within QUANTILE_ERROR of it.

    >>> counts = {bucket_of(value): 1 for value in (1.0, 2.0, 100.0)}
    >>> round(histogram_quantile(counts, 0.5), 1)
    2.0
    """
    rank = int(share * (sum(counts.values()) - 1) + 0.5)
    for bucket in sorted(counts):
        rank -= counts[bucket]
        if rank < 0:
            return _middle(bucket)
    raise AssertionError(counts)


def _middle(bucket: int) -> float:
    if not bucket:
        return 0.0
    octave, step = divmod(abs(bucket) - 1, _PER_OCTAVE)
    value = ldexp(0.5 + (step + 0.5) / (2 * _PER_OCTAVE), octave - _OCTAVES)
    return value if bucket > 0 else -value


# -- cells of the families ------------------------------------------------------------------------------


def _add_to_sums(cell: Cell, _time: int, value: Any, _by: Any) -> None:
    units = int(value * SCALE)
    _merge_sums(cell, (1, units, units * units))


def _merge_sums(cell: Cell, more: Sequence[int]) -> None:
    cell[:] = [a + b for a, b in zip(cell, more, strict=True)] if cell else more


def _less_sums(cell: Cell, less: Sequence[int]) -> bool:
    cell[:] = [a - b for a, b in zip(cell, less, strict=True)] if cell[0] > less[0] else []
    return True


def _less_buckets(cell: Cell, less: dict[int, int]) -> bool:
    for bucket, count in less.items():
        if cell[bucket] > count:
            cell[bucket] -= count
        else:
            del cell[bucket]
    return True


def _is_elsewhere(cell: Cell, less: Sequence[Any]) -> bool:
    """Return whether what is kept is not of the stretch that goes."""
    return bool(cell[0] != less[0])


def _keep_first(cell: Cell, time: int, value: Any, _by: Any = None) -> None:
    if not cell or time < cell[0]:
        cell[:] = (time, value)


def _keep_last(cell: Cell, time: int, value: Any, _by: Any = None) -> None:
    if not cell or time >= cell[0]:
        cell[:] = (time, value)


def _keep_most(cell: Cell, time: int, value: Any, by: Any) -> None:
    """Keep the entry with the largest `by`, the newest of equals."""
    if by is not None and (not cell or by > cell[2] or (by == cell[2] and time >= cell[0])):
        cell[:] = (time, value, by)


def _keep_least(cell: Cell, time: int, value: Any, by: Any) -> None:
    if by is not None and (not cell or by < cell[2] or (by == cell[2] and time >= cell[0])):
        cell[:] = (time, value, by)


def _add_to_buckets(cell: Cell, _time: int, value: Any, _by: Any) -> None:
    bucket = bucket_of(value)
    cell[bucket] = cell.get(bucket, 0) + 1


def _merge_buckets(cell: Cell, more: dict[int, int]) -> None:
    for bucket, count in more.items():
        cell[bucket] = cell.get(bucket, 0) + count


def _merge_hashes(cell: Cell, more: list[int]) -> None:
    cell[:] = merged_hashes(cell, more)


class _Family(NamedTuple):
    """The functions that make, fill and merge the cells of one family."""

    new: Callable[[], Cell]
    add: Callable[[Cell, int, Any, Any], None]
    """(cell, time, value, value of the other column)."""
    merge: Callable[[Cell, Any], None]
    """(cell, another one that is not empty)."""


_FAMILIES: Final = {
    "sums": _Family(list, _add_to_sums, _merge_sums),
    "first": _Family(list, _keep_first, lambda cell, more: _keep_first(cell, *more)),
    "last": _Family(list, _keep_last, lambda cell, more: _keep_last(cell, *more)),
    "max": _Family(
        list,
        lambda cell, time, value, _: _keep_most(cell, time, value, value),
        lambda cell, more: _keep_most(cell, *more),
    ),
    "min": _Family(
        list,
        lambda cell, time, value, _: _keep_least(cell, time, value, value),
        lambda cell, more: _keep_least(cell, *more),
    ),
    "arg_max": _Family(list, _keep_most, lambda cell, more: _keep_most(cell, *more)),
    "arg_min": _Family(list, _keep_least, lambda cell, more: _keep_least(cell, *more)),
    "distinct": _Family(list, lambda cell, _, value, __: add_hash(cell, value_hash(value)), _merge_hashes),
    "buckets": _Family(dict, _add_to_buckets, _merge_buckets),
}

_TAKE_OUT: Final[dict[str, Callable[[Cell, Any], bool]]] = {
    "sums": _less_sums,
    "buckets": _less_buckets,
    "distinct": lambda _cell, _less: False,
    **dict.fromkeys(("first", "last", "min", "max", "arg_max", "arg_min"), _is_elsewhere),
}
"""By family: takes the cell of an older stretch out of a cell; False where that cannot be done."""

_READ: Final[dict[str, Callable[[Cell, Any], Any]]] = {
    "sum": lambda cell, _: float(cell[1]) * UNIT,
    "mean": lambda cell, _: float(cell[1]) * UNIT / cell[0],
    "var": lambda cell, _: variance(*cell),
    "std": lambda cell, _: sqrt(variance(*cell)),
    **dict.fromkeys(("first", "last", "min", "max", "arg_max", "arg_min"), lambda cell, _: cell[1]),
    "distinct": lambda cell, _: distinct_of(cell),
    "median": lambda cell, _: histogram_quantile(cell, 0.5),
    "quantile": histogram_quantile,
}
"""Each aggregate of a cell that is not empty."""


def _bytes(whole: int) -> bytes:
    return whole.to_bytes(whole.bit_length() // 8 + 1, "big", signed=True)


def _whole(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)
