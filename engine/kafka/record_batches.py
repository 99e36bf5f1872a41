"""Batches of a fetch, unpacked within bounds; one that is damaged or a bomb does not end the reading.

Lives here: what aiokafka does with the bytes of a fetch, in its place.  Never here: which records count,
what a record means.

Strategy: a topic's limit counts compressed bytes, and 1 MB on the wire can be 1 GB in memory.  aiokafka
0.14 unpacks a batch whole, without a bound and without a hook, and what it cannot read it raises at every
try.  So the two names by which it finds its codecs and its reader of batches are set to ours:

- a batch that unpacks to more than BATCH_BYTES_MAX, or cannot be unpacked, is one record without key and
  value at the batch's last offset, with the reason in a header: a dead letter like any other;
- a batch with a header whose name is not UTF-8, which brokers take, is read record by record, leniently;
- what is left of a fetch that has unpacked to more than FETCH_BYTES_MAX is fetched again.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint

from topics.headers import UNREADABLE

__all__ = ["BATCH_BYTES_MAX", "FETCH_BYTES_MAX", "install_bounded_batches"]

BATCH_BYTES_MAX = 67_108_864
"""Producers make batches of some 10 kB to 1 MB, before compression."""
FETCH_BYTES_MAX = 67_108_864
"""Of one partition; the batch that passes it is still handed out."""
LENGTH_AT, LENGTH_BYTES = 8, 12
"""In a batch: where its length stands, and how much of it the length does not count."""
HEADER_BYTES = 61
COUNT_AT = 57

Unpack = Callable[[Any], bytes]


class _UnreadableError(Exception):
    """A batch that cannot be unpacked, or must not be."""


class _Record(NamedTuple):
    """A record as aiokafka's fetcher wants it."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    checksum: None = None


def install_bounded_batches() -> None:
    """Make every consumer of this process read batches in this way.  May be called more than once."""
    codecs = sys.modules[DefaultRecordBatch.__module__]
    for name, unpack in (
        ("gzip_decode", _gunzip),
        ("snappy_decode", _unsnap),
        ("lz4_decode", _with_buffer("lz4")),
        ("zstd_decode", _with_buffer("zstd")),
    ):
        assert hasattr(codecs, name), f"aiokafka finds {name} elsewhere"
        setattr(codecs, name, _guarded(unpack))
    assert hasattr(fetcher, "MemoryRecords"), "aiokafka finds MemoryRecords elsewhere"
    fetcher.MemoryRecords = _Batches


# -- batches ----------------------------------------------------------------------------------------


class _Batches:
    """The batches of one fetch of one partition."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._inner = MemoryRecords(data)
        self.size_in_bytes = self._inner.size_in_bytes
        self.unpacked = 0

    def has_next(self) -> bool:
        return self.unpacked <= FETCH_BYTES_MAX and bool(self._inner.has_next())

    def next_batch(self) -> Any:
        batch = self._inner.next_batch()
        return _Batch(batch, self) if type(batch) is DefaultRecordBatch else batch

    def raw(self, base_offset: int) -> bytes:
        """Return the bytes of the batch that begins with this offset."""
        at, data = 0, self._data
        while True:
            end = at + LENGTH_BYTES + int.from_bytes(data[at + LENGTH_AT : at + LENGTH_BYTES], "big")
            if int.from_bytes(data[at : at + LENGTH_AT], "big") == base_offset:
                return bytes(data[at:end])
            at = end


class _Batch:
    """One batch whose records are read all at once, or stand in for; with the attributes of aiokafka's."""

    __slots__ = (
        "_batches",
        "_inner",
        "base_offset",
        "is_control_batch",
        "is_transactional",
        "next_offset",
        "producer_id",
        "validate_crc",
    )

    def __init__(self, inner: Any, batches: _Batches) -> None:
        self._inner = inner
        self._batches = batches
        # Each is asked for once or more: a look through `__getattr__` would cost more than a record.
        self.base_offset = inner.base_offset
        self.next_offset = inner.next_offset
        self.producer_id = inner.producer_id
        self.is_control_batch = inner.is_control_batch
        self.is_transactional = inner.is_transactional
        self.validate_crc = inner.validate_crc

    def __iter__(self) -> Iterator[Any]:
        inner = self._inner
        try:
            records: list[Any] = list(inner)
        except _UnreadableError as error:
            records = [self._stand_in(str(error))]
        except (CorruptRecordException, ValueError) as error:
            records = self._leniently(str(error))
        if inner.compression_type:
            self._batches.unpacked += sum([len(record.value or b"") for record in records])
        return iter(records)

    def __next__(self) -> Any:
        """Return the marker of a control batch, which is not iterated."""
        return next(self._inner)

    def _stand_in(self, reason: str) -> _Record:
        inner = self._inner
        first, last = inner.base_offset, inner.next_offset - 1
        said = f"the batch of offsets {first} to {last} {reason}"
        return _Record(
            last, inner.max_timestamp, inner.timestamp_type, None, None, ((UNREADABLE, said.encode()),)
        )

    def _leniently(self, reason: str) -> list[Any]:
        try:
            return list(_lenient(self._batches.raw(self.base_offset), self._inner))
        except (_UnreadableError, ValueError, IndexError):
            return [self._stand_in(f"is damaged: {reason}")]


def _lenient(raw: bytes, batch: Any) -> Iterator[_Record]:
    """Read the records of a batch whatever the names of headers are.

    Raises _UnreadableError, ValueError or IndexError for a batch that is damaged otherwise.
    """
    unpack = _UNPACK.get(batch.compression_type)
    data = bytearray(raw[HEADER_BYTES:] if unpack is None else _guarded(unpack)(raw[HEADER_BYTES:]))
    at = 0
    for _ in range(int.from_bytes(raw[COUNT_AT:HEADER_BYTES], "big")):
        length, at = decode_varint(data, at)
        end = at + length
        _, at = decode_varint(data, at)  # attributes
        later_ms, at = decode_varint(data, at)
        number, at = decode_varint(data, at)
        key, at = _bytes(data, at)
        value, at = _bytes(data, at)
        count, at = decode_varint(data, at)
        headers = []
        for _ in range(count):
            name, at = _bytes(data, at)
            data_of, at = _bytes(data, at)
            headers.append(((name or b"").decode(errors="replace"), data_of))
        if at != end:
            raise ValueError("a record is longer or shorter than it says")
        timestamp = batch.max_timestamp if batch.timestamp_type else batch.first_timestamp + later_ms
        yield _Record(batch.base_offset + number, timestamp, batch.timestamp_type, key, value, tuple(headers))


def _bytes(data: bytearray, at: int) -> tuple[bytes | None, int]:
    size, at = decode_varint(data, at)
    if size < 0:
        return None, at
    if at + size > len(data):
        raise IndexError("a record ends behind its batch")
    return bytes(data[at : at + size]), at + size


# -- codecs -----------------------------------------------------------------------------------------


def _guarded(unpack: Unpack) -> Unpack:
    """Return a codec that raises _UnreadableError alone, for what it cannot read and beyond the bound."""

    def guarded(payload: Any) -> bytes:
        try:
            return unpack(payload)
        except (ValueError, OSError, EOFError, zlib.error, IndexError) as error:
            raise _UnreadableError(f"cannot be unpacked: {error}") from None

    return guarded


def _bounded(size: int) -> None:
    if size > BATCH_BYTES_MAX:
        raise _UnreadableError(f"unpacks to more than {BATCH_BYTES_MAX} bytes")


def _gunzip(payload: Any) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(payload)) as file:
        data = file.read(BATCH_BYTES_MAX + 1)
    _bounded(len(data))
    return data


def _unsnap(payload: Any) -> bytes:
    """Unpack one block, or xerial's stream of them; each begins with its unpacked size."""
    import cramjam  # noqa: PLC0415

    data = memoryview(payload)
    if not codec._detect_xerial_stream(payload):
        _bounded(cramjam.snappy.decompress_raw_len(data))
        return bytes(cramjam.snappy.decompress_raw(data))
    at, size, parts = 16, 0, []
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        block = data[at + 4 : end]
        size += cramjam.snappy.decompress_raw_len(block)
        _bounded(size)
        parts.append(bytes(cramjam.snappy.decompress_raw(block)))
        at = end
    return b"".join(parts)


def _with_buffer(name: str) -> Unpack:
    """Return a codec that unpacks into a buffer: tried small first, as nearly all batches are."""

    def unpack(payload: Any) -> bytes:
        import cramjam  # noqa: PLC0415

        data, into = bytes(payload), getattr(cramjam, name).decompress_into
        size = max(16 * len(data), 65_536)
        while True:
            size = min(size, BATCH_BYTES_MAX)
            buffer = bytearray(size)
            try:
                return bytes(memoryview(buffer)[: into(data, buffer)])
            except cramjam.DecompressionError as error:
                if "whole buffer" not in str(error):
                    raise ValueError(str(error)) from None
                if size == BATCH_BYTES_MAX:
                    _bounded(size + 1)
            size *= 4

    return unpack


_UNPACK: dict[int, Unpack] = {
    1: _gunzip,
    2: _unsnap,
    3: _with_buffer("lz4"),
    4: _with_buffer("zstd"),
}
"""By the number in a batch's attributes."""
