"""Dead letters fit their topic, whatever was refused, and say what was cut."""

from __future__ import annotations

from hashlib import sha256

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from topics.headers import LETTER_BYTES_MIN, dead_letter, fitted, record_bytes
from topics.messages import Headers, Outgoing, Record

sizes = st.sampled_from([0, 1, 900, 1_024, 1_025, 5_000, 70_000])
names = st.sampled_from(["traceparent", "ümlaut", "x" * 2_000, "__streams.errors.exception"])


def letter_of(record: Record, message: str = "too large") -> Outgoing:
    reason = dead_letter(record, stage="decode", exception="ValueError", message=message)
    return Outgoing("dead-letters", None, record.key, record.value, reason, None)


def bytes_of(size: int | None) -> bytes | None:
    return None if size is None else b"x" * size


@given(
    key=st.none() | sizes,
    value=st.none() | sizes,
    headers=st.lists(st.tuples(names, sizes), max_size=4),
    message=st.text(max_size=2_000),
    bytes_max=st.integers(LETTER_BYTES_MIN, 100_000),
)
def test_a_letter_fits_and_says_why_and_what_is_missing(
    key: int | None, value: int | None, headers: list[tuple[str, int]], message: str, bytes_max: int
) -> None:
    came: Headers = tuple((name, b"h" * size) for name, size in headers)
    record = Record("t" * 249, 1 << 30, 1 << 60, 1 << 60, bytes_of(key), bytes_of(value), came)
    letter = letter_of(record, message)
    cut = fitted(letter, bytes_max)
    assert record_bytes(cut) <= bytes_max
    if record_bytes(letter) <= bytes_max:
        assert cut == letter
    said = dict(cut.headers)
    for name in ("exception", "message", "topic", "partition", "offset"):
        assert said[f"__streams.errors.{name}"] == dict(letter.headers)[f"__streams.errors.{name}"]
    assert said["headrace.errors.timestamp"] == b"%d" % (1 << 60)
    for name, whole, kept in (("key", record.key, cut.key), ("value", record.value, cut.value)):
        assert (whole is None) == (kept is None)
        assert (whole or b"").startswith(kept or b"")
        if kept != whole:
            assert said[f"headrace.errors.{name}-bytes"] == b"%d" % len(whole or b"")
            assert said[f"headrace.errors.{name}-sha256"] == sha256(whole or b"").hexdigest().encode()
    dropped = int(said.get("headrace.errors.headers-dropped", b"0"))
    kept_headers = cut.headers[: len(came) - dropped]
    assert kept_headers == came[: len(came) - dropped]


@given(key=st.none() | sizes, value=st.none() | sizes, headers=st.lists(st.tuples(names, sizes), max_size=4))
def test_a_record_is_no_larger_on_the_wire_than_it_is_counted(
    key: int | None, value: int | None, headers: list[tuple[str, int]]
) -> None:
    """The oracle is the batch that aiokafka builds of it."""
    sent = [(name, b"h" * size) for name, size in headers]
    batch = DefaultRecordBatchBuilder(
        2, 0, is_transactional=0, producer_id=1, producer_epoch=1, base_sequence=0, batch_size=1 << 30
    )
    batch.append(0, 1_700_000_000_000, key=bytes_of(key), value=bytes_of(value), headers=sent)
    out = Outgoing("dead-letters", None, bytes_of(key), bytes_of(value), tuple(sent), None)
    assert len(batch.build()) <= record_bytes(out)


def test_a_reason_that_quotes_what_was_refused_is_bounded() -> None:
    said = dict(letter_of(Record("t", 0, 0, None, None, b""), "x" * 70_000).headers)
    assert len(said["__streams.errors.message"]) == 1_024
    assert "headrace.errors.timestamp" not in said
