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

from collections.abc import Mapping, Sequence
from heapq import heapify, heappush, heappushpop
from heapq import merge as merged_in_order
from itertools import islice
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


class _Row(Struct, array_like=True, gc=False):
    """A sampled row."""

    event_id: str
    features: FeatureValues
    score: Score
    key: str


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

    __slots__ = ("bound", "counts", "heap", "ids")

    def __init__(self, counts: _Counts) -> None:
        self.counts = counts
        self.heap: list[tuple[int, str, _Row]] = []
        """(minus hash, event id, row), the largest hash first."""
        self.ids: set[str] = set()
        """Of the rows in the heap."""
        self.bound = counts.bound
        """Rows with a larger hash are not in the sample."""


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
        self._rows: Changes[tuple[int, str]] = Changes()
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
        block_ms, closed = self._block_ms, self._meta.closed
        number, block = -1, None
        for event_id, key, time, row, score, by in zip(
            event_ids, keys, times, features, scores, served_by, strict=True
        ):
            if time // block_ms != number or block is None:
                number = time // block_ms
                if closed is not None and number <= closed:
                    self._meta.late += 1
                    self._meta_changed, block = True, None
                    continue
                block = self._block(number)
            counts = block.counts
            counts.rows += 1
            counts.served_by[by] = counts.served_by.get(by, 0) + 1
            place = crc32(event_id.encode()) * _MULTIPLIER & _MASK
            place ^= place >> 15  # written out: a call would cost as much as all the rest
            if place <= block.bound:
                self._sample(number, block, place, _Row(event_id, row, score, key))

    def erase(self, key: str) -> int:
        """Take the rows of a key out of the samples of blocks that are open; return how many.

        They stay counted, and no other rows take their place.
        """
        erased = 0
        for number, block in self._open.items():
            gone = {row.event_id for _, _, row in block.heap if row.key == key}
            if not gone:
                continue
            block.heap = [entry for entry in block.heap if entry[1] not in gone]
            heapify(block.heap)
            block.ids -= gone
            block.counts.bound = block.bound
            self._counts.change(number)
            for event_id in gone:
                self._rows.remove((number, event_id))
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
            block = self._open[number] = _Open(_Counts())
            self._counts.add(number)
        self._counts.change(number)
        return block

    def _sample(self, number: int, block: _Open, place: int, row: _Row) -> None:
        event_id, entry = row.event_id, (-place, row.event_id, row)
        if event_id in block.ids:
            return  # an event that came twice is one row
        if len(block.heap) < self._rows_max:
            heappush(block.heap, entry)
        else:
            gone = heappushpop(block.heap, entry)[1]
            if gone == event_id:
                return
            block.ids.discard(gone)
            self._rows.remove((number, gone))
        block.ids.add(event_id)
        self._rows.add((number, event_id))
        if len(block.heap) == self._rows_max:
            block.bound = -block.heap[0][0]

    def _close(self, number: int) -> Block:
        block = self._open.pop(number)
        meta = self._meta
        ordered = sorted(block.heap, key=lambda one: (-one[0], one[1]))
        names = sorted({name for _, _, row in ordered for name in row.features})
        closed = Block(
            number,
            number * self._block_ms,
            (number + 1) * self._block_ms,
            block.counts.rows,
            meta.late,
            dict(sorted(meta.refused.items())),
            dict(sorted(block.counts.served_by.items())),
            [-one[0] for one in ordered],
            {name: [_cell(row.features.get(name)) for _, _, row in ordered] for name in names},
            [row.score for _, _, row in ordered],
        )
        for _, event_id, _ in block.heap:
            self._rows.remove((number, event_id))
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
            entries |= {_row_name((number, row.event_id)): _encoded(row) for _, _, row in block.heap}
        return entries

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call: a sampled row is written once."""
        rows: Mapping[tuple[int, str], _Row] = {
            (number, row.event_id): row for number, block in self._open.items() for _, _, row in block.heap
        }
        counts = {number: block.counts for number, block in self._open.items()}
        delta = self._rows.delta(rows, _row_name, _encoded)
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
                self._open[int(rest)] = _Open(msgspec.msgpack.decode(data, type=_Counts))
            else:
                rows.append((int(rest.partition("/")[0]), msgspec.msgpack.decode(data, type=_Row)))
        for number, row in rows:
            self._sample(number, self._open[number], hash_of(row.event_id), row)
        self._rows.clear()
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


def _cell(value: FeatureValue | None) -> FeatureValue | None:
    return value[:CATEGORY_CHARS_MAX] if isinstance(value, str) else value


def _counts_name(number: int) -> str:
    return f"block/{number}"


def _row_name(row: tuple[int, str]) -> str:
    return f"row/{row[0]}/{row[1]}"


def _encoded(row: _Row) -> bytes:
    return msgspec.msgpack.encode(row)
