"""Batches that are bombs or damaged become one record with the reason; all others are read as they were."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record._crc32c import crc
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kafka import record_batches as unpacking
from engine.kafka.record_batches import BATCH_BYTES_MAX, FETCH_BYTES_MAX, install_bounded_batches

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
TIME = 1_700_000_000_000


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    before = fetcher.MemoryRecords
    install_bounded_batches()
    yield
    fetcher.MemoryRecords = before


def batch(
    values: list[bytes | None],
    *,
    base: int = 0,
    codec: str = "none",
    transactional: bool = False,
    **record: Any,
) -> bytes:
    builder = DefaultRecordBatchBuilder(
        2,
        CODECS[codec],
        is_transactional=transactional,
        producer_id=1,
        producer_epoch=1,
        base_sequence=0,
        batch_size=1 << 30,
    )
    for number, value in enumerate(values):
        given = {"key": b"k", "headers": []} | record
        assert builder.append(number, TIME + number, value=value, **given) is not None
    data = bytearray(builder.build())
    data[:8] = base.to_bytes(8, "big")
    return bytes(data)


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    """Replace bytes of an uncompressed batch and mend its checksum."""
    assert data.count(old) == 1
    changed = bytearray(data.replace(old, new))
    changed[17:21] = crc(bytes(changed[21:])).to_bytes(4, "big")
    return bytes(changed)


def read(data: bytes, offset: int = 0) -> tuple[list[Any], int]:
    """Return what aiokafka's fetcher makes of the bytes of a fetch, and where it would read on."""
    records = fetcher.PartitionRecords(
        TopicPartition("t", 0), fetcher.MemoryRecords(data), [], offset, None, None, True, 1
    )
    return list(records), records.next_fetch_offset


@settings(deadline=None)
@given(
    st.lists(st.lists(st.none() | st.binary(max_size=300), min_size=1, max_size=5), min_size=1, max_size=4),
    st.sampled_from(list(CODECS)),
)
def test_what_is_readable_is_read_as_ever(batches: list[list[bytes | None]], codec: str) -> None:
    values = [value for one in batches for value in one]
    data, base = b"", 0
    for one in batches:
        data += batch(one, base=base, codec=codec, headers=[("h", b"1")])
        base += len(one)
    found, then = read(data)
    assert [(one.offset, one.value, one.key, one.headers) for one in found] == [
        (offset, value, b"k", (("h", b"1"),)) for offset, value in enumerate(values)
    ]
    assert then == base


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_bomb_is_one_record_that_says_so_and_takes_bounded_memory(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "BATCH_BYTES_MAX", 1_000_000)
    bomb = batch([b"x" * 20_000_000, b"y"], base=1, codec=codec)
    data = batch([b"before"]) + bomb + batch([b"after"], base=3)
    tracemalloc.start()
    found, then = read(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6_000_000 + 2 * len(data)
    assert [(one.offset, one.value) for one in found] == [(0, b"before"), (2, None), (3, b"after")]
    ((name, said),) = found[1].headers
    assert name == "headrace.errors.unreadable"
    assert said == b"the batch of offsets 1 to 2 unpacks to more than 1000000 bytes"
    assert then == 4


def test_a_value_up_to_the_bound_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "BATCH_BYTES_MAX", 1_000_000)
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        ((one,), _) = read(batch([b"x" * 999_900], codec=codec))
        assert one.value == b"x" * 999_900


def test_a_fetch_of_many_bombs_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "FETCH_BYTES_MAX", 250_000)
    data = b"".join(batch([b"x" * 100_000], base=number, codec="gzip") for number in range(9))
    found, then = read(data)
    assert (len(found), then) == (3, 3)


def test_a_header_whose_name_is_no_text_is_read_all_the_same() -> None:
    """Brokers take it, and aiokafka raises at every try."""
    named = batch([b"1"], headers=[("zz", b"v"), ("null", None)], key=None)
    odd = patched(named, b"zz", b"\xff\xfe")
    found, then = read(odd + batch([b"after"], base=1))
    assert [(one.offset, one.key, one.value, one.timestamp) for one in found] == [
        (0, None, b"1", TIME),
        (1, b"k", b"after", TIME),
    ]
    assert found[0].headers == (("\ufffd\ufffd", b"v"), ("null", None))
    assert then == 2


def test_a_damaged_batch_is_one_record_that_says_so() -> None:
    damaged = patched(batch([b"value"]), b"\x0avalue", b"\x7evalue")
    found, then = read(damaged + batch([b"after"], base=1))
    assert [(one.offset, one.value) for one in found] == [(0, None), (1, b"after")]
    assert found[0].headers[0][1].startswith(b"the batch of offsets 0 to 0 is damaged")
    assert then == 2


def test_a_takeover_in_the_middle_of_a_batch_goes_on_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "BATCH_BYTES_MAX", 1_000_000)
    data = batch([b"x" * 2_000_000, b"y"], codec="gzip")
    assert [one.offset for one in read(data, offset=1)[0]] == [1]
    assert read(data, offset=1)[1] == 2


@pytest.mark.parametrize("aborted", [True, False])
def test_transactions_are_read_as_ever(*, aborted: bool) -> None:
    """What was aborted is left out up to its marker, and no marker is handed out."""
    told = batch([b"in doubt"], transactional=True)
    marker = bytearray(batch([b""], base=1, transactional=True, key=bytes([0, 0, 0, 0 if aborted else 1])))
    marker[22] |= 0x20
    marker[17:21] = crc(bytes(marker[21:])).to_bytes(4, "big")
    data = told + bytes(marker) + batch([b"after"], base=2, transactional=True)
    records = fetcher.PartitionRecords(
        TopicPartition("t", 0),
        fetcher.MemoryRecords(data),
        [(1, 0)] if aborted else [],
        0,
        None,
        None,
        True,
        1,
    )
    assert [one.value for one in records] == ([] if aborted else [b"in doubt"]) + [b"after"]
    assert records.next_fetch_offset == 3


def test_the_bounds_are_larger_than_what_producers_send() -> None:
    assert min(BATCH_BYTES_MAX, FETCH_BYTES_MAX) >= 64 * 1_048_576
