"""The scorer's half of watching: a sample of every row answered, by block of event time.

Lives here: which rows are in the sample, exact counts, when a block is closed, the sample of several
partitions.  Never here: what a block
means (`watcher.py`), claims and sequence numbers, topics.

    rows answered, labelled or not ---> the `rows_max` of each block with the smallest hash of their event id
    the watermark passes its end   ---> the block is closed and becomes one record; later rows are counted

The smallest hashes are a uniform sample without replacement (bottom-k; E. Cohen and H. Kaplan, "Summarizing
data using bottom-k sketches", 2007), the same whatever the batches, the order of rows or restarts, and those
of several partitions make that of all.  A row that is not sampled costs its hash and one comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import merge as merged_in_order
from itertools import compress, islice
from operator import itemgetter
from typing import Final
from zlib import crc32

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from operators.drift.watch import BLOCKS_OPEN_MAX, Watch
from operators.state import Changes, StateDelta, StateEntries
from topics.messages import Block, FeatureValue, FeatureValues, Score

__all__ = [
    "CATEGORY_CHARS_MAX",
    "CELLS_MAX",
    "HASH_MAX",
    "BlockSampler",
    "column_of",
    "hash_of",
    "merged_sample",
]

CELLS_MAX: Final = 25_000
"""Values of the features of one block's rows: its record must fit a message of Kafka's usual size, 1 MB."""
CATEGORY_CHARS_MAX: Final = 32
"""Of a text; those with the same beginning are one category."""
HASH_MAX: Final = (1 << 32) - 1
_MASK: Final = HASH_MAX
_MULTIPLIER: Final = 0x9E3779B1
"""Knuth's: CRC-32 is linear, so ids that are counted would be sampled in steps."""
_META: Final = "meta"
_PLACE = itemgetter(0, 1)


class _Row(Struct, array_like=True, gc=False):
    """A sampled row, as it is stored."""

    event_id: str
    features: FeatureValues
    score: Score
    key: str


_Entry = tuple[int, str, FeatureValues, Score, str]
"""Hash, event id, features, score, key of a row that may be in the sample."""


class _Counts(Struct, array_like=True):
    """Of one open block."""

    rows: int = 0
    served_by: dict[str, int] = {}
    bound: int = _MASK
    """Rows with a larger hash are not in the sample: where a key was erased, as before."""


class _Meta(Struct, array_like=True):
    closed: int | None = None
    """Number of the newest block that is closed, with rows or without; None before the first."""
    late: int = 0
    refused: dict[str, int] = {}


class _Open:
    """One open block."""

    __slots__ = ("bound", "counts", "rows", "rows_max", "stored")

    def __init__(self, counts: _Counts, rows_max: int) -> None:
        self.counts, self.rows_max = counts, rows_max
        self.rows: dict[str, _Entry] = {}
        """By event id; up to twice `rows_max`, those with the smallest hashes among them."""
        self.stored: set[str] = set()
        """Ids of the rows that an earlier delta or the restored state holds."""
        self.bound = counts.bound
        """Rows with a larger hash are not in the sample."""

    def add(self, event_id: str, entry: _Entry) -> None:
        """Take a row, unless it is there: an event that came twice is one row."""
        rows = self.rows
        if event_id not in rows:
            rows[event_id] = entry
            if len(rows) >= 2 * self.rows_max:
                self.sampled()

    def sampled(self) -> list[_Entry]:
        """Return the sample, the smallest hashes first, and drop all other rows."""
        ordered = sorted(self.rows.values(), key=_PLACE)[: self.rows_max]
        if len(ordered) == self.rows_max:
            self.bound = ordered[-1][0]
        if len(ordered) < len(self.rows):
            self.rows = {entry[1]: entry for entry in ordered}
        return ordered


class BlockSampler:
    """The sample of one partition.

    `features` is how many features a row has: it bounds the rows that a record can hold.

    >>> sampler = BlockSampler(Watch(rows_max=50), features=1)
    >>> day = 86_400_000
    >>> sampler.take(["a", "b"], ["k", "k"], [0, 5], [{"x": 1.0}, {}], [0.5, 0.25], ["champion", "prior"])
    >>> sampler.close(watermark=day - 1)
    []
    >>> (block,) = sampler.close(watermark=day)
    >>> block.rows, block.features, block.served_by
    (2, {'x': [None, 1.0]}, {'champion': 1, 'prior': 1})
    """

    def __init__(self, watch: Watch, features: int) -> None:
        self._block_ms = watch.block_ms
        self._rows_max = max(1, min(watch.rows_max, CELLS_MAX // max(features, 1)))
        self._clear()

    def _clear(self) -> None:
        self._open: dict[int, _Open] = {}
        self._meta = _Meta()
        self._gone: list[tuple[int, str]] = []
        """Stored rows of blocks that are closed; the next delta removes them."""
        self._counts: Changes[int] = Changes()
        self._meta_changed = True

    @property
    def next_deadline(self) -> int | None:
        """Return the watermark at which the oldest open block is closed, ms; None where none is open."""
        return (min(self._open) + 1) * self._block_ms if self._open else None

    def take(
        self,
        event_ids: Sequence[str],
        keys: Sequence[str],
        times: Sequence[int],
        features: Sequence[FeatureValues],
        scores: Sequence[Score],
        served_by: Sequence[str],
    ) -> None:
        """Take a batch of answered rows, in the order of their events.  The rows are not copied."""
        rows = list(zip(event_ids, features, scores, keys, strict=True))
        numbers = [time // self._block_ms for time in times]
        for number in sorted(set(numbers)):
            chosen = [one == number for one in numbers]
            whole = all(chosen)
            self._take(
                number,
                rows if whole else list(compress(rows, chosen)),
                served_by if whole else list(compress(served_by, chosen)),
            )

    def _take(
        self, number: int, rows: Sequence[tuple[str, FeatureValues, Score, str]], served_by: Sequence[str]
    ) -> None:
        """Take rows of one block."""
        if self._meta.closed is not None and number <= self._meta.closed:
            self._meta.late += len(rows)
            self._meta_changed = True
            return
        block = self._block(number)
        counts = block.counts
        counts.rows += len(rows)
        for by in set(served_by):
            counts.served_by[by] = counts.served_by.get(by, 0) + served_by.count(by)
        for row in rows:
            event_id, values, score, key = row
            place = crc32(event_id.encode()) * _MULTIPLIER & _MASK
            place ^= place >> 15  # written out: a call would cost as much as all the rest
            if place <= block.bound:
                block.add(event_id, (place, event_id, values, score, key))

    def erase(self, key: str) -> int:
        """Take the rows of a key out of the samples of blocks that are open; return how many.

        They stay counted, and no other rows take their place.
        """
        erased = 0
        for number, block in self._open.items():
            gone = [entry[1] for entry in block.sampled() if entry[4] == key]
            if not gone:
                continue
            for event_id in gone:
                del block.rows[event_id]
            block.counts.bound = block.bound
            self._counts.change(number)
            erased += len(gone)
        return erased

    def refuse(self, reason: str, count: int = 1) -> None:
        """Count events or labels that were refused; they go with the block that is closed next."""
        self._meta.refused[reason] = self._meta.refused.get(reason, 0) + count
        self._meta_changed = True

    def close(self, watermark: int) -> list[Block]:
        """Close the blocks that the watermark (ms) has passed, oldest first."""
        due = sorted(self._open)
        first = watermark // self._block_ms
        if len(due) > BLOCKS_OPEN_MAX:
            first = max(first, due[-BLOCKS_OPEN_MAX])
        closed = [self._close(number) for number in due if number < first]
        if self._meta.closed is None or self._meta.closed < first - 1:
            self._meta.closed, self._meta_changed = first - 1, True
        return closed

    def _block(self, number: int) -> _Open:
        block = self._open.get(number)
        if block is None:
            block = self._open[number] = _Open(_Counts(), self._rows_max)
            self._counts.add(number)
        self._counts.change(number)
        return block

    def _close(self, number: int) -> Block:
        block = self._open.pop(number)
        meta = self._meta
        ordered = block.sampled()
        closed = Block(
            number,
            number * self._block_ms,
            (number + 1) * self._block_ms,
            block.counts.rows,
            meta.late,
            dict(sorted(meta.refused.items())),
            dict(sorted(block.counts.served_by.items())),
            [entry[0] for entry in ordered],
            _columns([entry[2] for entry in ordered]),
            [entry[3] for entry in ordered],
        )
        self._gone += [(number, event_id) for event_id in block.stored]
        self._counts.remove(number)
        newest = number if meta.closed is None else max(number, meta.closed)
        self._meta, self._meta_changed = _Meta(newest), True
        return closed

    # -- state -----------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        entries = {_META: msgspec.msgpack.encode(self._meta)}
        for number, block in self._open.items():
            entries[_counts_name(number)] = msgspec.msgpack.encode(block.counts)
            entries |= {_row_name((number, entry[1])): _encoded(entry) for entry in block.sampled()}
        return entries

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call: a sampled row is written once."""
        delta: StateDelta = dict.fromkeys(map(_row_name, self._gone))
        self._gone = []
        for number, block in self._open.items():
            sample = block.sampled()
            if len(block.rows) == len(block.stored) and block.stored == block.rows.keys():
                continue
            delta |= dict.fromkeys(_row_name((number, one)) for one in block.stored - block.rows.keys())
            for entry in sample:
                if entry[1] not in block.stored:
                    delta[_row_name((number, entry[1]))] = _encoded(entry)
            block.stored = set(block.rows)
        counts = {number: block.counts for number, block in self._open.items()}
        delta |= self._counts.delta(counts, _counts_name, msgspec.msgpack.encode)
        if self._meta_changed:
            self._meta_changed = False
            delta[_META] = msgspec.msgpack.encode(self._meta)
        return delta

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._clear()
        rows: list[tuple[int, _Row]] = []
        for name, data in entries.items():
            kind, _, rest = name.partition("/")
            if kind == _META:
                self._meta = msgspec.msgpack.decode(data, type=_Meta)
            elif kind == "block":
                counts = msgspec.msgpack.decode(data, type=_Counts)
                self._open[int(rest)] = _Open(counts, self._rows_max)
            else:
                rows.append((int(rest.partition("/")[0]), msgspec.msgpack.decode(data, type=_Row)))
        for number, row in rows:
            entry = (hash_of(row.event_id), row.event_id, row.features, row.score, row.key)
            self._open[number].add(row.event_id, entry)
            self._open[number].stored.add(row.event_id)
        self._counts.clear()
        self._meta_changed = _META not in entries


def merged_sample(parts: Sequence[Block], rows_max: int) -> Block:
    """Return the blocks of several partitions as one: the rows with the smallest hashes of all."""
    if len(parts) == 1:
        return parts[0]
    ordered = merged_in_order(
        *([(place, part, row) for row, place in enumerate(one.hashes)] for part, one in enumerate(parts))
    )
    chosen = list(islice(ordered, rows_max))
    names = sorted({name for one in parts for name in one.features})
    columns: dict[str, list[FeatureValue | None]] = {}
    for name in names:
        by_part = [column_of(one, name) for one in parts]
        columns[name] = [by_part[part][row] for _, part, row in chosen]
    scores: list[Score] = [parts[part].scores[row] for _, part, row in chosen]
    refused: dict[str, int] = {}
    for one in parts:
        for reason, count in one.refused.items():
            refused[reason] = refused.get(reason, 0) + count
    return replace(
        parts[0],
        rows=sum(one.rows for one in parts),
        refused=refused,
        hashes=[place for place, _, _ in chosen],
        features=columns,
        scores=scores,
        source_partition=-1,
    )


def column_of(block: Block, name: str) -> Sequence[FeatureValue | None]:
    """Return the sampled rows' values of a feature."""
    return block.features.get(name) or [None] * len(block.hashes)


def hash_of(event_id: str) -> int:
    """Return the hash by which rows are sampled."""
    place = crc32(event_id.encode()) * _MULTIPLIER & _MASK
    return place ^ place >> 15


def _columns(rows: Sequence[FeatureValues]) -> dict[str, list[FeatureValue | None]]:
    """Return rows side by side, by name; None where a row lacks a feature."""
    names = sorted(set[str]().union(*rows))
    if not names:
        return {}
    try:
        columns: Iterable[Sequence[FeatureValue | None]] = zip(
            *map(itemgetter(*names, names[-1]), rows), strict=True
        )
    except KeyError:
        columns = ([row.get(name) for row in rows] for name in names)
    return {name: _cells(column) for name, column in zip(names, columns, strict=False)}


def _cells(column: Sequence[FeatureValue | None]) -> list[FeatureValue | None]:
    if str not in set(map(type, column)):
        return list(column)
    return [value[:CATEGORY_CHARS_MAX] if isinstance(value, str) else value for value in column]


def _counts_name(number: int) -> str:
    return f"block/{number}"


def _row_name(row: tuple[int, str]) -> str:
    return f"row/{row[0]}/{row[1]}"


def _encoded(entry: _Entry) -> bytes:
    return msgspec.msgpack.encode(_Row(*entry[1:]))
